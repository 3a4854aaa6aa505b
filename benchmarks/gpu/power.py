"""What a GPU draws while something runs: nvidia-smi, every 100 ms; joules are its mean watts times the seconds."""

from __future__ import annotations

import contextlib
import math
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
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
    lacks: str | None = None

    def figures(self, tiles_per_s: float) -> dict[str, Any]:
        """Return mean watts and joules a tile, or why they are not known."""
        if not self.watts or not tiles_per_s:
            return {"energy": {"skipped": self.lacks or "no reading was taken, or no tile answered"}}
        mean = sum(self.watts) / len(self.watts)
        joules = {"mean_w": mean, "joules_per_tile": mean / tiles_per_s, "readings": len(self.watts)}
        return {"energy": joules}


@contextlib.contextmanager
def measured(after_s: float = 0.0, for_s: float = math.inf, program: str = "nvidia-smi") -> Iterator[Energy]:
    """Read until the block ends.

    Only what is read from `after_s` seconds after its beginning on, and for `for_s` seconds then, counts: the block
    waits for clients that start before and end later than what they measure.
    """
    energy, begin = Energy(), time.time() + after_s
    command = [program, "--query-gpu=timestamp,power.draw", "--format=csv,noheader,nounits", f"--loop-ms={_EVERY_MS}"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        energy.lacks = f"{program} cannot be run: {error.strerror}"
        yield energy
        return
    try:
        yield energy
    finally:
        process.terminate()
        lines = process.communicate()[0].splitlines()
    readings = [reading for line in lines if (reading := _reading(line)) is not None]
    if not readings:
        energy.lacks = f"{program} says no watts: {lines[0][:200] if lines else 'nothing'}"
    energy.watts = [watts for at, watts in readings if begin <= at <= begin + for_s]


def _reading(line: str) -> tuple[float, float] | None:
    """Take Unix time and watts from a line; None where it says something else."""
    at, _, watts = line.partition(",")
    try:
        # As nvidia-smi writes it, in local time: when its lines arrive here does not tell, as they come in blocks.
        return datetime.strptime(at.strip(), "%Y/%m/%d %H:%M:%S.%f").astimezone().timestamp(), float(watts)
    except ValueError:
        return None
