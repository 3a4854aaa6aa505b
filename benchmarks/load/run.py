"""Many clients on one server whose queue stays full: `make load [MINUTES=30]`.

A real local Triton with csmask's weights, shared as runs of one user share it, and eight clients, each a process of its
own: most send tiles through shared memory, two over gRPC, one masks small products over and over (`Masker`); all in
the backlog's lane, as workers are, with more in flight together than the server's queue takes. Beside them two probes
send one tile at a time, one in the interactive lane, one in the backlog's.

It must see no failure and no answer that differs from an earlier one for the same tile; no growth of memory, shared
memory, open files and threads after the warm-up; no client with more than 1.5 times the throughput of another; a
queue that is always full; and interactive tiles that overtake the backlog. Prints a table, writes
bench-output/load.json, and ends with 1 where something is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from figures import Trend, after, faults, lead, rate, unfairness
from watch import Sample, holding, sample

from kappamask_stream.synth import write_product

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "bench-output"
MODEL = "csmask_l2a"
#: Of csmask: tiles that its instances take at once. While fewer wait than this, the next batches are not full.
FULL = 16
#: Share of the time that pools fill and allocators settle in; at least so many seconds.
_WARM_UP, _WARM_UP_S = 0.25, 20.0
#: Seconds that the server has to start, and to end after its last client.
_PATIENCE_S = 180.0
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
    """Return who takes part: the one that masks products first, then those that send tiles, then the probes."""
    plain = {"kind": "tiles", "priority": "backlog", "shared_memory": "auto"}
    yield plain | {"name": "products", "kind": "products"}
    for number in range(1, clients):
        over_grpc = number >= clients - 2
        name, memory = (f"tiles {number}, gRPC", "off") if over_grpc else (f"tiles {number}", "auto")
        yield plain | {"name": name, "shared_memory": memory}
    for lane in ("interactive", "backlog"):
        yield plain | {"name": f"probe, {lane}", "kind": "probe", "priority": lane}


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


def load(options: argparse.Namespace, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run the clients for the time given, and return what was seen."""
    products = [
        str(write_product(folder / "products" / str(seed), size=options.size, seed=seed).product) for seed in range(3)
    ]
    clients: list[Started] = []
    try:
        for spec in specs(options.clients):
            clients.append(start(spec, folder, environment, products))
            ready = first_line(clients[-1])
            print(f"{clients[-1].name}: {ready.get('transport', 'connected')}", flush=True)
        metrics = next(url for client in clients for line in client.lines() for url in line.get("metrics", ()))
        began, looks = time.monotonic(), []
        end = began + 60 * options.minutes
        pids = {client.name: [client.process.pid] for client in clients}
        pids["server"] = holding(_ours(environment), [client.process.pid for client in clients])
        while time.monotonic() < end and all(client.process.poll() is None for client in clients):
            looks.append((time.monotonic(), sample(pids) | {("pending", "server"): pending(metrics)}))
            time.sleep(options.look_s)
        ended = time.monotonic()
        for client in clients:
            assert client.process.stdin is not None
            client.process.stdin.close()
        for client in clients:
            client.process.wait(_PATIENCE_S)
    finally:
        for client in clients:
            client.process.kill()
    return {"began": began, "ended": ended, "looks": looks, "said": {c.name: c.lines() for c in clients}}


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


