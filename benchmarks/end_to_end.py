"""Our wall time against the floors, measured in one run on one machine: `make bench [PRODUCT=…]`.

* **decode floor**: every codestream tile that the model needs, decoded once, all cores, nothing else; tiles whose bytes
  equal one that decoded to all zero are left out, as in the client.
* **inference floor**: the engine alone on the tiles that hold data, already in memory, with the best of a printed
  sweep of engines, streams, threads and batches.
* **ours**: `kappamask-stream run` as a process of its own, from its start to its end, with the local Triton running.

Each is measured `rounds` times, taking turns, and the fastest of each part counts, so that the ratio may mix rounds;
the ratio of each round by itself stands in the JSON, too. The floors are what
the same two cores would need if nothing had to be cut, sent, answered, assembled or written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kappamask_stream.bench.floor import compressed_units, decode_floor
from kappamask_stream.bench.tiles import write_tile_set
from kappamask_stream.grid import TileGrid
from kappamask_stream.inference import TritonClient
from kappamask_stream.models import ModelChoice
from kappamask_stream.planning import mask_size, plan_decoding
from kappamask_stream.product import open_product
from kappamask_stream.server import ServerEnvironment, lease_local_server, server_status
from kappamask_stream.sources import DirectorySource
from kappamask_stream.synth import write_product

if TYPE_CHECKING:
    from kappamask_stream.bench.types import Floor
    from kappamask_stream.mask_options import Radiometry

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "bench-output"
SHARED = Path(os.environ.get("KAPPAMASK_SHARED", ROOT.parent / "shared"))
CORES = len(os.sched_getaffinity(0))


def find_product(given: Path | None) -> Path:
    """Take the product that was named, else make the full one of ../shared, else a synthetic one of full size."""
    if given is not None:
        return given
    maker = SHARED / "tools" / "make_full_product.py"
    if maker.exists():
        found = next((WORK / "full").glob("*.SAFE"), None)
        if found is None:
            print(f"making the full product with {maker.name}")
            subprocess.run([sys.executable, str(maker), str(WORK / "full")], check=True, stdout=subprocess.DEVNULL)
            found = next((WORK / "full").glob("*.SAFE"))
        return found
    found = next((WORK / "synth").glob("*.SAFE"), None)
    if found is None:
        print("making a synthetic product of 10980 pixels")
        found = write_product(WORK / "synth", size=10980, seed=7).product
    return found


def as_figures(floor: Floor) -> dict[str, float]:
    return {"wall_s": floor.wall_s, "cpu_s": floor.cpu_s, "decoded": floor.codestream_tiles}


def inference_floor(
    environment: ServerEnvironment, model: str, pixels: Path, *, tiles: int, sweep: bool
) -> dict[str, Any]:
    """Run the sweep and the floor in the server's environment, in a process of its own."""
    out = WORK / "engine.json"
    command = [
        str(environment.python),
        str(ROOT / "benchmarks" / "engine_sweep.py"),
        str(environment.repository / model),
    ]
    command += ["--pixels", str(pixels), "--json", str(out), "--tiles", str(tiles), "--rounds", "2" if sweep else "1"]
    if not sweep:
        best = json.loads(out.read_text())["sweep"][0]
        command += ["--engine", best["engine"], "--batch", str(best["batch"])]
    quiet = None if sweep else subprocess.DEVNULL
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=quiet)
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def cpu_of_server(pid: int) -> float:
    """Return CPU seconds that the supervisor's children (Triton and its stubs) have used so far."""
    used = 0.0
    for process in psutil.Process(pid).children(recursive=True):
        times = process.cpu_times()
        used += times.user + times.system
    return used


