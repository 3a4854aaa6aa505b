"""Run in the server's environment: packages like csmask's, sound and hostile, and what building from each says.

python onnx_files.py FOLDER [CASE]

Makes each package in FOLDER and builds csmask from it in a child process. Prints JSON per case: the model's name or the
error's class and message, which files the child opened besides its own, and by how much its memory grew, MiB. With
CASE only the package is made.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import onnx_unfit  # fills CASES
import onnxruntime
from onnx_writing import CASES, write_package

from kappamask_stream.errors import KappaMaskError
from server_models import csmask

assert onnx_unfit
assert onnxruntime
#: Seconds after which a child that hangs is ended; MiB of address space that a build may take beyond what it has.
PATIENCE_S, LIMIT_MIB = 60, 2048


def outcome(package: Path) -> dict[str, Any]:
    """Build in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(PATIENCE_S)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (LIMIT_MIB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = _attempt(package)
        found["grown_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"error": f"ended by signal {os.WTERMSIG(status)}", "message": ""}


def _attempt(package: Path) -> dict[str, Any]:
    sys.path.insert(0, str(package.parent))
    importlib.invalidate_caches()
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    try:
        found = {"model": csmask.build("L2A", package.parent / "built.onnx").name}
    except KappaMaskError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what the test is about
        found = {"error": type(error).__name__, "message": traceback.format_exc()}
    return found | {"elsewhere": [path for path in opened if path.endswith(".bin") or path == "/dev/zero"]}


def main() -> None:
    folder = Path(sys.argv[1])
    report = {}
    for name in sys.argv[2:] or CASES:
        package = write_package(folder / name)
        CASES[name](package)
        if not sys.argv[2:]:
            report[name] = outcome(package)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
