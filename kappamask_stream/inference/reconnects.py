"""Notices that a connection was lost and made again: gRPC does so by itself, between two requests, without a word."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from grpc.aio import Channel

_READY, _SHUTDOWN = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.SHUTDOWN
#: How long one look at a channel's state waits for another one, and `aclose` for that look.
_LOOK_S = 0.2


class Reconnects:
    """Counts how often a channel lost its connection: after it another server may answer, or the same one started anew.

    A channel to several servers has lost its connection where it has none to any of them.

    Parameters
    ----------
    channel : whoever closes it calls `aclose` after it.

    State: the count, and the task that waits for the channel's state to change.
    """

    def __init__(self, channel: Channel) -> None:
        self.count = 0
        self._is_closed = False
        self._watching = asyncio.get_running_loop().create_task(self._watch(channel), name="watches a connection")

    async def aclose(self) -> None:
        """Wait until the task has ended, 0.2 s at most.

        It is not cancelled: gRPC would deliver what it waits for all the same, later, to an event loop that may be
        closed by then, which another loop of the process reports with a traceback.
        """
        self._is_closed = True
        await asyncio.wait([self._watching])

    async def _watch(self, channel: Channel) -> None:
        # The public method, `wait_for_state_change`, has no deadline, and a channel that was closed does not end while
        # a request's traceback refers to it.
        wait = channel._channel.watch_connectivity_state  # noqa: SLF001
        state = channel.get_state()
        while not self._is_closed and state is not _SHUTDOWN:
            before = state
            has_changed = await wait(before.value[0], time.time() + _LOOK_S)
            state = channel.get_state()
            # By now it may have come back: that it was away is all that counts.
            self.count += has_changed and before is _READY and state is not _SHUTDOWN
