"""Right masks at full size: `make full [WEIGHTS=…]`.

Masks a full product (of ../shared where present, else a synthetic one of 10980 pixels) through the local Triton,
validates the Cloud Optimized GeoTIFF, and compares the mask with what is known. Ends with 1 where a goal is missed.

* **csmask** against labels: Sen2Cor's scene classification (cloud is SCL 8, 9 and 10) or the synthetic truth.
* **KappaMask** (with ``--weights``), ``--radiometry km_predict --mosaic crop``, against km_predict's own classes where
  the golden tiles of ../shared are of these weights: the cores of the tiles, as they lie in the mosaic.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from end_to_end import SHARED, WORK, find_product
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

#: km_predict's grid, pixels of 10 m.
TILE, MARGIN, STRIDE = 512, 16, 480
LEAST_EQUAL = 0.999


def command(*arguments: object) -> dict[str, Any]:
    """Run the command line with ``--json`` and return the object that it prints."""
    line = [sys.executable, "-m", "kappamask_stream", *map(str, arguments), "--json"]
    ended = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def labels_of(product: Path) -> tuple[Path, str]:
    """Return the labels that lie in or beside a product, and what their values mean."""
    truth = product.with_name(f"{product.stem}_truth_10m.tif")
    if truth.exists():
        return truth, "kappamask"
    found = next(product.glob("GRANULE/*/IMG_DATA/R20m/*_SCL_20m.jp2"), None)
    if found is None:
        raise SystemExit(f"{product} has neither SCL_20m nor a truth beside it: nothing to compare with")
    return found, "scl"


def check_csmask(product: Path, result: dict[str, Any], least_precision: float, least_recall: float) -> bool:
    """Compare with labels; returns whether the goals are reached."""
    labels, crosswalk = labels_of(product)
    scores = command("evaluate", result["output"], labels, "--crosswalk", crosswalk)
    # The truth of a synthetic scene holds thin cirrus, for which csmask has no class: only thick cloud is asked for.
    cloud = scores["any_cloud"] if crosswalk == "scl" else scores["classes"]["CLOUD"]
    print(f"cloud against {labels.name}: precision {cloud['precision']:.4f}, recall {cloud['recall']:.4f}")
    return bool(cloud["precision"] >= least_precision and cloud["recall"] >= least_recall)


def check_golden(result: dict[str, Any], weights: Path) -> bool:
    """Compare the cores of km_predict's golden tiles; returns whether 99.9 % of each are equal."""
    folder = SHARED / "data" / "kappamask"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    index = folder / "index.json"
    if not index.exists() or json.loads(index.read_text())["weights_sha256"] != digest:
        print("no golden tiles of these weights: the classes were compared with nothing")
        return False
    worst = 1.0
    with rasterio.open(result["output"]) as mask:
        for path in sorted(folder.glob("tile_*_output.npz")):
            col, row = (int(part) for part in path.stem.split("_")[1:3])
            top, left = (MARGIN if k else 0 for k in (row, col))
            bottom, right = (min(TILE - MARGIN, mask.height - STRIDE * k) for k in (row, col))
            # The last tiles keep their outer edge.
            bottom, right = (
                min(TILE, mask.height - STRIDE * k) if STRIDE * k + TILE >= mask.height else end
                for k, end in ((row, bottom), (col, right))
            )
            window = Window(STRIDE * col + left, STRIDE * row + top, right - left, bottom - top)
            expected = np.load(path)["argmax"][top:bottom, left:right]
            equal = float((mask.read(1, window=window) == expected).mean())
            worst = min(worst, equal)
            print(f"tile row {row:2}, col {col:2}: {equal:.6f} of {expected.size} pixels are km_predict's class")
    return worst >= LEAST_EQUAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path, nargs="?", help="SAFE directory")
    parser.add_argument("--weights", type=Path, help="KappaMask weights (Keras HDF5); without, csmask is checked")
    parser.add_argument("--least-precision", type=float, default=0.80)
    parser.add_argument("--least-recall", type=float, default=0.95)
    arguments = parser.parse_args()
    product = find_product(arguments.product).resolve()
    options = ["--model", "csmask"]
    if arguments.weights:
        options = ["--weights", arguments.weights, "--radiometry", "km_predict", "--mosaic", "crop"]
    result = command("run", product, *options, "--output", WORK / "full-masks", "--overwrite")
    print(f"{result['product']}: {result['status']}, {result['tiles']} tiles, {result['seconds']} s")
    if arguments.weights:
        good = check_golden(result, arguments.weights)
    else:
        good = check_csmask(product, result, arguments.least_precision, arguments.least_recall)
    valid, errors, warnings = cog_validate(result["output"], strict=True)
    print(f"COG valid (strict): {valid} {errors} {warnings}; peak RSS {result['peak_rss_bytes'] / 1e6:.0f} MB")
    print(f"mask: {result['output']}\nquicklook: {result['quicklook']}")
    raise SystemExit(0 if good and valid else 1)


if __name__ == "__main__":
    main()
