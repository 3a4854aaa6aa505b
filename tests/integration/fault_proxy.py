"""A TCP proxy that injects faults between a client and a real server: the network on a bad day.

It runs in a thread of its own with an event loop of its own, so that tests of commands in other processes use it, too.
Its attributes may be changed while connections are open; they hold for bytes that pass from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")
_CHUNK = 1 << 16
#: Chunks that may be on their way at once where there is latency: of a connection and direction, 4 MB.
_ON_THEIR_WAY = 64
#: With this a close sends RST: a cable that is cut, a process that died, not a polite end.
_RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Use as a context manager.

    Parameters
    ----------
    server : HOST:PORT.
    listen : HOST:PORT; port 0 is any.

    Attributes
    ----------
    address : on which it listens.
    server : to which new connections go.
    latency_s : after which every chunk passes, either way; those behind it are on their way meanwhile.
    bytes_per_s : of each connection and direction; None is no limit.
    refuses : True resets new connections at once.
    cut_after : bytes from the server after which a connection is reset; None never.
    draw_cut : is asked for another `cut_after` for every connection.
    cut_points : counts of bytes passed, either way, at which all connections are reset; each is used up.
    hold_after : bytes to the server after which a connection passes nothing more on to it, until `let_go`; None never.
    hold_from : bytes that the server must have answered on the connection before those count.
    held : is set once a connection is held.
    corrupt : changes bytes on their way; is given ``to_server`` and a chunk.
    connections, cuts, corrupted, passed : counts of connections, of connections that were reset, of chunks that were
        changed, and of bytes that passed.
    """

    def __init__(self, server: str, listen: str = "127.0.0.1:0") -> None:
        self.server, self._listens_on = server, _parts(listen)
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.refuses = False
        self.cut_after: int | None = None
        self.draw_cut: Callable[[], int] | None = None
        self.cut_points: deque[int] = deque()
        self.hold_after: int | None = None
        self.hold_from = 0
        self.held = threading.Event()
        self.corrupt: Callable[[bool, bytes], bytes] | None = None
        self.connections = self.cuts = self.corrupted = self.passed = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        # The mutable state below belongs to the loop's thread.
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._let_go = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = self._do(self._listen())
        self.address = "{}:{}".format(*self._listener.sockets[0].getsockname())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> int:
        """Reset all connections that are open; return how many."""
        return self._do(self._cut())

    def freeze(self) -> int:
        """Have connections that are open pass nothing any more, ever, and say nothing; return how many."""
        return self._do(self._freeze())

    def stall(self) -> None:
        """Pass nothing on, and keep connections open, until `go_on`."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def go_on(self) -> None:
        """End a stall; what was held back passes."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def let_go(self) -> None:
        """Hold no connection from now on."""
        self.hold_after = None
        self._loop.call_soon_threadsafe(self._let_go.set)

    def _do(self, work: Coroutine[object, object, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, *self._listens_on)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refuses:
                self._reset(writer)
                return
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy ends
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*_parts(self.server))
        except OSError:
            self._reset(writer)
            return
        both = {writer, server_writer}
        self._open |= both
        answered = [0]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, server_writer, answered, to_server=True))
                group.create_task(self._pass_on(server_reader, writer, answered, to_server=False))
        finally:
            self._open -= both
            for one in both:
                one.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: list[int], *, to_server: bool
    ) -> None:
        """Pass bytes one way; `answered` counts those that the connection's server has sent."""
        passed = counted = 0
        drawn = None if self.draw_cut is None or to_server else self.draw_cut()
        late = _Late(self, reader)
        with contextlib.suppress(OSError), contextlib.closing(late):
            while data := await late.read():
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                await self._flowing.wait()
                if writer in self._frozen:
                    await asyncio.get_running_loop().create_future()
                counted = counted + len(data) if to_server and answered[0] >= self.hold_from else 0
                if self.hold_after is not None and counted > self.hold_after:
                    self.held.set()
                    await self._let_go.wait()
                cut_after = self.cut_after if drawn is None else drawn
                if cut_after is not None and not to_server and passed + len(data) > cut_after:
                    writer.write(data[: cut_after - passed])
                    await writer.drain()
                    self._reset(writer)
                    return
                if self.cut_points and self.passed + len(data) > self.cut_points[0]:
                    writer.write(data[: max(0, self.cut_points.popleft() - self.passed)])
                    await writer.drain()
                    await self._cut()
                    return
                if self.corrupt is not None and (changed := self.corrupt(to_server, data)) != data:
                    self.corrupted += 1
                    data = changed
                writer.write(data)
                await writer.drain()
                passed += len(data)
                self.passed += len(data)
                answered[0] += 0 if to_server else len(data)
            writer.write_eof()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def _cut(self) -> int:
        held = list(self._open)
        for writer in held:
            self._reset(writer)
        return len(held) // 2

    async def _freeze(self) -> int:
        self._frozen |= self._open
        return len(self._open) // 2

    async def _close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()


class _Late:
    """Reads for a proxy: chunks come `latency_s` after they were there. With latency it reads ahead.

    State: once there was latency, chunks that are on their way, with the time at which they arrive, and who takes them.
    """

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader) -> None:
        self._proxy, self._reader = proxy, reader
        self._coming: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_ON_THEIR_WAY)
        self._taking: asyncio.Task[None] | None = None

    async def read(self) -> bytes:
        """Return the next chunk; empty: the end.

        Raises
        ------
        OSError
            If the connection is lost.
        """
        if self._taking is None:
            if not self._proxy.latency_s:
                return await self._chunk()
            self._taking = asyncio.create_task(self._take())
        due, data = await self._coming.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        if data is None:
            raise ConnectionResetError
        return data

    def close(self) -> None:
        """Take no more."""
        if self._taking is not None:
            self._taking.cancel()

    async def _take(self) -> None:
        data: bytes | None = b"."
        while data:
            try:
                data = await self._chunk()
            except OSError:
                data = None
            await self._coming.put((asyncio.get_running_loop().time() + self._proxy.latency_s, data))

    async def _chunk(self) -> bytes:
        rate = self._proxy.bytes_per_s
        return await self._reader.read(_CHUNK if rate is None else max(1, int(rate / 10)))


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
