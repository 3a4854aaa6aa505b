"""Which instance count, largest batch and queue delay serve most tiles: any model that `models build` has written.

    python benchmarks/gpu/config_sweep.py /srv/models/NAME --instances 1 2 4 --max-batch 4 8 16 --delay-us 0 2000

For each setting the model gets a configuration of its own, a real Triton is started on it, warms up, and several client
processes keep requests of one tile in flight. Of the settings within 2 % of the fastest the one with the lowest p99 is
the best; its lines of `config.pbtxt` are printed. Flavours ``python`` and ``torch`` run on the server of
nvidia-pytriton (``--server-python``: an environment that has it); ``onnxruntime`` and ``tensorrt`` need NVIDIA's
container: ``--tritonserver tritonserver``, and for shared memory in releases since April 2026
``--server-args=--allow-client-shm=true``.

The script itself wants `onnx`, `h5py`, `tritonclient` and this checkout in PYTHONPATH; no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from material import tiles, write
from power import measured
from through_triton import LEAD_S, measure, serving

from kappamask_stream.contract import ModelContract
from server_models.configuration import config_pbtxt
from server_models.float16_cut import NETWORK
from server_models.repository import tensorrt_configurations
from server_models.tensorrt import part_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server_models.configuration import Flavour

#: Flavours whose backend is not in the server of nvidia-pytriton.
CONTAINER = ("onnxruntime", "tensorrt")
#: Settings that are this near to the fastest are equal: the lower p99 decides.
_NEAR = 0.98


def configurations(model: Path, contract: ModelContract, flavour: Flavour, delay_us: int) -> dict[str, str]:
    """Return the configurations of a model and of its parts, by folder."""
    if flavour == "tensorrt":
        return tensorrt_configurations(contract, model.parent, queue_delay_us=delay_us)
    return {contract.name: config_pbtxt(contract, flavour, queue_delay_us=delay_us)}


def write_copy(model: Path, repository: Path, configs: dict[str, str]) -> None:
    """Write a repository with these configurations and links to the model's own files."""
    for name, text in configs.items():
        folder = repository / name
        folder.mkdir(parents=True)
        (folder / "1").symlink_to((model.parent / name / "1").resolve())
        (folder / "config.pbtxt").write_text(text)


