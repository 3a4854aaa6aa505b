"""What processes hold: memory, open files, threads; of each client and of the server, which is several processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Samples by what they are of and of whom: ``rss_mb`` of ``server`` and so on.
Sample = dict[tuple[str, str], float]


def holding(environment: Mapping[str, str], but: Iterable[int]) -> list[int]:
    """Return the processes that run in an environment, other than these, and their children: the server's."""
    left, found = {os.getpid(), *but}, set[int]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in left and environment.items() <= process.environ().items():
                found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return sorted(found - left)


def sample(pids: Mapping[str, Iterable[int]]) -> Sample:
    """Look at processes, by whose they are; what ends meanwhile counts for nothing."""
    made: Sample = {}
    for name, group in pids.items():
        totals = dict.fromkeys(("rss_mb", "shared_mb", "files", "threads"), 0.0)
        for pid in group:
            folder = Path("/proc") / str(pid)
            with contextlib.suppress(OSError):
                status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                rollup = dict(line.split(":", 1) for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
                totals["rss_mb"] += int(status["VmRSS"].split()[0]) / 1024
                # Of what is shared, each process's part: so parts add up to what there is in /dev/shm.
                totals["shared_mb"] += int(rollup["Pss_Shmem"].split()[0]) / 1024
                totals["threads"] += int(status["Threads"])
                totals["files"] += sum(1 for _ in (folder / "fd").iterdir())
        made |= {(what, name): value for what, value in totals.items()}
    return made
