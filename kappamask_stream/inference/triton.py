"""One model on a Triton Inference Server over gRPC (KServe v2 protocol and Triton's extensions)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import (
    AnswerError,
    CanaryError,
    ContractError,
    InferenceError,
    ModelChangedError,
    ServerError,
    ServerFaultError,
    ServerUnavailableError,
)
from kappamask_stream.inference.canary_watch import PASSING, CanaryWatch
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.contract_watch import ContractWatch
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.first_contract import contract_of, first_contract
from kappamask_stream.inference.grpc_errors import translated
from kappamask_stream.inference.origin import Origin
from kappamask_stream.inference.served import CONTROL_TIMEOUT_S, READS, decisive_differences, is_not_served
from kappamask_stream.inference.tensors import (
    TileLayout,
    arrays_of,
    checked_answer,
    empty_tensors,
)
from kappamask_stream.inference.token import without_token
from kappamask_stream.inference.types import LEVELS, BatchSizes, InferResult, TileRequest, Transport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.security import Security
    from kappamask_stream.inference.types import Priority

#: Times that they are asked while tiles flow; the next look asks the next ones.
_PASSING_READS = 2


class TritonClient:
    """`InferenceClient` for one model of a Triton server, or of several that serve the same.

    Owns a connection; use as ``async with await TritonClient.connect(...)``. Not for several event loops.

    While tiles are sent it looks now and then whether the contract still holds, and always after a connection was lost:
    the next one may lead to another server. Where it does not hold, because other weights were deployed or not all
    servers have them yet, this and all later calls of `infer` fail: a mask of two networks is no mask. So they do where
    servers answer the canary wrongly (`CanaryWatch`), which is asked for on connecting, every `canary_s` seconds while
    there is something to do, after a connection was lost, even where no request was, and after an answer that cannot
    be used.

    State is in its parts: `ContractWatch`, `CanaryWatch`, `Origin`.
    """

    def __init__(
        self,
        connection: Connection,
        contract: ModelContract,
        infer_timeout_s: float,
        *,
        priority: Priority | None = None,
        canary_s: float | None = 600.0,
    ) -> None:
        connection.expect(contract.answer_bytes)
        self.contract = contract
        self.endpoint = connection.endpoint.text
        self.connection = connection
        self._infer_timeout_s = infer_timeout_s
        self.priority, self._canary_s = priority, canary_s
        self._canary = CanaryWatch(
            connection, contract, self._answer, every_s=canary_s, infer_timeout_s=infer_timeout_s
        )
        self._layouts = {asked: TileLayout.of(contract, probabilities=asked) for asked in (False, True)}
        self._watch = ContractWatch(connection, contract, self._canary.doubt)
        self._origin = Origin()

    def __repr__(self) -> str:
        state = f"{', outdated' if self._watch.is_outdated else ''}, {self.transport.name}"
        return f"<TritonClient {self.contract.name} at {self.endpoint}{state}>"

    @property
    def transport(self) -> Transport:
        """How tiles travel now."""
        memory = self.connection.memory
        return Transport(name="shared memory" if memory.is_used else "gRPC", reason=memory.why_not)

    @property
    def no_canary(self) -> str | None:
        """Why it cannot be seen whether the servers answer rightly, in words; None where it can."""
        return self._canary.why_not

    @classmethod
    async def connect(
        cls,
        endpoint: str,
        model: str,
        *,
        security: Security | None = None,
        infer_timeout_s: float = 120.0,
        server_wait_s: float = 0.0,
        shared_memory: bool = True,
        memory_key: str | None = None,
        priority: Priority | None = None,
        canary_s: float | None = 600.0,
    ) -> Self:
        """Connect, wait up to `server_wait_s` for the server, read and check the model's contract, and its canary.

        Parameters
        ----------
        shared_memory : tiles go through it where the server is on this machine and lets us; False: never.
        memory_key : the server's key for it, where it wants one.
        priority : lane of all tiles; None: the model's default, which is the backlog's in configurations of ours.
        canary_s : seconds after which the canary is asked for again; 0: on connecting, and where there is reason to
            doubt; None: never, for those who look into a server that answers wrongly.

        Raises
        ------
        UsageError
            If the endpoint is malformed, or files of `security` cannot be used.
        ServerUnavailableError
            If nobody answers in time.
        ContractError
            If the model is not there, has no contract, its configuration contradicts it, or servers do not agree.
        CanaryError
            If it answers wrongly.
        ServerError
            If the server refuses: TLS, certificates, token.
        """
        connection = Connection.open(
            parse_endpoint(endpoint),
            security,
            infer_timeout_s=infer_timeout_s,
            shared_memory=shared_memory,
            memory_key=memory_key,
        )
        try:
            contract = await first_contract(connection, model, server_wait_s)
            made = cls(connection, contract, infer_timeout_s, priority=priority, canary_s=canary_s)
            # Tiles take a connection of their own: behind a balancer it leads to another server, maybe.
            with suppress(*PASSING):  # the first tile asks again, and has patience
                await made._watch.confirm(READS)
            await made.settle_transport()
            with suppress(*PASSING):  # the first tile asks for it again, and has patience
                await made.confirm_answers()
        except BaseException:
            await connection.aclose()
            raise
        return made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self.connection.aclose()

    async def settle_transport(self) -> Transport:
        """Find out how tiles travel, as far as it can be found out soon."""
        with suppress(TimeoutError):  # then the first tile finds out
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await self.connection.memory.prove(self._layouts[self.no_canary is None].nbytes)  # it comes first
        return self.transport

    @property
    def is_doubtful(self) -> bool:
        """True where it is time to `confirm` the contract, or where it holds no longer, or answers are wrong."""
        return self._watch.is_due

    async def confirm(self, reads: int = READS) -> None:
        """Look whether servers serve what the contract says and answer rightly; else this client is of no more use.

        So after it the canary was answered rightly, `canary_s` seconds ago at most (0: on connecting, or since there
        was reason to doubt), by each server that is listed and was there to answer it.

        Parameters
        ----------
        reads : times that servers are asked, where there may be several.

        Raises
        ------
        ModelChangedError
            If another model is served; with both sides.
        ContractError
            If servers do not agree; with both sides.
        CanaryError
            If one answers wrongly.
        ServerError
            If nothing was learnt: nobody answers, or refuses.
        """
        await self._watch.confirm(reads)
        await self.confirm_answers(everybody=True)

    async def confirm_answers(self, *, everybody: bool = False) -> None:
        """Have the canary answered, where that is due; raises as `confirm` does.

        Parameters
        ----------
        everybody : see `CanaryWatch.check`.
        """
        try:
            await self._canary.check(everybody=everybody)
        except CanaryError as error:
            self._watch.end(error)
            raise
        except ContractError:
            await self._look_again()
            raise
        except ServerUnavailableError:
            self._watch.doubt()
            raise
        self._watch.require_current()  # it may have been found wrong by somebody else while we waited

    async def renewed(self) -> Self:
        """Return this client where its contract still holds, else another for what is served now, on its connection.

        Raises
        ------
        ServerError
            As for `confirm`, but where all servers serve the same new model, or answer rightly again.
        """
        try:
            await self._watch.confirm(READS)
        except (ContractError, CanaryError):
            served = await contract_of(self.connection, self.contract.name)
            if not decisive_differences(self.contract, served):  # the servers have come to agree on the old one again
                served = self.contract if served.canary is None else served
            made = type(self)(
                self.connection, served, self._infer_timeout_s, priority=self.priority, canary_s=self._canary_s
            )
            await made.confirm_answers()
            return made
        return self

    async def is_ready(self) -> bool:
        """Tell whether the server answers and serves the model right now."""
        try:
            channel = self.connection.channel
            return bool(await channel.is_model_ready(self.contract.name, client_timeout=CONTROL_TIMEOUT_S))
        except InferenceServerException:
            return False

    async def batch_sizes(self) -> BatchSizes:
        """Take a snapshot of executions by batch size from the statistics extension; of one server, where several."""
        try:
            statistics = await self.connection.one.get_inference_statistics(
                self.contract.name, client_timeout=CONTROL_TIMEOUT_S
            )
        except InferenceServerException as caught:
            error = without_token(caught, self.connection.one.plugin())
            return BatchSizes(reason=f"the server does not give statistics: {error.message()}")
        counts: dict[int, int] = {}
        for model in statistics.model_stats:
            for batch in model.batch_stats:
                counts[batch.batch_size] = counts.get(batch.batch_size, 0) + batch.compute_infer.count
        return BatchSizes(counts=counts)

    def new_tensors(self, *, probabilities: bool = False) -> dict[str, NDArray[np.uint16]]:
        """Return arrays for a tile's pixels, to be filled and sent: what is in them is anything.

        Where there is shared memory, and some of it free, they are in it, and are not copied on their way.

        Parameters
        ----------
        probabilities : True where these will be asked for.
        """
        layout = self._layouts[probabilities]
        return empty_tensors(self.contract, layout, self.connection.memory.fill(layout.nbytes))

    async def infer(self, request: TileRequest) -> InferResult:
        """Send one tile once; see `InferenceClient.infer` for the errors."""
        if self.is_doubtful:
            await self._watch.confirm(_PASSING_READS)
        if self._canary.is_due:
            await self.confirm_answers()
        try:
            return await self._answer(self.connection, request)
        except ContractError:
            await self._look_again()
            raise
        except ServerError as error:
            if isinstance(error, ServerUnavailableError) or is_not_served(error.__cause__):
                self._watch.doubt()
            elif isinstance(error, (InferenceError, ServerFaultError)):
                self._canary.doubt()  # the next call finds out whether it is the tile
            raise

    async def _look_again(self) -> None:
        """Find out whether a tile that does not fit has met another network: then that is what is to be told."""
        self._watch.doubt()
        with suppress(*PASSING):
            await self._watch.confirm(_PASSING_READS)

    async def _answer(self, connection: Connection, request: TileRequest) -> InferResult:
        """Send one tile over a connection; see `InferenceClient.infer` for the errors."""
        layout, endpoint = self._layouts[request.probabilities], connection.endpoint.text
        arrays = arrays_of(request, layout, self.contract, endpoint)
        lane = "interactive" if request.urgent else self.priority
        try:
            tensors = await connection.exchange(
                self.contract.name,
                layout,
                arrays,
                timeout_s=self._infer_timeout_s,
                origin=self._origin,
                level=None if lane is None else LEVELS[lane],
            )
        except ModelChangedError as error:
            self._watch.end(error)
            raise
        except InferenceServerException as caught:
            shown = without_token(caught, connection.channel.plugin())
            raise translated(shown, endpoint, self._infer_timeout_s) from shown
        except ValueError as error:
            raise AnswerError(f"the answer of {endpoint} is malformed: {error}") from error
        return checked_answer(tensors, self.contract, endpoint)
