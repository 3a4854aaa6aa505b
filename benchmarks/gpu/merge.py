"""Put the parts' figures into one JSON: ``merge.py FOLDER RESULT``.

``PART.json`` in the folder holds what was measured, ``PART.skipped`` why it was not; where both are there, the figures
are of an earlier run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def commit() -> str:
    """Return the checkout's commit, or what KAPPAMASK_COMMIT says where the sources are no checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or os.environ.get("KAPPAMASK_COMMIT", "unknown")


def merged(folder: Path, result: Path) -> dict[str, dict[str, Any]]:
    """Return every part's figures, or the reason why there are none."""
    files = [path for path in sorted(folder.glob("*.json")) if path.resolve() != result.resolve()]
    parts = {path.stem: json.loads(path.read_text()) for path in files}
    for path in sorted(folder.glob("*.skipped")):
        reason = path.read_text().strip()
        parts[path.stem] = {**parts[path.stem], "skipped_last": reason} if path.stem in parts else {"skipped": reason}
    return parts


def main() -> None:
    folder, result = map(Path, sys.argv[1:])
    parts = merged(folder, result)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"commit": commit(), "parts": parts}, indent=1) + "\n")
    measured = [part for part, figures in parts.items() if "skipped" not in figures]
    print(f"{result}: measured {', '.join(measured) or 'nothing'}; skipped {len(parts) - len(measured)}")


if __name__ == "__main__":
    main()
