"""Put the parts' figures into one JSON: ``merge.py FOLDER RESULT``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def commit() -> str:
    """Return the checkout's commit, or what KAPPAMASK_COMMIT says where the sources are no checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or os.environ.get("KAPPAMASK_COMMIT", "unknown")


def main() -> None:
    folder, result = map(Path, sys.argv[1:])
    parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path != result}
    parts.pop(result.stem, None)
    result.write_text(json.dumps({"commit": commit(), "parts": parts}, indent=1) + "\n")
    print(f"{result}: {', '.join(parts)}")


if __name__ == "__main__":
    main()