def row(
    model: Path, contract: ModelContract, flavour: Flavour, delay_us: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure one setting; what goes wrong stands in the row."""
    setting = {"instances": contract.instances, "max_batch": contract.max_batch, "delay_us": delay_us}
    batched = part_name(contract.name, NETWORK) if flavour == "tensorrt" else contract.name
    window = max(1, -(-2 * contract.max_batch * (contract.instances + 1) // arguments.processes))
    with tempfile.TemporaryDirectory(prefix="ks-sweep-") as folder:
        repository, private, source = (Path(folder) / name for name in ("models", "server", "tiles.npz"))
        write_copy(model, repository, configurations(model, contract, flavour, delay_us))
        np.savez(source, **tiles(contract, arguments.tiles, 6))
        program = [arguments.tritonserver, *arguments.server_args] if arguments.tritonserver else []
        rounds = []
        try:
            with serving(arguments.server_python, repository, private, contract.name, program) as place:
                for _ in range(arguments.rounds):
                    with measured(after_s=LEAD_S, for_s=arguments.seconds) as energy:
                        found = measure(
                            place, contract.name, arguments.transport, arguments.processes, window, source,
                            arguments.seconds, batched=batched,
                        )  # fmt: skip
                    rounds.append({**found, **energy.figures(found["tiles_per_s"])})
        except (RuntimeError, OSError, json.JSONDecodeError) as error:
            return {**setting, "failed": [str(error)[-1500:]]}
    fastest = max(rounds, key=lambda found: found["tiles_per_s"])
    return {**setting, **fastest, "rounds_tiles_per_s": [found["tiles_per_s"] for found in rounds]}


def checked(model: Path, contract: ModelContract, arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve the model as it was built and compare it with float32 at every batch size, as `models check` does."""
    with tempfile.TemporaryDirectory(prefix="ks-check-") as folder:
        program = [arguments.tritonserver, *arguments.server_args] if arguments.tritonserver else []
        private, command = Path(folder) / "server", [sys.executable, "-m", "server_models", "check", contract.name]
        try:
            with serving(arguments.server_python, model.parent, private, contract.name, program) as place:
                command += ["--endpoint", place["grpc"], "--repository", str(model.parent)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
        except (RuntimeError, OSError, json.JSONDecodeError) as error:
            return {"failed": str(error)[-1500:]}
    last = (done.stdout.strip().splitlines() or ["{}"])[-1]
    event: dict[str, Any] = json.loads(last) if last.startswith("{") else {}
    return event.get("report") or {"failed": event.get("message") or done.stderr[-1500:]}


def best_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row to take, None where none worked."""
    worked = [found for found in rows if not found["failed"] and "p99_ms" in found]
    if not worked:
        return None
    fastest = max(found["tiles_per_s"] for found in worked)
    near = [found for found in worked if found["tiles_per_s"] >= _NEAR * fastest]
    return min(near, key=lambda found: found["p99_ms"])


def config_lines(best: dict[str, Any], flavour: Flavour) -> list[str]:
    """Return the lines of ``config.pbtxt`` that a row stands for."""
    kind = "KIND_CPU" if flavour == "python" else "KIND_GPU"
    return [
        f"max_batch_size: {best['max_batch']}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {best['delay_us']} }}",
        f"instance_group [ {{ count: {best['instances']} kind: {kind} }} ]",
    ]


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that `models build` has written")
    parser.add_argument("--instances", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--max-batch", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--delay-us", nargs="+", type=int, default=[0, 2000])
    parser.add_argument("--processes", type=int, default=5, help="client processes (default 5)")
    parser.add_argument("--transport", choices=["shared memory", "gRPC"], default="shared memory")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--rounds", type=int, default=2, help="of which the fastest counts (default 2)")
    parser.add_argument("--tiles", type=Path, help="folder of native_*.npz, KappaMask only (default: made tiles)")
    parser.add_argument("--server-python", default=sys.executable, help="Python of an environment with nvidia-pytriton")
    parser.add_argument("--tritonserver", help="a tritonserver with its own backends, as in NVIDIA's container")
    parser.add_argument("--server-args", nargs="*", default=[], help="further arguments of that tritonserver")
    parser.add_argument("--check", action="store_true", help="first compare the model with float32 at every batch size")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = parsed_arguments()
    model = arguments.model.resolve()
    contract = ModelContract.from_json((model / "contract.json").read_text())
    flavour: Flavour = json.loads((model / "built.json").read_text())["flavour"]
    if flavour in CONTAINER and not arguments.tritonserver:
        raise SystemExit(
            f"{contract.name} is of flavour {flavour}, whose backend is in NVIDIA's container: name its tritonserver "
            "with --tritonserver"
        )
    check = checked(model, contract, arguments) if arguments.check else {"skipped": "no --check"}
    print("check:", check.get("failed") or check.get("faults") or "passed" if arguments.check else check, flush=True)
    rows: list[dict[str, Any]] = []
    for batch, instances, delay_us in itertools.product(arguments.max_batch, arguments.instances, arguments.delay_us):
        changed = replace(contract, max_batch=batch, instances=instances)
        rows.append(row(model, changed, flavour, delay_us, arguments))
        print(rows[-1], flush=True)
        best = best_of(rows)
        lines = config_lines(best, flavour) if best else []
        figures = {
            "model": contract.name, "flavour": flavour, "transport": arguments.transport, "check": check,
            "rows": rows, "best": best, "config": lines,
        }  # fmt: skip
        write(arguments.json, "config_sweep", figures)
    if best is None:
        raise SystemExit("no setting worked: see the rows above")
    print("\n".join([f"best: {best['tiles_per_s']:.1f} tiles/s, p99 {best['p99_ms']:.0f} ms", *lines]))


if __name__ == "__main__":
    main()
