"""Shared memory that a server on this machine has mapped, lent to one request at a time.

A request that ends without an answer (cancelled, timed out, connection lost) may still be read by the server, and its
answer be written, at any time later. So a region comes back into use only where the server itself has said that it is
over with the request; any other is given up, and what is written there late, nobody reads.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.inference.filled_regions import FilledRegions
from kappamask_stream.inference.grpc_errors import is_turned_away, unless_closed
from kappamask_stream.inference.registrations import Registrations
from kappamask_stream.inference.server_memory import elsewhere, is_unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray
    from tritonclient.grpc.aio import InferenceServerClient

    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.inference.shared_memory import Region

#: Seconds after which regions that nobody has needed in all that time are let go of.
_LATELY_S = 30.0


class RegionPool:
    """Regions that one server maps, for the tensors of one request each.

    Parameters
    ----------
    channel : to the server.
    endpoint : of it.
    wanted : False for tensors that always go over gRPC.
    key : the server's key for shared memory, where it wants one.
    timeout_s : seconds that the server has to map a region: a request's.

    Attributes
    ----------
    why_not : why requests go over gRPC, once that is known; None otherwise.
    is_proven : True where the server maps the very memory that is made here.

    State: regions that the server knows; those of them that nobody uses now, the one used last at the end, and those
    that hold pixels of tiles; how many of the idle ones nobody has needed lately; the task that proves.
    """

    def __init__(
        self,
        channel: InferenceServerClient,
        endpoint: Endpoint,
        *,
        wanted: bool = True,
        key: str | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self._registrations = Registrations(channel, endpoint, key=key, timeout_s=timeout_s)
        self.why_not = elsewhere(endpoint) if wanted else "it is switched off (setting shared_memory)"
        self.is_proven = False
        self._regions: set[Region] = set()
        self._idle: list[Region] = []
        self._filled = FilledRegions(lambda region: self._give_back(region, is_over=True))
        self._unneeded = 0
        self._trimming: asyncio.TimerHandle | None = None
        self._proving: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        if self.why_not is not None:
            return f"<RegionPool, none: {self.why_not}>"
        given_up = len(self._registrations) - len(self._regions)
        held = f"{len(self._idle)} idle, {len(self._filled)} filled, {given_up} given up"
        return f"<RegionPool {len(self._regions)} regions, {held}>"

    @property
    def is_used(self) -> bool:
        """True where requests go through shared memory now."""
        return self.is_proven and self.why_not is None

    def fill(self, size: int) -> NDArray[np.uint8] | None:
        """Return memory for a tile's pixels, to be sent from there; None where no region is to be had at once.

        It is used for other tiles when nobody holds any part of it any more. Off the event loop there is none.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        region = self._reuse(size) if self.why_not is None else None
        return None if region is None else self._filled.fill(region, loop)

    @asynccontextmanager
    async def lent(self, size: int, address: int = 0) -> AsyncIterator[Region | None]:
        """Lend a region for one request, which is sent within the block; None where it must go over gRPC.

        Where the block ends well, or with words of the server that it has turned the request away, the region is lent
        again; it is given up otherwise.

        Parameters
        ----------
        size : bytes that it must have.
        address : of the request's first tensor: where `fill` gave the memory of it, that is lent.

        Raises
        ------
        InferenceServerException
            If the server does not answer, or the connection is closed; gRPC would not reach it either.
        """
        region = self._filled.send(address, size) or await self._take(size)
        if region is None:
            yield None
            return
        is_over = False
        try:
            yield region
            is_over = True
        except InferenceServerException as error:
            is_over = is_turned_away(error)
            if is_unknown(error):
                self._forget(region)
            raise
        finally:
            self._give_back(region, is_over=is_over)

    async def prove(self, size: int) -> None:
        """Find out whether requests of a size can go through shared memory; a server that is lost leaves it open."""
        with suppress(InferenceServerException):
            async with self.lent(size):
                pass

    async def aclose(self) -> None:
        """Have the server let go of all regions, waiting a little for requests that were given up."""
        self.why_not, self.is_proven = self.why_not or "the connection is closed", False
        if self._trimming is not None:
            self._trimming.cancel()
        self._regions.clear()
        self._idle.clear()
        self._filled.clear()
        await self._registrations.aclose()

    async def _take(self, size: int) -> Region | None:
        if not self.is_proven and self.why_not is None:
            self._proving = self._proving or self._registrations.start(self._prove(size))
            with unless_closed():
                await asyncio.shield(self._proving)
        if self.why_not is not None:
            return None
        if (region := self._reuse(size)) is not None:
            return region
        making = self._registrations.start(self._make(size))
        try:
            with unless_closed():
                return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._keep)
            raise

    async def _prove(self, size: int) -> None:
        try:
            region = await self._registrations.first(size)
        finally:
            self._proving = None
        if region is None:
            self.why_not = self._registrations.refusal or self._registrations.shortage
            return
        self.is_proven = True
        self._regions.add(region)
        self._idle.append(region)
        self._trimming = self._trimming or asyncio.get_running_loop().call_later(_LATELY_S, self._trim)

    async def _make(self, size: int) -> Region | None:
        region = await self._registrations.another(size)
        if region is not None:
            self._regions.add(region)
        elif self._registrations.refusal is not None:
            self.why_not, self.is_proven = self.why_not or self._registrations.refusal, False
            for idle in self._idle:
                self._registrations.give_up(idle.name)
            self._idle.clear()
            self._regions.clear()  # those that are in use are given up when they come back
        return region

    def _keep(self, making: asyncio.Task[Region | None]) -> None:
        """Take a region whose request was cancelled before it was ready."""
        if not making.cancelled() and making.exception() is None and (region := making.result()) is not None:
            self._give_back(region, is_over=True)

    def _reuse(self, size: int) -> Region | None:
        """Return a region that nobody uses; where all are too small, one gives way to another."""
        if not self._idle:
            return None
        region = next((region for region in reversed(self._idle) if region.size >= size), self._idle[0])
        self._idle.remove(region)
        self._unneeded = min(self._unneeded, len(self._idle))
        if region.size >= size:
            return region
        self._give_up(region)
        return None

    def _give_back(self, region: Region, *, is_over: bool) -> None:
        if not (is_over and region in self._regions):
            self._give_up(region)
        elif not self._filled.take_back(region):
            self._idle.append(region)

    def _give_up(self, region: Region) -> None:
        """Lend a region no more; the server keeps it for as long as it works on the request."""
        self._regions.discard(region)
        self._filled.drop(region)
        self._registrations.give_up(region.name)

    def _forget(self, unknown: Region) -> None:
        """Give up all regions where the server does not know one any more: it was started again."""
        if unknown not in self._regions:
            return  # another request was told before
        self._registrations.doubt(unknown.name)
        self.is_proven = False
        self._idle.clear()
        for known in list(self._regions):
            self._give_up(known)

    def _trim(self) -> None:
        """Let go of regions that nobody has needed lately, and look again later; one is kept."""
        surplus = max(0, min(self._unneeded, len(self._idle), len(self._regions) - 1))
        for region in self._idle[:surplus]:
            self._give_up(region)
        del self._idle[:surplus]
        self._unneeded, self._trimming = len(self._idle), None
        if self.is_used:
            self._trimming = asyncio.get_running_loop().call_later(_LATELY_S, self._trim)
