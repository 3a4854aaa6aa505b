"""What a server did while something was measured: by its own account, and by that of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.bench.server_statistics import read_statistics
from kappamask_stream.server import server_status
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from kappamask_stream.bench.server_statistics import Statistics
    from kappamask_stream.inference import TritonClient
    from kappamask_stream.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ServerWork:
    """A snapshot, or what came between two of them.

    Attributes
    ----------
    statistics : of one server, where there are several.
    cpu_s : CPU seconds of the server's processes; None where it is not the local server, or the system does not tell.
    """

    statistics: Statistics
    cpu_s: float | None

    def since(self, earlier: ServerWork) -> ServerWork:
        """Return what came between two snapshots."""
        return ServerWork(
            statistics=self.statistics.since(earlier.statistics),
            cpu_s=_grown(self.cpu_s, earlier.cpu_s),
        )

    def busy(self, wall_s: float, instances: int) -> float | None:
        """Return the share of a time in which an instance worked on a batch, on average; None where unknown.

        It may be above 1 by the batches that were begun before; by more, and there are more instances than was said.
        """
        told = self.statistics
        return None if told.untold is not None else told.executing_s / (wall_s * instances)


async def look_at_server(client: TritonClient, settings: Settings) -> ServerWork:
    """Take a snapshot; what cannot be known is None, or a reason."""
    channel, model = client.connection.one, client.contract.name
    status = await server_status(settings.server_env) if settings.triton is None else None
    return ServerWork(
        statistics=await read_statistics(channel, model),
        cpu_s=None if status is None else await in_thread(None, descendants_cpu_s, int(status["pid"])),
    )


def descendants_cpu_s(pid: int) -> float | None:
    """Return the CPU seconds of a process's children, their children and so on, of those that live.

    None where the system does not tell (it is no Linux), or there are none.
    """
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    try:
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except (OSError, ValueError):
        return None
    for process in processes:
        try:
            text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # ended meanwhile
        # The name, in brackets, may hold anything. Behind it: state, parent, … and from the 12th on CPU ticks.
        fields = text.rpartition(")")[2].split()
        parents[process], used[process] = int(fields[1]), (int(fields[11]) + int(fields[12])) * tick_s
    found = {pid}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return sum(used[process] for process in found - {pid} if process in used) if found - {pid} else None


def _grown(now: float | None, before: float | None) -> float | None:
    """Return by how much a counter has grown; None where it is unknown, or began anew meanwhile."""
    return None if now is None or before is None or now < before else now - before
