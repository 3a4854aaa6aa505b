"""Many clients on one server whose queue stays full: `make load [MINUTES=30]`.

A real local Triton with csmask's weights, shared as runs of one user share it, and eight equal clients, each a process
of its own, that send tiles: six through shared memory, two over gRPC. A ninth masks small products over and over
(`Masker`). All are in the backlog's lane, as workers are, with more in flight together than the server's queue takes:
it turns some away, and they are sent again. Beside them two probes send one tile at a time, one in the interactive
lane, one in the backlog's.

It must see no failure and no answer that differs from an earlier one for the same tile; no growth of memory, shared
memory, open files and threads after the warm-up; none of the equal clients with more than 1.5 times the throughput of
another (the ninth also reads, writes and waits for files: its throughput is shown and not compared); a queue that is
full again and again (requests are refused) and never below the server's next batches; and interactive tiles that
overtake the backlog. Prints a table, writes bench-output/load.json, and ends with 1 where something is not so: at once
where a client fails, or where a full queue would take longer than a client waits for an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from figures import IN_WORK, QUEUE, too_slow
from report import WARM_UP_S, judged, rates, show
from watch import holding, sample

from kappamask_stream.settings import load_settings
from kappamask_stream.synth import write_product

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "bench-output"
MODEL = "csmask_l2a"
#: Seconds that the server has to start, and to end after its last client.
_PATIENCE_S = 180.0
#: Between two lines of progress.
_TELL_S = 60.0
_METRIC = "nv_inference_pending_request_count"


@dataclass
class Started:
    """A client's process and what it says, a JSON object a line."""

    name: str
    process: subprocess.Popen[str]
    says: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.says.read_text().splitlines() if line.endswith("}")]


def specs(clients: int) -> Iterator[dict[str, Any]]:
    """Return who takes part: those that send tiles, the one that masks products, the probes."""
    # One more for each than the server takes of all: it refuses now and then. Where it refuses always, who is first in
    # the queue keeps it full, and the others get next to nothing: nothing on the server divides it among clients.
    each = math.ceil((QUEUE + IN_WORK) / (clients + 1)) + 1
    plain = {"kind": "tiles", "priority": "backlog", "shared_memory": "auto", "max_in_flight": each}
    for number in range(1, clients + 1):
        over_grpc = number > clients - 2
        name, memory = (f"tiles {number}, gRPC", "off") if over_grpc else (f"tiles {number}", "auto")
        yield plain | {"name": name, "shared_memory": memory}
    yield plain | {"name": "products", "kind": "products"}
    for lane in ("interactive", "backlog"):
        yield plain | {"name": f"probe, {lane}", "kind": "probe", "priority": lane, "max_in_flight": 1}


def start(spec: dict[str, Any], folder: Path, environment: dict[str, str], products: Sequence[str]) -> Started:
    name = spec["name"]
    says = folder / f"{name}.jsonl"
    given = spec | {"products": list(products), "output": str(folder / "masks")}
    command = [sys.executable, str(Path(__file__).with_name("client.py")), json.dumps(given)]
    with says.open("w") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, env=environment, text=True)
    return Started(name, process, says)


def first_line(client: Started) -> dict[str, Any]:
    """Wait until a client is connected."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and client.process.poll() is None:
        if lines := [line for line in client.lines() if "ready" in line or "failures" in line]:
            return lines[0]
        time.sleep(0.1)
    raise SystemExit(f"{client.name} does not connect: {client.says.read_text()[-1000:]}")


def pending(metrics: str) -> float:
    """Return the model's requests that wait."""
    with urllib.request.urlopen(metrics, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(_METRIC) and MODEL in line).rpartition(" ")[2])


