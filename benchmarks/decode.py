"""What decoding JPEG 2000 costs, in one run on one machine: `benchmarks/decode.py [PRODUCT] [--json FILE]`.

* **by resolution and decoder**: codestream tiles of KappaMask's bands, each decoded alone in one thread by OpenJPEG
  through imagecodecs and through rasterio, taking turns; and without their data (all packets empty), which is what
  remains of a tile whose precincts nobody needs. `--every 1` decodes all of them.
* **areas of interest**: squares in the middle of the product, masked with a network that answers at once, once with
  whole codestream tiles and once with only what the area needs of them; CPU of decoding and of the process. The masks
  must be equal to the byte.
* **whole product** (`--whole`): the same without an area: CPU of decoding and of the process, and the seconds in which
  threads that decode had nothing to do: before the first tile, between the first and the last one, after it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import shutil
import struct
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import rasterio
import shapely
from end_to_end import CORES, WORK, find_product
from rasterio.crs import CRS
from rasterio.shutil import copy as copy_dataset
from sources import NullClient, kappamask_contract

from kappamask_stream.aoi import AreaOfInterest
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.jp2 import ImagecodecsDecoder, RasterioDecoder
from kappamask_stream.jp2.markers import Marker
from kappamask_stream.jp2.origin import empty_packets, main_header
from kappamask_stream.jp2.standalone import standalone_codestream
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.opening import opened_product
from kappamask_stream.pipeline import mask_product
from kappamask_stream.planning import Layout, plan_decoding
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress
from kappamask_stream.s3 import Stores
from kappamask_stream.settings import Settings
from kappamask_stream.synth.jp2 import ImageSpec, creation_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.jp2 import CodestreamIndex, DecodePlan, TileDecoder
    from kappamask_stream.product import Product

SHARES = (0.001, 0.01, 0.05)


class Timed:
    """OpenJPEG, the CPU seconds of the threads in it, and when each was in it."""

    def __init__(self, *, takes_thinned: bool) -> None:
        self.takes_thinned = takes_thinned
        self._decoder = ImagecodecsDecoder()
        self.seconds: list[float] = []
        self.spans: list[tuple[float, float]] = []

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        began, started = time.perf_counter(), time.thread_time()
        pixels = self._decoder.decode(codestream, height=height, width=width, name=name)
        self.seconds.append(time.thread_time() - started)
        self.spans.append((began, time.perf_counter()))
        return pixels

    def idle(self, started: float, ended: float, threads: int) -> dict[str, float]:
        """Return wall seconds before the first decode and after the last one, and seconds of idle threads between."""
        first, last = min(begin for begin, _ in self.spans), max(end for _, end in self.spans)
        busy = sum(end - begin for begin, end in self.spans)
        return {"before_s": first - started, "idle_s": threads * (last - first) - busy, "after_s": ended - last}


async def with_plt(where: Path) -> Path:
    """Return the product, or a copy whose bands have PLT marker segments as ESA's have, of the same pixels."""
    contract = kappamask_contract()
    async with Stores() as stores, opened_product(str(where), stores) as product:
        plan = await plan_decoding(product, contract, Layout.of(product, contract, MaskOptions()).read)
    first = {unit.band: number for number, unit in reversed(list(enumerate(plan.units)))}
    if all(Marker.PLT.code in alone(where, plan, number)[0][:200] for number in first.values()):
        return where
    copy = WORK / "full_plt" / where.name
    if not copy.exists():
        print("the tiles of this product have no PLT: a copy with PLT is made for the areas of interest")
        draft = copy.with_suffix(".part")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(where, draft)
        with ThreadPoolExecutor(CORES) as threads:
            list(
                threads.map(
                    lambda band: encode_again(where / band.path, draft / band.path, band.group.gsd_m), plan.bands
                )
            )
        draft.rename(copy)
    return copy


def encode_again(path: Path, target: Path, gsd_m: int) -> None:
    """Write a band in ESA's layout, PLT included, without loss."""
    with rasterio.open(path) as image:
        spec = ImageSpec(
            path=target, size=image.width, gsd_m=gsd_m, count=1, dtype=image.dtypes[0], epsg=image.crs.to_epsg(),
            transform=image.transform,
        )  # fmt: skip
    target.unlink()
    with rasterio.Env(GDAL_NUM_THREADS="1", GDAL_PAM_ENABLED="NO"):
        copy_dataset(str(path), str(target), **creation_options(spec))


