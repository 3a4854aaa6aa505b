"""Cut stand-alone codestream tiles out of a product, as the client decodes them, into one file for `jpeg2000.py`.

Run in the client's environment::

    .venv/bin/python benchmarks/gpu/codestreams.py PRODUCT.SAFE codestreams.npz [--tiles 24] [--files 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kappamask_stream.jp2 import CodestreamIndex, index_steps
from kappamask_stream.jp2.standalone import standalone_codestream

#: Bands per resolution, as KappaMask reads them.
_BANDS = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12"), 60: ("B01", "B09")}


def cut(path: Path) -> tuple[CodestreamIndex, list[tuple[bytes, int, int]]]:
    """Return a file's index, and the codestream, height and width of each of its tiles."""
    data = path.read_bytes()
    steps = index_steps(path.name, len(data))
    start, length = next(steps)
    while True:
        try:
            start, length = steps.send(data[start : start + length])
        except StopIteration as done:
            index = done.value
            break
    return index, [
        (
            standalone_codestream(index, tile, [data[start : start + length] for start, length in tile.parts]),
            tile.window.height,
            tile.window.width,
        )
        for tile in index.tiles
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--tiles", type=int, default=24, help="of each resolution, largest first (default 24)")
    parser.add_argument("--files", type=int, default=1, help="whole files of each resolution (default 1)")
    arguments = parser.parse_args()
    arrays: dict[str, np.ndarray] = {}
    for gsd_m, bands in _BANDS.items():
        found: list[tuple[bytes, int, int]] = []
        files = [p for b in bands for p in arguments.product.glob(f"GRANULE/*/IMG_DATA/R{gsd_m}m/*_{b}_{gsd_m}m.jp2")]
        for number, path in enumerate(files):
            index, tiles = cut(path)
            found += tiles
            if number < arguments.files:
                arrays[f"{gsd_m}_file{number}_{index.height}_{index.width}"] = np.fromfile(path, np.uint8)
        # Every band contributes; whole tiles first, and some from the image's edges.
        found.sort(key=lambda tile: -tile[1] * tile[2])
        edges = arguments.tiles // 4
        for number, (code, height, width) in enumerate(found[: arguments.tiles - edges] + found[-edges:]):
            arrays[f"{gsd_m}_{number}_{height}_{width}"] = np.frombuffer(code, np.uint8)
    np.savez(arguments.destination, **arrays)
    print(f"{len(arrays)} tiles, {sum(a.nbytes for a in arrays.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