def watched(options: argparse.Namespace, clients: Sequence[Started], environment: dict[str, str]) -> dict[str, Any]:
    """Look at clients and server until time is over, one of them fails, or the machine turns out to be too slow."""
    metrics = next((url for client in clients for line in client.lines() for url in line.get("metrics", ())), "")
    pids = {client.name: [client.process.pid] for client in clients}
    pids["server"] = holding(_ours(environment), [client.process.pid for client in clients])
    began, looks, failures, is_asked = time.monotonic(), [], list[str](), False
    told = began
    while time.monotonic() < began + 60 * options.minutes and all(each.process.poll() is None for each in clients):
        try:
            looks.append((time.monotonic(), sample(pids) | {("pending", "server"): pending(metrics)}))
        except (OSError, ValueError, StopIteration) as error:
            failures.append(f"the server does not tell how many requests wait: {error!r}")
            break
        if looks[-1][0] >= told + _TELL_S:
            pace, told = pace_since(told, clients), looks[-1][0]
            print(progress(told - began, options.minutes, pace, looks[-1][1]), flush=True)
        if not is_asked and time.monotonic() >= began + WARM_UP_S:
            is_asked, patience_s = True, load_settings().infer_timeout_s
            if (slow := too_slow(pace_since(began, clients), QUEUE + IN_WORK, patience_s)) is not None:
                failures.append(slow)
                break
        time.sleep(options.look_s)
    return {"began": began, "ended": time.monotonic(), "looks": looks, "failures": failures}


def pace_since(begin: float, clients: Sequence[Started]) -> float:
    """Return tiles per second of all clients together, from a moment until now."""
    return sum(rates({client.name: client.lines() for client in clients}, begin, math.inf).values())


def progress(seconds: float, minutes: float, pace: float, look: Mapping[tuple[str, str], float]) -> str:
    """Return how far it is, and what was seen just now; `pace` in tiles per second since the last line."""
    return (
        f"{seconds / 60:4.0f} of {minutes:g} min: {pace:.1f} tiles/s, {look['pending', 'server']:.0f} requests wait, "
        f"server {look['rss_mb', 'server']:,.0f} MB"
    )


def load(options: argparse.Namespace, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run the clients for the time given, and return what was seen."""
    products = [
        str(write_product(folder / "products" / str(seed), size=options.size, seed=seed).product) for seed in range(3)
    ]
    clients: list[Started] = []
    try:
        # The first starts the server; the others begin together: who came last would wait behind all that others send.
        first, *others = specs(options.clients)
        for group in ([first], others):
            begun = [start(spec, folder, environment, products) for spec in group]
            clients += begun
            for client in begun:
                print(f"{client.name}: {first_line(client).get('transport', 'connected')}", flush=True)
        seen = watched(options, clients, environment)
        for client in clients:
            assert client.process.stdin is not None
            client.process.stdin.close()
        for client in clients:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed, then, and a failure
                client.process.wait(_PATIENCE_S)
    finally:
        for client in clients:
            client.process.kill()
    return seen | {"said": {client.name: client.lines() for client in clients}}


def _ours(environment: dict[str, str]) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": environment["XDG_RUNTIME_DIR"]}


def left_behind(environment: dict[str, str]) -> list[str]:
    """Return processes that are there after all clients have ended, and end them."""
    deadline = time.monotonic() + _PATIENCE_S
    while (pids := holding(_ours(environment), ())) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
    return [f"{len(pids)} processes of the server were left"] if pids else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="1 to 30 (default 30)")
    parser.add_argument("--clients", type=int, default=8, help="that send tiles, two over gRPC (default 8)")
    parser.add_argument("--size", type=int, default=1152, help="of the products, 10 m pixels (default 1152)")
    parser.add_argument("--look-s", type=float, default=2.0, help="seconds between two looks (default 2)")
    options = parser.parse_args()
    if not 1 <= options.minutes <= 30:
        parser.error(f"--minutes is {options.minutes:g}: 1 to 30 are taken, of which {WARM_UP_S:g} s are the warm-up")
    if options.clients < 3:
        parser.error(f"--clients is {options.clients}: 3 or more are needed, two of them over gRPC")
    with tempfile.TemporaryDirectory(prefix="ks-", dir="/tmp") as place:
        folder = Path(place)
        (folder / "run").mkdir(mode=0o700)
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder / "run")}
        seen = load(options, folder, environment)
        figures = judged(seen, left_behind(environment))
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "load.json").write_text(json.dumps(figures, indent=1) + "\n")
    show(figures)
    raise SystemExit(1 if figures["faults"] else 0)


if __name__ == "__main__":
    main()