def run_ours(product: Path, options: list[str], supervisor: int) -> dict[str, Any]:
    """Run the command once; returns its own JSON with wall and CPU seconds of client and server."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    server = cpu_of_server(supervisor)
    wall = time.perf_counter()
    command = [sys.executable, "-m", "kappamask_stream", "run", str(product), *options]
    command += ["--output", str(WORK / "masks"), "--overwrite", "--json"]
    for old in (WORK / "masks").rglob("*.tif"):
        old.unlink()  # a finished mask would be skipped
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - wall
    if ended.returncode:
        raise SystemExit(f"the run failed with exit code {ended.returncode}: {ended.stdout}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return {
        # Paths are of this machine, figures are not.
        **{name: value for name, value in answer.items() if name not in ("output", "quicklook")},
        "wall_s": seconds,
        "client_cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "server_cpu_s": cpu_of_server(supervisor) - server,
    }


async def bench(path: Path, choice: ModelChoice, radiometry: Radiometry, rounds: int) -> dict[str, Any]:
    environment = ServerEnvironment.at(Path(os.environ["KAPPAMASK_SERVER_ENV"]))
    product = await open_product(DirectorySource(path))
    name, pixels = choice.served_name(product.level), WORK / "tiles"
    options = ["--model", choice.model, "--radiometry", radiometry]
    options += ["--precision", choice.precision] if choice.precision else []
    options += ["--architecture", choice.architecture] if choice.architecture else []
    options += ["--weights", str(choice.weights)] if choice.weights else []
    async with lease_local_server(model=name, weights=choice.weights, env=environment.path) as server:
        async with await TritonClient.connect(f"grpc://{server.grpc_address}", name) as client:
            contract = client.contract
        status = await server_status(environment.path)
        assert status is not None
        plan = await plan_decoding(product, contract, TileGrid.of(contract, *mask_size(product, contract)))
        print(f"{product.name}, {contract.name}, {CORES} cores; {len(plan.units)} codestream tiles are needed")
        found = await write_tile_set(product, contract, radiometry, pixels, most=len(plan.tiles))
        print(f"{len(plan.tiles)} tiles, {found.count} hold data\n")
        tiles = 32 if choice.model == "csmask" else 8  # in a round of the sweep: KappaMask's cost more
        engine = inference_floor(environment, name, pixels, tiles=tiles, sweep=True)
        parts = await compressed_units(product.source, plan)
        decodes, infers, ours = [], [], []
        for number in range(rounds):
            decodes.append(as_figures(await decode_floor(plan, parts, threads=CORES)))
            again = engine if number == 0 else inference_floor(environment, name, pixels, tiles=tiles, sweep=False)
            infers.append(again["floor"])
            ours.append(run_ours(path, options, status["pid"]))
            print(
                f"round {number + 1}: decode {decodes[-1]['wall_s']:.2f} s, infer {infers[-1]['wall_s']:.2f} s, "
                f"ours {ours[-1]['wall_s']:.2f} s"
            )
    return {
        "model": name,
        "radiometry": radiometry,
        **summary(product.name, engine["sweep"], decodes, infers, ours),
    }


def summary(product: str, sweep: list[Any], decodes: list[Any], infers: list[Any], ours: list[Any]) -> dict[str, Any]:
    decode, infer, run = (min(rows, key=lambda row: row["wall_s"]) for rows in (decodes, infers, ours))
    return {
        "product": product,
        "cores": CORES,
        "decode_floor": decode,
        "inference_floor": infer,
        "ours": run,
        "ratio": run["wall_s"] / (decode["wall_s"] + infer["wall_s"]),
        "cpu_ratio": (run["client_cpu_s"] + run["server_cpu_s"]) / (decode["cpu_s"] + infer["cpu_s"]),
        "rounds": {
            "decode_wall_s": [row["wall_s"] for row in decodes],
            "infer_wall_s": [row["wall_s"] for row in infers],
            "ours_wall_s": [row["wall_s"] for row in ours],
            "ratio": [o["wall_s"] / (d["wall_s"] + i["wall_s"]) for d, i, o in zip(decodes, infers, ours, strict=True)],
        },
        "sweep": sweep,
    }


def report(figures: dict[str, Any]) -> bool:
    """Print the figures beside the goals; returns whether all are reached."""
    decode, infer, run = figures["decode_floor"], figures["inference_floor"], figures["ours"]
    rows = [
        ("decode floor", decode["wall_s"], decode["cpu_s"], f"{decode['decoded']} codestream tiles"),
        ("inference floor", infer["wall_s"], infer["cpu_s"], f"{infer['tiles']} tiles"),
        ("sum of the floors", decode["wall_s"] + infer["wall_s"], decode["cpu_s"] + infer["cpu_s"], ""),
        (
            "ours",
            run["wall_s"],
            run["client_cpu_s"] + run["server_cpu_s"],
            f"client {run['client_cpu_s']:.2f}, server {run['server_cpu_s']:.2f} CPU s; batches {run['batch_sizes']}",
        ),
    ]
    print(f"\n{'':20}{'wall s':>10}{'CPU s':>10}")
    for name, wall, cpu, remark in rows:
        print(f"{name:20}{wall:10.2f}{cpu:10.2f}   {remark}")
    goals = [
        ("wall / sum of floors", figures["ratio"], 1.15),
        ("client peak RSS, GB", run["peak_rss_bytes"] / 1e9, 1.0),
        ("decoded twice", run["codestream_tiles_decoded_twice"], 0),
        ("tail, s", run["tail_seconds"], 1.0),
    ]
    print()
    for name, value, goal in goals:
        print(f"{name:20}{value:10.3f}   goal <= {goal}: {'reached' if value <= goal else 'NOT REACHED'}")
    return all(value <= goal for _, value, goal in goals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path, nargs="?", help="SAFE directory (default: see `find_product`)")
    parser.add_argument("--model", default="csmask", help="csmask or kappamask (default csmask)")
    parser.add_argument("--weights", type=Path, help="KappaMask weights (Keras HDF5)")
    parser.add_argument("--architecture", choices=("DeepLabv3Plus", "Unet"), help="of KappaMask")
    parser.add_argument("--precision", choices=("f32", "bf16"), help="of KappaMask")
    parser.add_argument("--radiometry", choices=("corrected", "km_predict"), default="corrected")
    parser.add_argument("--rounds", type=int, default=2, help="times each part is measured (default 2)")
    parser.add_argument("--json", type=Path, default=WORK / "end_to_end.json", help="where the figures go")
    arguments = parser.parse_args()
    (WORK / "tiles").mkdir(parents=True, exist_ok=True)
    choice = ModelChoice(
        model=arguments.model,
        architecture=arguments.architecture,
        precision=arguments.precision,
        weights=arguments.weights and arguments.weights.resolve(),
    )
    product = find_product(arguments.product).resolve()
    figures = asyncio.run(bench(product, choice, arguments.radiometry, arguments.rounds))
    reached = report(figures)
    arguments.json.write_text(json.dumps(figures, indent=1))
    print(f"figures: {arguments.json}")
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    main()
