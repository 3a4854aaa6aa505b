"""Run one of this folder's scripts in the server's environment, which has no pytest."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


def run_script(server_env: Path, name: str, *arguments: object, **variables: str) -> Any:
    """Return what the script prints as JSON; what it writes to standard error is shown if it fails."""
    done = subprocess.run(
        [server_env / "bin" / "python", FOLDER / name, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name} {arguments}:\n{done.stderr}"
    return json.loads(done.stdout)
