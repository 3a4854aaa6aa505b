"""Regions of shared memory that a server has mapped, from the making of each to the server's letting go of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import InferenceTimeoutError, ServerUnavailableError
from kappamask_stream.inference.grpc_errors import translated
from kappamask_stream.inference.server_memory import ServerMemory, is_in_use
from kappamask_stream.inference.shared_memory import Region
from kappamask_stream.inference.token import without_token
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tritonclient.grpc.aio import InferenceServerClient

    from kappamask_stream.errors import ServerError
    from kappamask_stream.inference.endpoint import Endpoint

    T = TypeVar("T")

#: A server that is starting, ending or frozen: it may say something else later.
_PASSING = (ServerUnavailableError, InferenceTimeoutError)
_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 5.0
#: Seconds that closing waits for the server to let go.
_DRAIN_S = 5.0


class Registrations:
    """The regions that one server knows, or may still know.

    The server counts who uses a region and unregisters none before: asking again until it does is how one is drained.

    Parameters
    ----------
    channel, endpoint : to and of the server.
    key, timeout_s : see `ServerMemory`.

    Attributes
    ----------
    refusal : what the server has said against shared memory, its last word.
    shortage : why the last region could not be made; the next one perhaps can.

    State: names that the server may know; the one of them that a request was told is unknown; tasks at work on them.
    """

    def __init__(
        self, channel: InferenceServerClient, endpoint: Endpoint, *, key: str | None, timeout_s: float
    ) -> None:
        self._channel, self._endpoint, self._timeout_s = channel, endpoint, timeout_s
        self._server = ServerMemory(channel, key, timeout_s)
        self.refusal: str | None = None
        self.shortage: str | None = None
        self._names: set[str] = set()
        self._doubted: str | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._names)

    async def first(self, size: int) -> Region | None:
        """Make the first region, and make sure that the server maps it and is the only one that answers.

        Returns
        -------
        None, and `refusal` or `shortage`, where it is not to be had.

        Raises
        ------
        InferenceServerException
            If another try may go well.
        """
        try:
            self.refusal = await self._server.objection() or await self._split()
        except InferenceServerException as error:
            self._bear(error)
        region = await self.another(size) if self.refusal is None else None
        if region is None or not await self._is_known(region):
            return None
        self.start(self._server.remove_abandoned())
        return region

    async def another(self, size: int) -> Region | None:
        """Make a region that the server has mapped; returns and raises as `first` does."""
        made: list[Region] = []
        try:
            await in_thread(None, lambda: made.append(Region.make(size)))
            self._names.add(made[0].name)
            await self._server.register(made[0])
        except OSError as error:
            self.shortage = f"there is no room for it: {error.strerror or error}"
            return None
        except InferenceServerException as error:
            self.give_up(made[0].name)  # it may have been mapped all the same
            self._bear(error)
            return None
        finally:
            for region in made:
                region.unlink()
        return made[0]

    def doubt(self, name: str) -> None:
        """Note a region that a request was told is unknown: before another first one, it is looked who said so."""
        self._doubted = name

    def give_up(self, name: str) -> None:
        """Have the server let go of a region, in the background."""
        if name != self._doubted:
            self.start(self._let_go(name))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something in the background, until it or this ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def aclose(self) -> None:
        """Have the server let go of all regions, waiting a little for those that it uses."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await asyncio.gather(*(self._let_go(name, is_last_try=True) for name in list(self._names)))

    async def _is_known(self, region: Region) -> bool:
        try:
            if await self._server.knows(region.name):
                return True
        except InferenceServerException as error:
            self.give_up(region.name)
            self._bear(error)
            return False
        self.give_up(region.name)
        self.refusal = self._several()
        return False

    async def _split(self) -> str | None:
        """Say so where the region that was unknown to a request is known here: requests reach another server.

        A balancer that gives each connection to another server cannot be found out otherwise. A server that was started
        again knows it nowhere.
        """
        if self._doubted is None:
            return None
        is_known = await self._server.knows(self._doubted, looks=1)
        name, self._doubted = self._doubted, None
        self.give_up(name)
        return self._several() if is_known else None

    def _several(self) -> str:
        return f"several servers answer at {self._endpoint}, and do not share it"

    async def _let_go(self, name: str, *, is_last_try: bool = False) -> None:
        """Have the server let go of a region, as soon as nothing that it works on uses it any more."""
        pause = _PAUSE_S
        while True:
            try:
                await self._server.unregister(name)
                break
            except InferenceServerException as error:
                is_lost = not is_last_try and isinstance(self._meaning(error), _PASSING)
                if not (is_in_use(error) or is_lost):
                    break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        self._names.discard(name)

    def _bear(self, error: InferenceServerException) -> None:
        """Take an error for the server's last word on shared memory, or raise it where another try may go well."""
        meaning = self._meaning(error)
        if isinstance(meaning, _PASSING):
            raise error
        self.refusal = str(meaning)

    def _meaning(self, error: InferenceServerException) -> ServerError:
        hidden = without_token(error, self._channel.plugin())
        return translated(hidden, self._endpoint.text, self._timeout_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark as seen: whoever waited for it may be gone
