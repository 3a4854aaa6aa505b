"""The worker under fire: `make soak [PRODUCTS=300] [WORKERS=3]`.

A queue of small products (some twice, poison and other people's among them), S3 and SQS over sockets, a real Triton
with csmask's weights, and workers that are killed at random, most by SIGKILL, in the middle of whatever they do. It is
over when the queue is empty. Then every product must have exactly one valid output, no message may be lost, the
dead-letter queue holds exactly the poison, a sample of masks equals what `run` makes of the same products, to the byte,
and the memory of the worker that was never killed is flat. The last line sums up; ends with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crew import Crew, growth
from verdict import differing, faults_of_outputs, faults_of_queues
from world import WORK, World, build, counts, stores

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Memory that the worker that is never killed may gain over the run after its warm-up, of what it holds.
_MOST_GROWTH = 0.05
_SAMPLE = 20


@contextmanager
def triton(model: str) -> Iterator[str]:
    """Run a local Triton of our own and yield its address."""
    with tempfile.TemporaryDirectory(prefix="ks-", dir="/tmp") as runtime:
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        command = [sys.executable, "-m", "kappamask_stream", "server"]
        port = _free_port()
        subprocess.run([*command, "start", "--model", model, "--port", str(port)], env=environment, check=True)
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            subprocess.run([*command, "stop"], env=environment, check=True)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def reference(world: World, address: str, rng: random.Random) -> dict[str, str]:
    """Mask a sample of the products with `run`; product -> SHA-256 of its mask."""
    names = rng.sample(sorted(world.products), min(_SAMPLE, len(world.products)))
    output = WORK / "reference"
    command = [sys.executable, "-m", "kappamask_stream", "run", *(str(world.products[name]) for name in names)]
    command += ["--model", "csmask", "--triton", address, "--output", str(output), "--overwrite", "--json"]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    return {r["product"]: hashlib.sha256(Path(r["output"]).read_bytes()).hexdigest() for r in results}


def soak(world: World, address: str, workers: int, rng: random.Random, most_s: float) -> dict[str, Any]:
    """Let the workers work until nothing is left, and strike them meanwhile."""
    sqs = world.client("sqs")
    started, strikes = time.monotonic(), 0
    with Crew(world, address, workers, rng) as crew:
        next_strike = time.monotonic() + rng.uniform(8, 15)
        while True:
            time.sleep(1)
            crew.look()
            waiting, in_work = counts(sqs, world.queue)
            elapsed = time.monotonic() - started
            if not waiting and not in_work:
                break
            if elapsed > most_s:
                raise SystemExit(f"not done after {elapsed:.0f} s: {waiting} messages wait, {in_work} are in work")
            # The last messages are left alone: the end of the run is the end of the work.
            if time.monotonic() >= next_strike and waiting > workers * 2:
                print(f"{elapsed:6.0f} s  {waiting:4d} waiting  {in_work:3d} in work  {crew.strike()}", flush=True)
                strikes += 1
                next_strike = time.monotonic() + rng.uniform(4, 10)
        elapsed = time.monotonic() - started
        crew.dismiss()
    steady = crew.workers[0]
    per_hour, gained = growth(steady.rss)
    last = steady.rss[-1][1]
    return {
        "seconds": round(elapsed, 1),
        "products_per_hour": round(3600 * len(world.products) / elapsed),
        "strikes": strikes,
        "sigkill": sum(w.kills for w in crew.workers),
        "sigterm": sum(w.stops for w in crew.workers),
        "exits_after_sigterm": sorted({code for w in crew.workers for code in w.exits}),
        "rss_mb": round(last / 1e6, 1),
        "rss_slope_mb_per_hour": round(per_hour / 1e6, 2),
        "rss_gained_share": round(gained / last, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=300)
    parser.add_argument("--workers", type=int, default=3, help="at least two: the first is never killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most-s", type=float, default=3000.0, help="seconds after which it is given up")
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("--workers must be 2 or more")
    rng = random.Random(options.seed)
    WORK.mkdir(parents=True, exist_ok=True)
    for log in WORK.glob("worker-*.log"):
        log.unlink()
    with stores() as endpoint, triton("csmask_l2a") as address:
        print(f"making {options.products} products and their messages", flush=True)
        world = build(endpoint, options.products, rng)
        figures = soak(world, address, options.workers, rng, options.most_s)
        faults = [*faults_of_outputs(world), *faults_of_queues(world)]
        faults += differing(world, reference(world, address, rng))
    if figures["exits_after_sigterm"] != [0]:
        faults.append(f"workers ended with {figures['exits_after_sigterm']} after SIGTERM")
    if figures["rss_gained_share"] > _MOST_GROWTH:
        faults.append(f"the memory of worker 0 grew by {figures['rss_gained_share']:.1%}")
    summary = {
        "products": len(world.products), "messages": world.sent + len(world.poison) + len(world.filtered),
        "poison": len(world.poison), "filtered": len(world.filtered), "workers": options.workers, **figures,
        "faults": faults,
    }  # fmt: skip
    (WORK / "soak.json").write_text(json.dumps(summary, indent=1) + "\n")
    for fault in faults[:20]:
        print(f"fault: {fault}")
    print(json.dumps(summary if len(faults) < 5 else {**summary, "faults": len(faults)}))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
