"""What must be there before a worker takes its first message: tried part by part, so that each failure is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.destinations import make_destination
from kappamask_stream.errors import ContractError, QueueAccessError, UsageError
from kappamask_stream.queues import SqsQueue, dead_letter_queue_of, open_sink
from kappamask_stream.queues.addresses import is_arn, is_same_queue, place_of_topic
from kappamask_stream.queues.clients import Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kappamask_stream.models import ModelPool
    from kappamask_stream.queues import Sink
    from kappamask_stream.resources import ServedModel
    from kappamask_stream.s3 import Stores
    from kappamask_stream.settings import Settings

#: Requests that may be pending for each one that a server computes at once; a client alone keeps two in flight.
_PENDING_EACH = 4
#: What is tried to be written, and never is.
_TRIED = "kappamask-stream"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What was found.

    Attributes
    ----------
    dead_letters : takes messages that can never be done; None: there is none.
    sink : is told of finished masks; None: nobody is.
    pending_most : requests pending in the inference server above which no new product is taken.
    """

    dead_letters: SqsQueue | None
    sink: Sink | None
    pending_most: int


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Tries all that a worker needs.

    Attributes
    ----------
    settings : as the worker has them.
    levels : of products that are wanted.
    queue, models, stores : as they were opened.
    warn : told in words of what is worth knowing, and no reason not to begin.
    """

    settings: Settings
    levels: Sequence[str]
    queue: SqsQueue
    models: ModelPool
    stores: Stores
    warn: Callable[[str], None]

    async def run(self) -> Ready:
        """Try it, the quickest first.

        Raises
        ------
        KappaMaskError
            The first part that is not there, with its exit code: `QueueError`, `OutputError`, `ServerError`, or
            `UsageError` where masks are told to a queue that the worker reads, or the model is of another level than
            the products that are wanted.
        """
        await self.queue.stats()
        dead_letters = await self._dead_letters()
        sink = await self._sink(dead_letters)
        await self.try_output()
        return Ready(dead_letters=dead_letters, sink=sink, pending_most=await self._pending_most())

    async def try_output(self) -> None:
        """See that masks can be written.

        Raises
        ------
        KappaMaskError
            Why not.
        """
        await (await make_destination(self.settings.output, "", self.stores)).prepare([_TRIED])

    async def _dead_letters(self) -> SqsQueue | None:
        named = self.settings.dead_letter_queue
        found = await dead_letter_queue_of(self.queue, named)
        if found is None:
            self.warn(
                f"{self.queue.url} has no dead-letter queue: messages that can never be done come back every "
                f"{self.settings.retry_most_s:g} s until their retention ends; give the queue a redrive policy, or "
                "name one with --dead-letter-queue"
            )
        elif named is not None:
            await self._look(found.stats())
        return found

    async def _sink(self, dead_letters: SqsQueue | None) -> Sink | None:
        target, clients = self.settings.emit, self.queue.clients
        if target is None:
            return None
        sink = open_sink(target, clients)
        if not is_arn(target):
            for queue, what in ((self.queue, "queue that products come from"), (dead_letters, "dead-letter queue")):
                if queue is not None and is_same_queue(queue.url, target):
                    raise UsageError(f"--emit {target} is the {what}: what is told of masks needs a queue of its own")
        await self._look(self._topic_is_there(target) if is_arn(target) else SqsQueue(target, clients).stats())
        return sink

    async def _topic_is_there(self, arn: str) -> None:
        params = {"TopicArn": arn}
        call = Call(place=place_of_topic(arn), operation="get_topic_attributes", what=f"topic {arn}", params=params)
        await self.queue.clients.call(call)

    async def _look(self, look: Awaitable[object]) -> None:
        """See that a queue or topic is there. Who may only send may not look: that is no reason not to begin."""
        try:
            await look
        except QueueAccessError as error:
            self.warn(f"whether it is there will be seen with the first message: {error}")

    async def _pending_most(self) -> int:
        """Connect to the models of all wanted levels, and see that they are for these."""
        most = 1
        for level in self.levels:
            contract = (await self._model(level)).client.contract
            if contract.level != level:
                raise UsageError(
                    f"the model {contract.name} is for {contract.level} products, and {level} ones are wanted, too: "
                    f"give --level {contract.level}"
                )
            most = max(most, _PENDING_EACH * contract.max_batch * contract.instances)
        return self.settings.pending_most or most

    async def _model(self, level: str) -> ServedModel:
        try:
            return await self.models.get(level)
        except (ContractError, UsageError) as error:
            if len(self.levels) == 1:
                raise
            raise type(error)(f"{error}; or, if products of one level only are wanted, give --level") from error
