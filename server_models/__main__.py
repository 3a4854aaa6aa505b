"""What the client runs in the server's environment: ``python -m server_models COMMAND``; prints JSON lines."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import InputError, KappaMaskError, ServerSetupError

#: Address space that a build may take; the full-width U-Net, the largest, takes about 1.5 GiB.
_BUILD_BYTES = 4 << 30


def _say(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _verify(_: argparse.Namespace) -> None:
    """Import what serving needs and find Triton's files."""
    import numpy as np
    import onnx
    import onnxruntime
    import openvino

    from server_models.tritonserver import libpython_folder, triton_program

    if int(np.__version__.split(".")[0]) > 1:
        raise ServerSetupError(
            f"numpy {np.__version__} is at {Path(np.__file__).parent}; Triton's Python backend needs numpy < 2"
        )
    triton_program()
    if importlib.util.find_spec("ukis_csmask") is None:
        raise ServerSetupError("ukis-csmask is not installed")
    libpython_folder()
    versions = {"numpy": np, "onnx": onnx, "onnxruntime": onnxruntime, "openvino": openvino}
    _say(event="verified", versions={name: module.__version__ for name, module in versions.items()})


def _list(args: argparse.Namespace) -> None:
    from server_models.registry import known_models
    from server_models.repository import built_contract, is_current

    for name, model in sorted(known_models().items()):
        contract = built_contract(name, args.repository)
        _say(
            event="model",
            name=name,
            description=model.description,
            built=contract is not None,
            current=is_current(name, args.repository),
            weights_sha256=contract.weights_sha256 if contract else None,
        )


def _build(args: argparse.Namespace) -> None:
    from server_models.repository import build_model

    _limit_memory()
    try:
        contract = build_model(
            args.model,
            args.repository,
            args.flavour,
            weights=args.weights,
            say=lambda text: _say(event="progress", text=text),
        )
    except MemoryError as error:
        raise InputError(
            f"{args.weights or args.model}: the build takes more than {_BUILD_BYTES >> 30} GiB, or than this process "
            "may use (ulimit -v): are these KappaMask's weights?"
        ) from error
    _say(event="built", model=contract.name, path=str(args.repository / contract.name))


def _limit_memory() -> None:
    """Let a hostile weights file fill this process' share, not the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _BUILD_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _configs(args: argparse.Namespace) -> None:
    from server_models.examples import write_examples

    for path in write_examples(args.folder):
        _say(event="written", path=str(path))


def _contract(args: argparse.Namespace) -> None:
    """Say the contract of a model, of a known one without its weights' digest: nothing is built."""
    from server_models.check_command import own_contract
    from server_models.registry import find, known_models

    contract = None if args.model in known_models() else own_contract(args.repository, args.model)
    _say(event="contract", contract=(contract or find(args.model).layout()).to_json())


def _check(args: argparse.Namespace) -> None:
    from server_models.check_command import check

    check(args, _say)


def _reference(args: argparse.Namespace) -> None:
    import numpy as np

    from server_models.check_tiles import load_tiles
    from server_models.reference import labels_of

    contract = ModelContract.from_json(args.contract.read_text())
    np.save(args.labels, labels_of(args.graph, load_tiles(args.tiles, contract)))


def _supervise(args: argparse.Namespace) -> None:
    from server_models.supervisor import supervise

    supervise(args.state, args.repository)


def main() -> None:
    """Run one command; an error of ours is a JSON line on stdout and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m server_models")
    commands = parser.add_subparsers(required=True)
    repository = argparse.ArgumentParser(add_help=False)
    repository.add_argument("--repository", type=Path, required=True)
    commands.add_parser("verify").set_defaults(command=_verify)
    commands.add_parser("list", parents=[repository]).set_defaults(command=_list)
    build = commands.add_parser("build", parents=[repository])
    build.add_argument("model")
    build.add_argument("--flavour", choices=["python", "onnxruntime", "tensorrt", "torch"], default="python")
    build.add_argument("--weights", type=Path)
    build.set_defaults(command=_build)
    contract = commands.add_parser("contract", parents=[repository])
    contract.add_argument("model")
    contract.set_defaults(command=_contract)
    check = commands.add_parser("check")
    check.add_argument("model")
    check.add_argument("--endpoint", required=True)
    check.add_argument("--access", default="{}")
    check.add_argument("--repository", type=Path)
    check.add_argument("--tiles", type=Path)
    check.add_argument("--rests-on")
    check.set_defaults(command=_check)
    reference = commands.add_parser("reference")
    reference.add_argument("graph", type=Path)
    for name in ("--contract", "--tiles", "--labels"):
        reference.add_argument(name, type=Path, required=True)
    reference.set_defaults(command=_reference)
    configs = commands.add_parser("configs")
    configs.add_argument("folder", type=Path)
    configs.set_defaults(command=_configs)
    supervisor = commands.add_parser("supervise", parents=[repository])
    supervisor.add_argument("--state", type=Path, required=True)
    supervisor.set_defaults(command=_supervise)
    args = parser.parse_args()
    # onnxruntime's wheel reports to Microsoft from the moment it is imported, unless told not to.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # A build that is told to end unwinds, so that what it has half written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        args.command(args)
    except KappaMaskError as error:
        _say(event="error", kind=type(error).__name__, message=str(error))
        raise SystemExit(1) from None


main()