def square(product: Product, share: float) -> AreaOfInterest:
    """Return a square of a share of the product, in its middle."""
    rows, cols = product.sizes[10]
    side = (share * rows * cols) ** 0.5 * 10
    west, north = product.ulx + (cols * 10 - side) / 2, product.uly - (rows * 10 - side) / 2
    return AreaOfInterest(geometry=shapely.box(west, north - side, west + side, north), crs=CRS.from_epsg(product.epsg))


def without_data(codestream: bytes) -> bytes:
    """Return a stand-alone tile of which all packets are empty."""
    coding, end = main_header(codestream)
    x1, y1, x0, y0 = struct.unpack_from(">4I", codestream, 8)
    body = Marker.SOD.code + empty_packets(coding, (x0, y0, x1, y1))
    return codestream[:end] + struct.pack(">HHHIBB", Marker.SOT, 10, 0, 12 + len(body), 0, 1) + body + Marker.EOC.code


async def by_resolution(where: Path, every: int, rounds: int) -> dict[str, Any]:
    """Decode some tiles of each resolution alone; the least CPU seconds of each decoder over the rounds."""
    contract = kappamask_contract()
    async with Stores() as stores, opened_product(str(where), stores) as product:
        plan = await plan_decoding(product, contract, Layout.of(product, contract, MaskOptions()).read)
    decoders: dict[str, TileDecoder] = {"imagecodecs": ImagecodecsDecoder(), "rasterio": RasterioDecoder()}
    best: dict[tuple[int, str], float] = {}
    counts: dict[int, list[int]] = {}
    for _ in range(rounds):
        spent: dict[tuple[int, str], float] = defaultdict(float)
        counts = defaultdict(lambda: [0, 0, 0])
        for number in range(0, len(plan.units), every):
            gsd_m = plan.bands[plan.units[number].band].group.gsd_m
            codestream, (height, width) = alone(where, plan, number)
            for name, decoder in decoders.items():
                started = time.process_time()  # GDAL decodes in threads of its own
                decoder.decode(codestream, height=height, width=width, name=name)
                spent[gsd_m, name] += time.process_time() - started
            empty, started = without_data(codestream), time.process_time()
            decoders["imagecodecs"].decode(empty, height=height, width=width, name="without data")
            spent[gsd_m, "without data"] += time.process_time() - started
            for at, amount in enumerate((1, height * width, len(codestream))):
                counts[gsd_m][at] += amount
        best = {key: min(seconds, best.get(key, seconds)) for key, seconds in spent.items()}
    return {
        str(gsd_m): {"tiles": tiles, "pixels": pixels, "bytes": nbytes}
        | {f"{name}_cpu_s": best[gsd_m, name] for name in (*decoders, "without data")}
        for gsd_m, (tiles, pixels, nbytes) in sorted(counts.items())
    }


def alone(where: Path, plan: DecodePlan, number: int) -> tuple[bytes, tuple[int, int]]:
    """Return the stand-alone codestream of a unit, and height and width."""
    unit = plan.units[number]
    band = plan.bands[unit.band]
    index: CodestreamIndex = band.index  # type: ignore[assignment] - the product is one of JPEG 2000 files
    with (where / band.path).open("rb") as file:
        parts = [os.pread(file.fileno(), length, offset) for offset, length in unit.tile.parts]
    return standalone_codestream(index, unit.tile, parts), (unit.tile.window.height, unit.tile.window.width)


async def mask(where: Path, share: float | None, *, takes_thinned: bool = True) -> dict[str, Any]:
    """Mask a product, or an area of it, in this process."""
    output = WORK / "decode"
    shutil.rmtree(output, ignore_errors=True)
    model, decoder = ServedModel.of(NullClient(kappamask_contract())), Timed(takes_thinned=takes_thinned)
    wall, cpu = time.perf_counter(), time.process_time()
    with Resources(settings=Settings()) as resources:
        resources.decoder = decoder
        async with Stores() as stores, opened_product(str(where), stores) as product:
            options = MaskOptions(aoi=None if share is None else square(product, share))
            progress = ProductProgress(product=product.name)
            result = await mask_product(product, model, resources, options, FolderDestination(output), progress)
    assert result.output is not None
    ended = time.perf_counter()
    return {
        "wall_s": ended - wall,
        "cpu_s": time.process_time() - cpu,
        **decoder.idle(wall, ended, resources.decode_threads),
        "decode_cpu_s": sum(decoder.seconds),
        "decoded": len(decoder.seconds),
        "tiles": result.tiles,
        "bytes_read": result.bytes_read,
        "sha256": hashlib.sha256(Path(result.output).read_bytes()).hexdigest(),
    }


