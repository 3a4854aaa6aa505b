"""Regions that hold a tile's pixels before they are sent, so that these need not be copied into one."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kappamask_stream.inference.shared_memory import Region


class FilledRegions:
    """Which tile's pixels are in which region, and when nobody holds any of them any more.

    Arrays know best who holds them: every part of the array that `fill` returns keeps it alive, in whatever thread and
    for however long.

    Parameters
    ----------
    on_free : told of a region that nobody holds any part of, on the event loop that it was filled on.

    State: by address, regions with a weak reference to their array; those of them that a request is under way with.
    """

    def __init__(self, on_free: Callable[[Region], None]) -> None:
        self._on_free = on_free
        self._regions: dict[int, tuple[Region, weakref.ref[NDArray[np.uint8]]]] = {}
        self._sent: set[Region] = set()

    def __len__(self) -> int:
        return len(self._regions)

    def fill(self, region: Region, loop: asyncio.AbstractEventLoop) -> NDArray[np.uint8]:
        """Return all of a region's memory; what is in it is of an earlier tile."""
        memory, address = region.array(0, (region.size,), np.uint8), region.address

        def dies(_: Any) -> None:  # in the thread that held it last
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._free, address)

        self._regions[address] = region, weakref.ref(memory, dies)
        return memory

    def send(self, address: int, size: int) -> Region | None:
        """Return the region that begins at an address, for one request; None where there is none, or it is sent now.

        A second request with the same pixels would have its answer written where the first one's is.
        """
        found = self._regions.get(address)
        if found is None or found[0] in self._sent or found[0].size < size:
            return None
        self._sent.add(found[0])
        return found[0]

    def take_back(self, region: Region) -> bool:
        """Take a region whose request is over; returns False where it is none of these."""
        if region not in self._sent:
            return False
        self._sent.remove(region)
        return True

    def drop(self, region: Region) -> None:
        """Forget a region: its pixels stay where they are, and are copied if they are sent again."""
        self._sent.discard(region)
        self._regions.pop(region.address, None)

    def clear(self) -> None:
        """Forget all."""
        self._sent.clear()
        self._regions.clear()

    def _free(self, address: int) -> None:
        found = self._regions.pop(address, None)
        if found is not None:
            self._on_free(found[0])
