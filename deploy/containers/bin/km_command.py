"""What km_predict's entry points have in common: a command of kappamask-stream, the folder of data, complaints."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def run(*arguments: str) -> int:
    """Run a command of kappamask-stream in this process and return its exit code."""
    from kappamask_stream.__main__ import main

    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)


def data_folder() -> Path:
    """Return the folder of products, masks and weights: the volume /data, or another that KM_DATA names."""
    return Path(os.environ.get("KM_DATA") or "/data")


def fail(why: str) -> int:
    """Say what is wrong; returns the exit code of a wrong command line."""
    sys.stderr.write(f"{Path(sys.argv[0]).name}: {why}\n")
    return 2
