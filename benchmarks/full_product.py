"""Right masks at full size: `make full`.

Masks a full product (of ../shared where present, else a synthetic one of 10980 pixels) with csmask through the local
Triton, validates the Cloud Optimized GeoTIFF, and compares the mask with labels: Sen2Cor's scene classification
(cloud is SCL 8, 9 and 10) or the synthetic truth. Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from end_to_end import WORK, find_product
from rio_cogeo.cogeo import cog_validate


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path, nargs="?", help="SAFE directory")
    parser.add_argument("--least-precision", type=float, default=0.80)
    parser.add_argument("--least-recall", type=float, default=0.95)
    arguments = parser.parse_args()
    product = find_product(arguments.product).resolve()
    result = command("run", product, "--model", "csmask", "--output", WORK / "full-masks", "--overwrite")
    labels, crosswalk = labels_of(product)
    scores = command("evaluate", result["output"], labels, "--crosswalk", crosswalk)
    # The truth of a synthetic scene holds thin cirrus, for which csmask has no class: only thick cloud is asked for.
    cloud = scores["any_cloud"] if crosswalk == "scl" else scores["classes"]["CLOUD"]
    valid, errors, warnings = cog_validate(result["output"], strict=True)
    print(f"{result['product']}: {result['status']}, {result['tiles']} tiles, {result['seconds']} s")
    print(f"cloud against {labels.name}: precision {cloud['precision']:.4f}, recall {cloud['recall']:.4f}")
    print(f"COG valid (strict): {valid} {errors} {warnings}; peak RSS {result['peak_rss_bytes'] / 1e6:.0f} MB")
    print(f"mask: {result['output']}\nquicklook: {result['quicklook']}")
    good = cloud["precision"] >= arguments.least_precision and cloud["recall"] >= arguments.least_recall
    raise SystemExit(0 if good and valid else 1)


if __name__ == "__main__":
    main()
