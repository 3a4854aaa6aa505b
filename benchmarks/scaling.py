"""How memory and cost grow with work, in one run on one machine: `make bench-scaling [PARTS="memory growth …"]`.

Each row is a process of its own that masks products as `run` does, KappaMask's bands and tiles, with a network that
answers at once inside it (`scaling_process.py`): all of the client, and nothing else.

* **memory**: peak RSS with 1, 4 and 16 products at once, beside the byte budget, what else is held (docs/memory.md),
  and the process before its first product.
* **growth**: 1, 10 and 100 small products, with progress and a STAC catalogue: CPU per product beyond the first ones,
  and the same for 1,000 that are all there already.
* **processes**: the same products with 1 and with 2 processes: products an hour, CPU per product, loop lag.

CPU seconds are those of all processes; the best of the rounds counts, which take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from end_to_end import CORES, WORK
from sources import kappamask_contract

from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product

FOLDER = WORK / "scaling"
PARTS = ("memory", "growth", "processes")
_MB = 1e6
_run_numbers = count()


def products(size: int, number: int) -> list[str]:
    """Return products that differ in name only: one is generated, the others link its bands."""
    made = FOLDER / f"products-{size}"
    first = next((made / "first").glob("*.SAFE"), None) or write_product(made / "first", size=size, seed=7).product
    name = first.name.removesuffix(".SAFE")
    found = []
    for index in range(number):
        other = f"{name[:-6]}{index:06d}"
        folder = made / f"{other}.SAFE"
        if not folder.exists():
            _link(first, folder, name, other)
        found.append(str(folder))
    return found


def _link(product: Path, folder: Path, name: str, other: str) -> None:
    for path in product.rglob("*"):
        target = folder / path.relative_to(product)
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if re.fullmatch(r"MTD_MSIL\w+\.xml", path.name):
            target.write_text(path.read_text().replace(name, other))
        else:
            target.symlink_to(path.resolve())


def run(wheres: list[str], *, output: Path | None = None, stac: bool = False, **settings: Any) -> dict[str, Any]:
    """Mask products in a new process; returns its figures, and CPU and wall time from its start to its end."""
    place = FOLDER / f"run-{next(_run_numbers)}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    spec = {
        "wheres": wheres, "output": str(output or place / "masks"), "figures": str(place), "stac": stac,
        "as_json": settings.pop("as_json", False), "settings": settings,
    }  # fmt: skip
    (place / "spec.json").write_text(json.dumps(spec))
    started = time.perf_counter()
    with (place / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("scaling_process.py")), str(place / "spec.json")],
            stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a measured process ended with {process.returncode}: {(place / 'stderr.txt').read_text()}")
    figures = json.loads((place / "parent.json").read_text())
    children = [json.loads(path.read_text()) for path in sorted(place.glob("child-*.json"))]
    shutil.rmtree(place)
    return {
        "products": len(wheres),
        "cpu_s": used.ru_utime + used.ru_stime,
        "whole_wall_s": time.perf_counter() - started,
        **figures,
        "children": children,
    }


def held_bytes(at_once: int, size: int, settings: Settings) -> dict[str, int]:
    """Return what is held at most beside the process itself: docs/memory.md lists it."""
    contract = kappamask_contract()
    pixels = sum(len(group.bands) * group.tile**2 for group in contract.inputs)
    in_flight = 2 * contract.max_batch * contract.instances
    side = contract.tile_size
    # A mosaic row of blocks, and one that is begun, uint8; each as compressed blocks and as overviews' rows, too.
    mosaic = 3 * side * (size + side)
    codestream_tile = 1024 * 1024
    return {
        "budget": settings.memory_budget_bytes,
        "tiles cut": (in_flight + 2) * (2 * pixels + 2 * side * side),
        "mosaics": at_once * mosaic,
        "compressed tiles": at_once * settings.read_ahead_tiles * codestream_tile * 2,
        # OpenJPEG's own 32-bit samples, twice for the wavelet, beside the compressed bytes.
        "decoders": settings.decode_threads * codestream_tile * (4 + 4 + 2),
    }


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    wheres = products(options.size, 16)
    print(f"\nmemory: {options.size} x {options.size} pixels, MB")
    print(
        f"{'at once':>8} {'start':>7} {'peak':>7} {'beyond start':>13} {'budget':>7} {'held at most':>13} {'wall s':>7}"
    )
    for at_once in (1, 4, 16):
        settings = Settings(products_at_once=at_once)
        found = run(wheres[: max(at_once, 2)], products_at_once=at_once)
        held = held_bytes(at_once, options.size, settings)
        beyond = found["peak_rss_bytes"] - found["start_rss_bytes"]
        rows.append({"at_once": at_once, "held_bytes": held, "beyond_start_bytes": beyond, **found})
        print(
            f"{at_once:>8} {found['start_rss_bytes'] / _MB:>7.0f} {found['peak_rss_bytes'] / _MB:>7.0f} "
            f"{beyond / _MB:>13.0f} {held['budget'] / _MB:>7.0f} {sum(held.values()) / _MB:>13.0f} "
            f"{found['wall_s']:>7.1f}"
        )
    return rows


def growth(options: argparse.Namespace) -> dict[str, Any]:
    wheres = products(options.small, 100)
    rows: dict[int, list[dict[str, Any]]] = {1: [], 10: [], 100: []}
    for _ in range(options.rounds):
        # A disturbance of a tenth of a second is much of the short runs: they are tried more often.
        for number in (1, 10, 1, 10, 1, 10, 100):
            rows[number].append(run(wheres[:number], stac=True))
    print(f"\ngrowth: {options.small} x {options.small} pixels, with progress and catalogue")
    print(f"{'products':>9} {'CPU s':>8} {'wall s':>8} {'peak MB':>8} {'lag p99 ms':>11} {'longest hold ms (CPU)':>22}")
    for number, found in rows.items():
        row = min(found, key=lambda one: one["cpu_s"])
        print(
            f"{number:>9} {row['cpu_s']:>8.2f} {row['wall_s']:>8.2f} {row['peak_rss_bytes'] / _MB:>8.0f} "
            f"{row['lag_p99_s'] * 1e3:>11.1f} {row['hold_max_s'] * 1e3:>22.1f}"
        )
    figures: dict[str, Any] = {"rows": rows}
    for measure in ("cpu_s", "wall_s"):
        least = {number: min(one[measure] for one in found) for number, found in rows.items()}
        few, many = (least[10] - least[1]) / 9, (least[100] - least[10]) / 90
        figures[measure] = {"per_product_1_to_10": few, "per_product_10_to_100": many, "ratio": many / few}
        print(
            f"{measure[:-2]} per product: {few:.4f} s from 1 to 10, {many:.4f} s from 10 to 100, ratio {many / few:.3f}"
        )
    figures["skipped"] = skipped(options)
    return figures


def skipped(options: argparse.Namespace) -> dict[str, Any]:
    """Mask 1,000 products, then run over them again."""
    wheres, masks = products(options.tiny, 1000), FOLDER / f"masks-{options.tiny}"
    run(wheres, output=masks, stac=True)
    rows = {}
    for number in (100, 1000):
        found = [run(wheres[:number], output=masks, stac=True, as_json=True) for _ in range(options.rounds)]
        rows[number] = min(found, key=lambda row: row["cpu_s"])
        assert rows[number]["statuses"]["skipped"] == number
    few, many = rows[100], rows[1000]
    each = (many["cpu_s"] - few["cpu_s"]) / 900
    grown = (many["peak_rss_bytes"] - few["peak_rss_bytes"]) / 900
    print(
        f"skipped: {each * 1e3:.2f} ms CPU and {grown / 1e3:.1f} kB a product from 100 to 1,000; "
        f"{many['wall_s']:.1f} s and {many['peak_rss_bytes'] / _MB:.0f} MB for 1,000; lag p99 "
        f"{many['lag_p99_s'] * 1e3:.1f} ms, longest hold {many['hold_max_s'] * 1e3:.1f} ms (CPU)"
    )
    return {"rows": rows, "cpu_s_per_product": each, "bytes_per_product": grown}


def spread(options: argparse.Namespace) -> list[dict[str, Any]]:
    wheres, rows = products(options.size, 16)[: options.products], []
    print(f"\nprocesses: {len(wheres)} products of {options.size} x {options.size} pixels, {CORES} cores")
    print(f"{'processes':>10} {'products/h':>11} {'CPU s each':>11} {'lag p99 ms':>11} {'longest hold ms (CPU)':>22}")
    for _ in range(options.rounds):
        for number in (1, 2):
            found = run(wheres, processes=number)
            loops = found["children"] or [found]
            row = {
                **found,
                "processes": number,
                "products_per_hour": 3600 * len(wheres) / found["wall_s"],
                "cpu_s_per_product": found["cpu_s"] / len(wheres),
                "lag_p99_s": max(loop["lag_p99_s"] for loop in loops),
                "hold_max_s": max(loop["hold_max_s"] for loop in loops),
            }
            rows.append(row)
            print(
                f"{number:>10} {row['products_per_hour']:>11.1f} {row['cpu_s_per_product']:>11.2f} "
                f"{row['lag_p99_s'] * 1e3:>11.1f} {row['hold_max_s'] * 1e3:>22.1f}"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--size", type=int, default=3960, help="pixels of products for memory and processes")
    parser.add_argument("--small", type=int, default=480, help="pixels of those for growth")
    parser.add_argument("--tiny", type=int, default=240, help="pixels of the 1,000 that are skipped")
    parser.add_argument("--products", type=int, default=4, help="for processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=WORK / "scaling.json")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    measures = {"memory": memory, "growth": growth, "processes": spread}
    figures = {part: measures[part](options) for part in options.parts or PARTS}
    options.json.write_text(json.dumps({"cores": CORES, **figures}, indent=1) + "\n")
    print(f"\nall figures: {options.json}")


if __name__ == "__main__":
    main()
