"""What it costs to read a product from elsewhere, measured in one run on one machine: `make bench-sources [PRODUCT=…]`.

* **whole product**: from its directory, from a zip of it, and from S3 on loopback (rclone), each as a process of its
  own, taking turns; KappaMask's bands and tiles, with a network that answers at once inside the process, so that
  reading, decoding, cutting, mosaic and writing are all there is. Of S3's wall time the CPU seconds of the S3 server,
  divided by the cores, are taken off: elsewhere it has a machine of its own. The masks must be equal to the byte.
* **area of interest**: a square of 5 % of the product on S3: bytes and requests against the floor, which is the
  tile-parts of the codestream tiles that the area needs, the main headers and the metadata; for the files as they are
  (no TLM) and with TLM marker segments added.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import shapely
from end_to_end import CORES, ROOT, WORK, find_product
from rasterio.crs import CRS

from kappamask_stream.aoi import AreaOfInterest
from kappamask_stream.bench.null_client import NullClient
from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.jp2 import IndexCost, TileStream, index_bands
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.opening import opened_product
from kappamask_stream.pipeline import mask_product
from kappamask_stream.planning import Layout, plan_decoding
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, peak_rss_bytes
from kappamask_stream.s3 import S3Options, Stores
from kappamask_stream.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.product import Product

KEY_ID, SECRET = "KEYOFBENCH", "SECRETOFBENCH"
BUCKET = "full"
SHARE = 0.05


def kappamask_contract() -> ModelContract:
    """Return KappaMask's contract for L2A, as the server's side makes it; of no weights."""
    path = WORK / "kappamask_contract.json"
    if not path.exists():
        code = (
            "from server_models.kappamask import contract\n"
            "print(contract('L2A', 'DeepLabv3Plus', 'f32', '0' * 64).to_json())"
        )
        python = Path(os.environ["KAPPAMASK_SERVER_ENV"]) / "bin" / "python"
        path.write_text(
            subprocess.run([python, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        )
    return ModelContract.from_json(path.read_text())


async def mask_once(where: str, endpoint: str | None, output: Path) -> dict[str, Any]:
    """Mask a product in this process; returns its figures."""
    model = ServedModel.of(NullClient(kappamask_contract()))
    with Resources(settings=Settings()) as resources:
        async with Stores(S3Options(endpoint_url=endpoint)) as stores, opened_product(where, stores) as product:
            result = await mask_product(
                product, model, resources, MaskOptions(), FolderDestination(output), ProductProgress(product=where)
            )
    assert result.output is not None
    return {
        "requests": result.requests,
        "bytes_read": result.bytes_read,
        "stages": result.stages,
        "peak_rss_bytes": peak_rss_bytes(),
        "decoded_twice": result.codestream_tiles_decoded_twice,
        "sha256": hashlib.sha256(Path(result.output).read_bytes()).hexdigest(),
    }


def timed(where: str, endpoint: str | None, server: psutil.Process) -> dict[str, Any]:
    """Mask a product in a new process and take its time from start to end."""
    output = WORK / "sources"
    shutil.rmtree(output, ignore_errors=True)
    before, wall = server.cpu_times(), time.perf_counter()
    command = [sys.executable, __file__, "--one", where, *(["--endpoint", endpoint] if endpoint else [])]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - wall, server.cpu_times()
    used = after.user + after.system - before.user - before.system
    return {**json.loads(ended.stdout), "wall_s": seconds, "server_cpu_s": used}


@contextmanager
def rclone(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a folder's folders as buckets; yields endpoint and process."""
    environment = Path(os.environ.get("KAPPAMASK_STORES_ENV", ROOT / ".venv-stores"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [str(environment / "bin" / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{KEY_ID},{SECRET}", "--config", os.devnull, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def zipped(product: Path) -> Path:
    """Return a zip of the product with deflated members, as archives of products come."""
    path = WORK / BUCKET / f"{product.name.removesuffix('.SAFE')}.zip"
    if not path.exists():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(product.rglob("*")):
                archive.write(file, f"{product.name}/{file.relative_to(product)}")
    return path


async def with_tlm(product: Path) -> Path:
    """Return a copy of the product whose files have TLM marker segments, as ESA writes them since February 2026."""
    copy = WORK / "full_tlm" / product.name
    if copy.exists():
        return copy
    async with Stores() as stores, opened_product(str(product), stores) as opened:
        images = [path for path in opened.listing if path.endswith(".jp2") and "IMG_DATA" in path]
        indexes = await index_bands(opened.source, [path for path in images if "TCI" not in path])
    shutil.copytree(product, copy)
    for path, index in indexes.items():
        entries = sorted((part, tile.index) for tile in index.tiles for part in tile.parts)
        body = b"".join(struct.pack(">HI", tile, length) for (_, length), tile in entries)
        tlm = struct.pack(">HHBB", 0xFF55, 4 + len(body), 0, 0x60) + body
        data, (start, length) = (product / path).read_bytes(), index.codestream
        at = start + len(index.main_header)
        box = struct.unpack_from(">I", data, start - 8)[0]
        grown = 0 if box == 0 else length + 8 + len(tlm)
        (copy / path).write_bytes(data[: start - 8] + struct.pack(">I", grown) + data[start - 4 : at] + tlm + data[at:])
    return copy


def square(product: Product) -> AreaOfInterest:
    """Return a square of 5 % of the product, in its middle."""
    rows, cols = product.sizes[10]
    side = (SHARE * rows * cols) ** 0.5 * 10
    west, north = product.ulx + (cols * 10 - side) / 2, product.uly - (rows * 10 - side) / 2
    return AreaOfInterest(geometry=shapely.box(west, north - side, west + side, north), crs=CRS.from_epsg(product.epsg))


async def area_figures(where: str, endpoint: str) -> dict[str, Any]:
    """Read what an area of interest needs; bytes and requests against the floor."""
    contract = kappamask_contract()
    async with Stores(S3Options(endpoint_url=endpoint)) as stores, opened_product(where, stores) as product:
        layout = Layout.of(product, contract, MaskOptions(aoi=square(product)))
        cost = IndexCost()
        plan = await plan_decoding(product, contract, layout.read, partly=True, cost=cost)
        with ThreadPoolExecutor(CORES) as threads:
            async with TileStream(product.source, plan, executor=threads, workers=CORES) as stream:
                read = [pixels.tile.index async for pixels in stream]
        metadata = sum(size for path, size in product.listing.items() if path.endswith(".xml") and "MTD" in path)
    parts = {(unit.band, part) for unit in plan.units for part in unit.tile.parts}
    needed = sum(length for _, (_, length) in parts)
    headers = sum(len(band.index.main_header) for band in plan.bands)
    fetched = cost.bytes_read + stream.stats.bytes_read + metadata
    floor = needed + headers + metadata
    return {
        "layout": plan.bands[0].index.layout,
        "tiles": len(read),
        "bands": len(plan.bands),
        "codestream_tiles": len(plan.units),
        "index": {"requests": cost.requests, "bytes": cost.bytes_read},
        "pixels": {"requests": stream.stats.requests, "bytes": stream.stats.bytes_read},
        "floor_bytes": {"tile_parts": needed, "main_headers": headers, "metadata": metadata},
        "fetched_bytes": fetched,
        "ratio": fetched / floor,
    }


async def bench(path: Path, rounds: int) -> dict[str, Any]:
    archive, tlm = zipped(path), await with_tlm(path)
    with rclone(WORK) as (endpoint, server):
        places = {
            "directory": (str(path), None),
            "zip": (str(archive), None),
            "s3": (f"s3://{BUCKET}/{path.name}/", endpoint),
        }
        rows: dict[str, list[Any]] = {name: [] for name in places}
        for number in range(rounds):
            for name, (where, store) in places.items():
                rows[name].append(timed(where, store, server))
            print(f"round {number + 1}: " + ", ".join(f"{name} {r[-1]['wall_s']:.2f} s" for name, r in rows.items()))
        areas = {
            "no TLM": await area_figures(f"s3://{BUCKET}/{path.name}/", endpoint),
            "TLM": await area_figures(f"s3://full_tlm/{tlm.name}/", endpoint),
        }
    best = {name: min(r, key=lambda row: row["wall_s"] - row["server_cpu_s"] / CORES) for name, r in rows.items()}
    own = best["s3"]["wall_s"] - best["s3"]["server_cpu_s"] / CORES
    return {
        "product": path.name,
        "cores": CORES,
        "whole": best,
        "ratio_s3": own / best["directory"]["wall_s"],
        "ratio_zip": best["zip"]["wall_s"] / best["directory"]["wall_s"],
        "same_mask": len({row["sha256"] for r in rows.values() for row in r}) == 1,
        "rounds": {
            name: [{"wall_s": row["wall_s"], "server_cpu_s": row["server_cpu_s"]} for row in r]
            for name, r in rows.items()
        },
        "area": areas,
    }


def report(figures: dict[str, Any]) -> bool:
    """Print the figures beside the goals; returns whether all are reached."""
    print(f"\n{'':12}{'wall s':>8}{'S3 CPU s':>10}{'requests':>10}{'MB read':>9}{'RSS GB':>8}")
    for name, row in figures["whole"].items():
        print(
            f"{name:12}{row['wall_s']:8.2f}{row['server_cpu_s']:10.2f}{row['requests']:10}"
            f"{row['bytes_read'] / 1e6:9.1f}{row['peak_rss_bytes'] / 1e9:8.3f}"
        )
    for name, area in figures["area"].items():
        print(
            f"\narea, {name}: {area['tiles']} tiles, {area['codestream_tiles']} codestream tiles of {area['bands']} "
            f"bands; fetched {area['fetched_bytes']} bytes, floor {sum(area['floor_bytes'].values())}; "
            f"{area['index']['requests']} requests to index, {area['pixels']['requests']} for pixels"
        )
    goals = [
        ("S3 / directory, wall without the server's CPU", figures["ratio_s3"], 1.10),
        ("peak RSS from S3, GB", figures["whole"]["s3"]["peak_rss_bytes"] / 1e9, 1.0),
        ("area without TLM, fetched / floor", figures["area"]["no TLM"]["ratio"], 1.05),
        ("area with TLM, fetched / floor", figures["area"]["TLM"]["ratio"], 1.05),
    ]
    print()
    for name, value, goal in goals:
        print(f"{name:48}{value:8.3f}   goal <= {goal}: {'reached' if value <= goal else 'NOT REACHED'}")
    print(f"{'zip / directory, wall':48}{figures['ratio_zip']:8.3f}")
    print(f"{'masks equal to the byte':48}{figures['same_mask']!s:>8}")
    return figures["same_mask"] and all(value <= goal for _, value, goal in goals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path, nargs="?", help="SAFE directory (default: see end_to_end.py)")
    parser.add_argument("--rounds", type=int, default=2, help="times each part is measured (default 2)")
    parser.add_argument("--json", type=Path, default=WORK / "sources.json", help="where the figures go")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
    if arguments.one:
        print(json.dumps(asyncio.run(mask_once(arguments.one, arguments.endpoint, WORK / "sources"))))
        return
    kappamask_contract()
    figures = asyncio.run(bench(find_product(arguments.product).resolve(), arguments.rounds))
    reached = report(figures)
    arguments.json.write_text(json.dumps(figures, indent=1))
    print(f"figures: {arguments.json}")
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    main()