def areas(where: Path, rounds: int) -> dict[str, Any]:
    """Mask each area both ways, taking turns; the fastest decoding of each."""
    found: dict[str, Any] = {}
    for share in SHARES:
        rows: dict[str, list[dict[str, Any]]] = {"whole tiles": [], "needed precincts": []}
        for _ in range(rounds):
            for name, kept in rows.items():
                kept.append(asyncio.run(mask(where, share, takes_thinned=name != "whole tiles")))
        best = {name: min(kept, key=lambda row: row["decode_cpu_s"]) for name, kept in rows.items()}
        same = len({row["sha256"] for kept in rows.values() for row in kept}) == 1
        found[str(share)] = {**best, "same_mask": same}
    return found


def report(figures: dict[str, Any]) -> bool:
    """Print the figures; returns whether all masks were equal."""
    print(f"{'m':>3}{'tiles':>7}{'Mpx':>8}{'bit/px':>8}   {'Mpx/s of one core (ms a tile)'}")
    for gsd_m, row in figures["resolutions"].items():
        rates = ", ".join(
            f"{name} {row['pixels'] / 1e6 / row[f'{name}_cpu_s']:.1f} ({row[f'{name}_cpu_s'] / row['tiles'] * 1e3:.1f})"
            for name in ("imagecodecs", "rasterio", "without data")
        )
        bits = row["bytes"] * 8 / row["pixels"]
        print(f"{gsd_m:>3}{row['tiles']:>7}{row['pixels'] / 1e6:>8.1f}{bits:>8.2f}   {rates}")
    print(f"\n{'area':>6}{'tiles':>7}{'decoded':>9}{'decoding, CPU s':>25}{'process, CPU s':>20}  same mask")
    for share, row in figures["areas"].items():
        whole, needed = row["whole tiles"], row["needed precincts"]
        ratio = needed["decode_cpu_s"] / whole["decode_cpu_s"]
        print(
            f"{float(share):>6.1%}{whole['tiles']:>7}{whole['decoded']:>9}"
            f"{whole['decode_cpu_s']:>10.2f} -> {needed['decode_cpu_s']:5.2f} ({ratio:.2f})"
            f"{whole['cpu_s']:>10.2f} -> {needed['cpu_s']:5.2f}  {row['same_mask']}"
        )
    if figures["whole"] is not None:
        row = figures["whole"]
        print(
            f"\nwhole product: {row['wall_s']:.2f} s, {row['cpu_s']:.2f} CPU s, of which decoding "
            f"{row['decode_cpu_s']:.2f} (ratio {row['cpu_s'] / row['decode_cpu_s']:.3f}); "
            f"{row['before_s']:.2f} s before the first decode, "
            f"{row['after_s']:.2f} s after the last one, between them threads were idle for {row['idle_s']:.2f} s"
        )
    return all(row["same_mask"] for row in figures["areas"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path, nargs="?", help="SAFE directory (default: see end_to_end.py)")
    parser.add_argument("--rounds", type=int, default=3, help="times each part is measured (default 3)")
    parser.add_argument("--every", type=int, default=17, help="every how many-th codestream tile (default 17)")
    parser.add_argument("--whole", action="store_true", help="mask the whole product, too")
    parser.add_argument("--json", type=Path, default=WORK / "decode.json", help="where the figures go")
    arguments = parser.parse_args()
    where = find_product(arguments.product).resolve()
    figures: dict[str, Any] = {
        "product": where.name,
        "machine": platform.processor() or platform.machine(),
        "imagecodecs": imagecodecs.__version__,
        "openjpeg": imagecodecs.jpeg2k_version(),
        "every": arguments.every,
        "resolutions": asyncio.run(by_resolution(where, arguments.every, arguments.rounds)),
        "areas": areas(asyncio.run(with_plt(where)), arguments.rounds),
    }
    rounds = range(arguments.rounds if arguments.whole else 0)
    whole = [asyncio.run(mask(where, None)) for _ in rounds]
    figures["whole"] = min(whole, key=lambda row: row["cpu_s"], default=None)
    same = report(figures)
    arguments.json.write_text(json.dumps(figures, indent=1))
    print(f"figures: {arguments.json}")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
