"""Notices that a connection was lost and made again: gRPC does so by itself, between two requests, without a word."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from grpc.aio import Channel

#: A channel that was closed tells so within some 20 ms.
_SEEN_S = 5.0


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
        self._watching = asyncio.get_running_loop().create_task(self._watch(channel), name="watches a connection")

    async def aclose(self) -> None:
        """Wait until the task has seen that the channel is closed; cancel it only if it does not.

        gRPC delivers what a cancelled task waited for all the same, later: to an event loop that may be closed by then,
        which another loop of the process reports with a traceback.
        """
        await asyncio.wait([self._watching], timeout=_SEEN_S)
        self._watching.cancel()
        await asyncio.wait([self._watching])

    async def _watch(self, channel: Channel) -> None:
        state = channel.get_state()
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await channel.wait_for_state_change(state)
            # By now it may have come back: that it was away is all that counts.
            self.count += state is grpc.ChannelConnectivity.READY
            state = channel.get_state()
