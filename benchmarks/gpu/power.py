"""What a GPU draws while something runs: nvidia-smi, every 100 ms; joules are its mean watts times the seconds."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY_MS = 100


@dataclass
class Energy:
    """Filled while `measured` is open.

    Attributes
    ----------
    watts : readings of all GPUs together.
    lacks : why there are none.
    """

    watts: list[float] = field(default_factory=list)
    seconds: float = 0.0
    lacks: str | None = None

    def figures(self, tiles_per_s: float) -> dict[str, Any]:
        """Return mean watts and joules a tile, or why they are not known."""
        if not self.watts or not tiles_per_s:
            return {"energy": {"skipped": self.lacks or "no reading was taken, or no tile answered"}}
        mean = sum(self.watts) / len(self.watts)
        joules = {"mean_w": mean, "joules_per_tile": mean / tiles_per_s, "readings": len(self.watts)}
        return {"energy": joules}


@contextlib.contextmanager
def measured(after_s: float = 0.0, program: str = "nvidia-smi") -> Iterator[Energy]:
    """Read until the block ends; what is read in the first `after_s` seconds is not counted."""
    energy, started = Energy(), time.monotonic()
    command = [program, "--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--loop-ms={_EVERY_MS}"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        energy.lacks = f"{program} cannot be run: {error.strerror}"
        yield energy
        return
    try:
        yield energy
    finally:
        energy.seconds = time.monotonic() - started
        process.terminate()
        lines = process.communicate()[0].splitlines()
    readings = [float(line) for line in lines if _is_number(line)]
    if not readings:
        energy.lacks = f"{program} says no watts: {lines[0][:200] if lines else 'nothing'}"
    energy.watts = readings[int(len(readings) * after_s / max(energy.seconds, after_s, 1e-9)) :]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
