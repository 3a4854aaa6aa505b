"""Tiles per second through a real Triton (pytriton's server, Python backend, PyTorch engine), beside the bare engine.

Several client processes keep single-tile requests in flight; Triton forms the batches. System shared memory and gRPC.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton
from material import add_arguments, graph, resized, tiles, write

from kappamask_stream.contract import ModelContract
from server_models.configuration import config_pbtxt, templates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

_HERE = Path(__file__).parent
#: From the start of the clients to the first second that counts.
LEAD_S = 4.0


def write_model(model: onnx.ModelProto, contract: ModelContract, repository: Path) -> None:
    version = repository / contract.name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model.SerializeToString())
    (version / "model.py").write_bytes((templates() / "torch_backend" / "model.py").read_bytes())
    (version.parent / "config.pbtxt").write_text(config_pbtxt(contract, "torch"))


@contextmanager
def serving(
    python: str, repository: Path, private: Path, model: str, program: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Run a Triton: the one of pytriton in `python`'s environment, or `program`, a tritonserver and its arguments."""
    private.mkdir()
    command = [python, str(_HERE / "serve.py"), str(repository), str(private), model, *program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        line = server.stdout.readline()
        try:
            if not line:
                raise RuntimeError(f"Triton did not start: {(private / 'tritonserver.log').read_text()[-3000:]}")
            yield json.loads(line)
        finally:
            server.stdin.close()


def measure(
    place: dict[str, Any], model: str, transport: str, processes: int, window: int, source: Path, seconds: float,
    batched: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run the clients together and add up what they counted; `batched` is the model whose batches are looked at."""
    batched = batched or model
    before, start = batches(place, batched), time.time() + LEAD_S
    command = [sys.executable, str(_HERE / "client.py"), "--grpc", place["grpc"], "--header", place["header"], "--key",
               place["key"], "--model", model, "--transport", transport, "--tiles", str(source), "--window",
               str(window), "--start", str(start), "--seconds", str(seconds)]  # fmt: skip
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    answers = [json.loads(client.communicate()[0] or "{}") for client in clients]
    latencies = sorted(x for answer in answers for x in answer.get("latencies", []))
    after = batches(place, batched)
    row: dict[str, Any] = {
        "transport": transport, "clients": processes, "in_flight": processes * window,
        "tiles_per_s": sum(answer.get("answers", 0) for answer in answers) / seconds,
        "batches": {size: count - before.get(size, 0) for size, count in after.items() if count > before.get(size, 0)},
        "failed": [text for answer in answers for text in answer.get("failed", ["no answer"])][:3],
    }  # fmt: skip
    if latencies:
        row |= {f"p{p}_ms": 1000 * latencies[min(len(latencies) - 1, len(latencies) * p // 100)] for p in (50, 95, 99)}
    return row


def batches(place: dict[str, Any], model: str) -> dict[str, int]:
    """Return how many batches of each size Triton has executed."""
    client = triton.InferenceServerClient(place["grpc"])
    statistics = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
    client.close()
    return {str(s["batch_size"]): int(s["compute_infer"]["count"]) for s in statistics.get("batch_stats", [])}


def perf_analyzer(place: dict[str, Any], model: str, in_flight: int) -> dict[str, Any]:
    """Run NVIDIA's own client over shared memory, if it is there."""
    command = ["perf_analyzer", "-m", model, "-u", place["grpc"], "-i", "grpc", "--shared-memory", "system", "-b", "1",
               "--concurrency-range", str(in_flight), "-p", "3000", "-r", "3", "--async", "--output-shared-memory-size",
               str(6 * 512 * 512), "-H", f"{place['header']}:{place['key']}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)[:500]}
    return {"command": " ".join(command[:-2]), "output": (done.stdout + done.stderr)[-1500:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument(
        "--server-python", default=sys.executable, help="Python of an environment with pytriton and numpy < 2"
    )
    parser.add_argument("--settings", nargs="+", default=["2x16", "3x16", "2x32", "3x8"], help="instances x max batch")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--network", default="DeepLabv3Plus")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--perf-analyzer", action="store_true")
    parser.add_argument("--log", action="store_true", help="show the end of Triton's log")
    arguments = parser.parse_args()
    model = graph(arguments.network, arguments.precision, arguments.weights)
    contract = ModelContract.from_json(next(e.value for e in model.metadata_props if e.key == "contract"))
    rows: list[dict[str, Any]] = []
    for setting in arguments.settings:
        instances, batch = map(int, setting.split("x"))
        made = resized(contract, instances=instances, max_batch=batch)
        with tempfile.TemporaryDirectory(prefix="ks-gpu-") as folder:
            write_model(model, made, Path(folder) / "models")
            source = Path(folder) / "tiles.npz"
            np.savez(source, **tiles(contract, arguments.tiles, 6))
            try:
                with serving(
                    arguments.server_python, Path(folder) / "models", Path(folder) / "server", made.name
                ) as place:
                    window = max(4, -(-2 * batch * (instances + 1) // arguments.processes))
                    with_grpc = setting == arguments.settings[0]
                    for transport in ("shared memory", "gRPC")[: 1 + with_grpc]:
                        many = arguments.processes if transport == "shared memory" else min(10, os.cpu_count() or 4)
                        found = measure(place, made.name, transport, many, window, source, arguments.seconds)
                        rows.append({"instances": instances, "max_batch": batch, **found})
                        print(rows[-1], flush=True)
                    if arguments.perf_analyzer and setting == arguments.settings[0]:
                        rows.append({"instances": instances, "max_batch": batch, "transport": "perf_analyzer",
                                     **perf_analyzer(place, made.name, 2 * batch * (instances + 1))})  # fmt: skip
                        print(rows[-1].get("output", rows[-1]), flush=True)
                    if arguments.log:
                        print((Path(folder) / "server" / "tritonserver.log").read_text()[-1500:], flush=True)
            except (RuntimeError, OSError, json.JSONDecodeError) as error:
                log = Path(folder) / "server" / "tritonserver.log"
                rows.append({"instances": instances, "max_batch": batch, "failed": str(error)[-1500:]})
                print(
                    setting, "failed:", str(error)[-1500:], log.read_text()[-2500:] if log.exists() else "", flush=True
                )
        write(
            arguments.json,
            "through_triton",
            {"network": arguments.network, "precision": arguments.precision, "rows": rows},
        )


if __name__ == "__main__":
    main()
