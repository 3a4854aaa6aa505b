"""What follows from a report by arithmetic; None where it does not tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.bench.types import BenchReport, ServerPoint


#: Utilisation below which a GPU is there, but not used.
_USED = 0.01
#: Gain of the last point of a sweep over the one before it up to which the rate counts as flat.
_FLAT = 0.05


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Rates, shares and floors of one report, per product where nothing else is said.

    Attributes
    ----------
    report : that they are of.
    """

    report: BenchReport

    @property
    def best(self) -> ServerPoint | None:
        """The server's point with most tiles a second; None where the sweep broke off: the best may not be in it."""
        level = self.report.server
        return level.best if level is not None and level.points and level.broken_off is None else None

    @property
    def reached_tiles_per_s(self) -> float | None:
        """Tiles a second that the server reached by itself."""
        return None if self.best is None or not self.best.tiles else self.best.tiles_per_s

    @property
    def is_saturated(self) -> bool:
        """True where the sweep tells what the server can.

        It had as many requests in flight as products end to end, or more did not help any more.
        """
        level, real = self.report.server, self.report.end_to_end
        if self.best is None or level is None:
            return False
        if real is not None and any(point.concurrency >= real.window for point in level.points):
            return True
        return len(level.points) > 1 and level.points[-1].tiles_per_s <= (1 + _FLAT) * level.points[-2].tiles_per_s

    @property
    def server_tiles_per_s(self) -> float | None:
        """Tiles a second that the server can: reached by itself, or end to end where that is more.

        None where more requests in flight might have shown more. Without products end to end nobody knows how many
        would be in flight: there it is what was reached.
        """
        reached = self.reached_tiles_per_s
        if reached is None or (self.report.end_to_end is not None and not self.is_saturated):
            return None
        return max(reached, self.tiles_per_s or 0.0)

    @property
    def server_products_per_s(self) -> float | None:
        """Products a second for which that would be enough; None, too, where no tile of the product holds data."""
        tiles = self.report.product_tiles_inferred
        return self.server_tiles_per_s / tiles if self.server_tiles_per_s and tiles else None

    @property
    def reached_products_per_s(self) -> float | None:
        """Products a second for which what the server reached by itself is enough."""
        tiles = self.report.product_tiles_inferred
        return self.reached_tiles_per_s / tiles if self.reached_tiles_per_s and tiles else None

    @property
    def has_gpu(self) -> bool:
        """True where the server's metrics name a GPU that was used: some servers compute on the CPU beside it."""
        points = () if self.report.server is None else self.report.server.points
        uses = [level.gpu for level in (*points, self.report.end_to_end) if level is not None]
        named = [use for use in uses if use is not None and use.gpus]
        told = [use.utilisation for use in named if use.utilisation is not None]
        return bool(named) and (not told or max(told) >= _USED)

    @property
    def shares_cores(self) -> bool:
        """True where the server computes on the very cores that the client has."""
        return self.report.local_server and not self.has_gpu

    @property
    def cores(self) -> int:
        """That the client could use."""
        level = self.report.end_to_end
        return self.report.environment.cores if level is None else level.cores

    @property
    def client_cpu_s(self) -> float | None:
        """CPU seconds of the client without its process's start, with the real network where that was measured."""
        level = self.report.end_to_end
        if level is not None:
            return level.client_cpu_s / level.products or None
        return self.alone_cpu_s

    @property
    def alone_cpu_s(self) -> float | None:
        """CPU seconds of the client alone without its process's start, which comes once and not with each product."""
        level = self.report.client
        return None if level is None else max(0.0, level.cpu_s - level.start_cpu_s) or None

    @property
    def decodes_on_gpu(self) -> bool:
        """True where JPEG 2000 is decoded on a GPU: CPU seconds tell nothing of how long that takes."""
        return self.report.settings is not None and self.report.settings.decoder == "gpu"

    @property
    def cpu_to_floor(self) -> float | None:
        """CPU seconds of the client by those of decoding alone; None where a GPU decodes."""
        return None if self.report.client is None or self.decodes_on_gpu else self.report.client.cpu_to_floor

    @property
    def client_s(self) -> float | None:
        """Wall seconds that the client needs for a product: its CPU time on all cores, a GPU's decoding if longer."""
        if self.client_cpu_s is None:
            return None
        return max(self.client_cpu_s / self.cores, (self.decode_floor_s or 0.0) if self.decodes_on_gpu else 0.0)

    @property
    def server_cpu_s(self) -> float | None:
        """CPU seconds of a server on this machine."""
        level = self.report.end_to_end
        return None if level is None or level.server_cpu_s is None else level.server_cpu_s / level.products

    @property
    def own_cpu_s(self) -> float | None:
        """CPU seconds that a product takes of the client's cores: the client's, and a local server's where it told."""
        client, server = self.client_cpu_s, self.server_cpu_s if self.report.local_server else None
        return None if client is None else client + (server or 0.0)

    @property
    def decode_share(self) -> float | None:
        """Decode floor by the client's CPU without its process's start; else the decoder's part of busy stages."""
        if self.report.client is not None:
            return None if self.alone_cpu_s is None else self.report.client.floor.cpu_s / self.alone_cpu_s
        if self.report.end_to_end is None:
            return None
        # Waiting for answers and bytes is no work.
        busy = {stage: s for stage, s in self.report.end_to_end.stages.items() if stage not in {"infer", "read"}}
        return busy.get("decode", 0.0) / sum(busy.values()) if sum(busy.values()) else None

    @property
    def wall_s(self) -> float | None:
        """Seconds from one finished product to the next, end to end."""
        level = self.report.end_to_end
        return None if level is None else level.wall_s / level.products

    @property
    def tiles_per_s(self) -> float | None:
        """Tiles a second, end to end."""
        level = self.report.end_to_end
        return None if level is None else level.tiles_inferred / level.wall_s

    @property
    def server_used(self) -> float | None:
        """Tiles a second end to end by those that the server can, 0 to 1; None where that is unknown."""
        return self.tiles_per_s / self.server_tiles_per_s if self.tiles_per_s and self.server_tiles_per_s else None

    @property
    def server_busy(self) -> float | None:
        """Share of the time, end to end, in which the GPU was busy, or else the server computed, as it says itself."""
        level = self.report.end_to_end
        if level is None:
            return None
        if level.gpu is not None and level.gpu.utilisation is not None:
            return level.gpu.utilisation
        return level.server_busy

    @property
    def cores_busy(self) -> float | None:
        """Share of the client's cores that client, and server where it is here, kept busy, end to end."""
        wall = self.wall_s
        return self.own_cpu_s / (wall * self.cores) if wall and self.own_cpu_s is not None else None

    @property
    def cores_for_server(self) -> float | None:
        """Cores with which the client would keep the server as busy as it was by itself."""
        if self.shares_cores or self.own_cpu_s is None or self.server_products_per_s is None:
            return None
        return self.own_cpu_s * self.server_products_per_s

    @property
    def latency_s(self) -> float | None:
        """Of a request, end to end, by Little's law: requests in flight by those answered a second.

        As most while anything was in flight: where nothing was at times, it was shorter.
        """
        level = self.report.end_to_end
        return level.mean_in_flight / self.tiles_per_s if level is not None and self.tiles_per_s else None

    @property
    def served_s(self) -> float | None:
        """Seconds of a request within the server, end to end; moving in and out as by the server's best point."""
        level = self.report.end_to_end
        if level is None or level.queue_s is None or level.compute_s is None:
            return None
        moved = 0.0 if self.best is None else (self.best.input_s or 0.0) + (self.best.output_s or 0.0)
        return level.queue_s + level.compute_s + moved

    @property
    def write_share(self) -> float | None:
        """Share of the time of the products in work in which they were only written."""
        level = self.report.end_to_end
        return None if level is None else level.write_s / (level.wall_s * level.products_at_once)

    @property
    def read_share(self) -> float | None:
        """Seconds of reading, by those in which products were in work; above 1 where reads overlap."""
        level = self.report.end_to_end
        return None if level is None else level.stages.get("read", 0.0) / (level.wall_s * level.products_at_once)

    @property
    def decode_floor_s(self) -> float | None:
        """Wall seconds below which no product can be decoded on these cores, or this GPU."""
        if self.report.client is None:
            return None
        floor = self.report.client.floor
        return floor.wall_s if self.decodes_on_gpu else floor.cpu_s / self.cores

    @property
    def server_floor_s(self) -> float | None:
        """Wall seconds below which the server cannot answer a product."""
        return None if self.server_products_per_s is None else 1 / self.server_products_per_s

    @property
    def floor_s(self) -> float | None:
        """Wall seconds below which no product can be masked: the longer floor, both where they share the cores."""
        decode, server = self.decode_floor_s, self.server_floor_s
        if decode is None or server is None:
            return None
        return decode + server if self.shares_cores else max(decode, server)


def mean_batch(sizes: Mapping[int, int] | None) -> float | None:
    """Return tiles per execution; None where nothing was executed, or nothing is known."""
    if not sizes or not sum(sizes.values()):
        return None
    return sum(size * count for size, count in sizes.items()) / sum(sizes.values())