def judged(seen: dict[str, Any], leftovers: list[str]) -> dict[str, Any]:
    """Turn samples into figures, and say what is not as it should be."""
    begin = seen["began"] + max(_WARM_UP_S, _WARM_UP * (seen["ended"] - seen["began"]))
    looks: list[tuple[float, Sample]] = seen["looks"]
    series = {key: after([(at, values[key]) for at, values in looks], begin) for key in looks[0][1]}
    said = {name: [line for line in lines if "at" in line] for name, lines in seen["said"].items()}
    last = {name: (lines[-1] if lines else {}) for name, lines in seen["said"].items()}
    failures = [f"{name}: {text}" for name, line in last.items() for text in line.get("failures", ["it was killed"])]
    rates = {
        name: rate([(line["at"], line["answered"]) for line in lines if "answered" in line], begin, seen["ended"])
        for name, lines in said.items()
        if not name.startswith("probe")
    }
    latencies = {
        name.rpartition(" ")[2]: [line["latency_s"] for line in lines if "latency_s" in line and line["at"] >= begin]
        for name, lines in said.items()
        if name.startswith("probe")
    }
    memory = {f"{what} of {who}": Trend.of(found) for (what, who), found in series.items() if what.endswith("_mb")}
    counted = {f"{what} of {who}": found for (what, who), found in series.items() if what in {"files", "threads"}}
    waiting = [value for _, value in series["pending", "server"]]
    wrong = faults(
        failures=[*failures, *leftovers], memory_mb=memory, counted=counted, rates=rates, pending=waiting,
        full=FULL, latencies_s=latencies,
    )  # fmt: skip
    return {
        "minutes": round((seen["ended"] - seen["began"]) / 60, 2),
        "cores": os.cpu_count(),
        "tiles_per_s": sum(rates.values()),
        "rates": rates,
        "unfairness": unfairness(list(rates.values())),
        "pending": {"least": min(waiting), "median": statistics.median(waiting), "most": max(waiting)},
        "latency_s": {lane: _quantiles(found) for lane, found in latencies.items()},
        "lead": lead(latencies) if all(latencies.values()) else None,
        "growth": {name: asdict(trend) for name, trend in memory.items()},
        "counted": {name: [found[0][1], found[-1][1]] for name, found in counted.items()},
        "retries": {name: line.get("retries", {}) for name, line in last.items()},
        "faults": wrong,
    }


def _change(ends: Sequence[float]) -> str:
    return f"{ends[0]:.0f} - {ends[1]:.0f}"


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    picked = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in _PICKED} if ordered else {}
    return {"count": len(ordered), **picked}


_PICKED = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    heads = (("tiles/s", 9), ("RSS MB", 9), ("MB/h", 9), ("+-", 7), ("shared", 9), ("MB/h", 9))
    print(f"\n{'':<20}{''.join(f'{name:>{width}}' for name, width in heads)}  {'files':<10}{'threads':<10}retries")
    for who in [*figures["retries"], "server"]:
        rss, shared = figures["growth"][f"rss_mb of {who}"], figures["growth"][f"shared_mb of {who}"]
        files, threads = figures["counted"][f"files of {who}"], figures["counted"][f"threads of {who}"]
        pace = f"{figures['rates'][who]:9.3f}" if who in figures["rates"] else " " * 9
        retries = ", ".join(f"{n} {cause}" for cause, n in figures["retries"].get(who, {}).items())
        print(
            f"{who:<20}{pace}{rss['mean']:9.1f}{rss['per_hour']:9.2f}{rss['error']:7.2f}{shared['mean']:9.1f}"
            f"{shared['per_hour']:9.2f}  {_change(files):<10}{_change(threads):<10}{retries}"
        )
    print(f"\n{'lane':<20}{'tiles':>9}{'p50 s':>9}{'p95 s':>9}{'max s':>9}")
    for lane, found in figures["latency_s"].items():
        numbers = "".join(f"{found[name]:9.3f}" for name, _ in _PICKED if name in found)
        print(f"{lane:<20}{found['count']:9d}{numbers}")
    least, median, most = (figures["pending"][name] for name in ("least", "median", "most"))
    print(
        f"\n{figures['minutes']} min, {figures['tiles_per_s']:.2f} tiles/s; quickest / slowest client "
        f"{figures['unfairness']:.3f}; {least:.0f} to {most:.0f} requests waited, {median:.0f} in the middle"
    )
    for fault in figures["faults"]:
        print(f"fault: {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="at most 30 (default 30)")
    parser.add_argument("--clients", type=int, default=8, help="that fill the queue (default 8)")
    parser.add_argument("--size", type=int, default=1152, help="of the products, 10 m pixels (default 1152)")
    parser.add_argument("--look-s", type=float, default=2.0, help="seconds between two looks (default 2)")
    options = parser.parse_args()
    if not 0 < options.minutes <= 30 or options.clients < 4:
        parser.error("--minutes is more than 0 and at most 30, --clients 4 or more")
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
