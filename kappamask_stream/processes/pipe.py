"""Messages through a pair of pipes: four bytes of length, then a pickle."""

from __future__ import annotations

import asyncio
import os
import pickle
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH_BYTES = 4


class Pipe:
    """One end. Whoever holds the other end is of the same program: what arrives is believed.

    Parameters
    ----------
    reader, writer : as asyncio makes them of the two pipes.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to_parent(
        cls, protocol: Callable[[asyncio.StreamReader], asyncio.StreamReaderProtocol] = asyncio.StreamReaderProtocol
    ) -> Self:
        """Speak with the parent through standard input and output; whatever else is printed goes to standard error.

        Parameters
        ----------
        protocol : feeds the reader, and may do more when the parent has gone.
        """
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        incoming: Any = os.fdopen(os.dup(0), "rb", buffering=0)
        await loop.connect_read_pipe(lambda: protocol(reader), incoming)
        writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, outgoing)
        return cls(reader, writer)

    @property
    def backlog(self) -> int:
        """Bytes that the other end has not taken yet."""
        return self._writer.get_write_buffer_size()

    def send(self, message: object) -> None:
        """Send a message, or nothing where the other end has gone: `receive` tells."""
        if not self._writer.is_closing():
            data = pickle.dumps(message)
            self._writer.write(len(data).to_bytes(_LENGTH_BYTES) + data)

    async def receive(self) -> Any:
        """Return the next message; None where the other end has gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - see the class
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Send no more: the other end reads what was sent, then the end."""
        self._writer.close()
