"""One model on a Triton Inference Server over gRPC (KServe v2 protocol and Triton's extensions)."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import (
    ContractError,
    InferenceError,
    ModelChangedError,
    ServerError,
    ServerUnavailableError,
)
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.first_contract import contract_of, first_contract
from kappamask_stream.inference.grpc_errors import translated
from kappamask_stream.inference.served import CONTROL_TIMEOUT_S, READS, decisive_differences, is_not_served
from kappamask_stream.inference.tensors import (
    TileLayout,
    arrays_of,
    checked_answer,
    empty_tensors,
)
from kappamask_stream.inference.token import without_token
from kappamask_stream.inference.types import BatchSizes, InferResult, TileRequest, Transport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.security import Security

#: Seconds after which it is looked again whether the servers still serve the model of the contract.
_CONFIRM_S = 30.0
#: Times that they are asked while tiles flow; the next look asks the next ones.
_PASSING_READS = 2


class TritonClient:
    """`InferenceClient` for one model of a Triton server, or of several that serve the same.

    Owns a connection; use as ``async with await TritonClient.connect(...)``. Not for several event loops.

    While tiles are sent it looks now and then whether the contract still holds, and always after a connection was lost:
    the next one may lead to another server. Where it does not hold, because other weights were deployed or not all
    servers have them yet, this and all later calls of `infer` fail: a mask of two networks is no mask.

    State: when it was last seen to hold, how often there was reason to doubt it, and the error with which it was found
    that it holds no longer.
    """

    def __init__(self, connection: Connection, contract: ModelContract, infer_timeout_s: float) -> None:
        self.contract = contract
        self.endpoint = connection.endpoint.text
        self.connection = connection
        self._infer_timeout_s = infer_timeout_s
        self._layouts = {asked: TileLayout.of(contract, probabilities=asked) for asked in (False, True)}
        self._outdated: ContractError | None = None
        self._confirmed_at = asyncio.get_running_loop().time()
        self._doubts = 0

    def __repr__(self) -> str:
        state = f"{', outdated' if self._outdated else ''}, {self.transport.name}"
        return f"<TritonClient {self.contract.name} at {self.endpoint}{state}>"

    @property
    def transport(self) -> Transport:
        """How tiles travel now."""
        memory = self.connection.memory
        return Transport(name="shared memory" if memory.is_used else "gRPC", reason=memory.why_not)

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
    ) -> Self:
        """Connect, wait up to `server_wait_s` for the server, read and check the model's contract.

        Parameters
        ----------
        shared_memory : tiles go through it where the server is on this machine and lets us; False: never.
        memory_key : the server's key for it, where it wants one.

        Raises
        ------
        UsageError
            If the endpoint is malformed, or files of `security` cannot be used.
        ServerUnavailableError
            If nobody answers in time.
        ContractError
            If the model is not there, has no contract, its configuration contradicts it, or servers do not agree.
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
            made = cls(connection, await first_contract(connection, model, server_wait_s), infer_timeout_s)
            await made.settle_transport()
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
                await self.connection.memory.prove(self._layouts[False].nbytes)
        return self.transport

    @property
    def is_doubtful(self) -> bool:
        """True where it is time to `confirm` the contract, or where it holds no longer."""
        age = asyncio.get_running_loop().time() - self._confirmed_at
        return self._outdated is not None or age > _CONFIRM_S

    async def confirm(self, reads: int = READS) -> None:
        """Look whether the servers still serve what the contract says; once they do not, this client is of no more use.

        Parameters
        ----------
        reads : times that servers are asked, where there may be several.

        Raises
        ------
        ModelChangedError
            If another model is served; with both sides.
        ContractError
            If servers do not agree; with both sides.
        ServerError
            If nothing was learnt: nobody answers, or refuses.
        """
        if self._outdated is not None:
            raise type(self._outdated)(str(self._outdated))
        began, doubts = asyncio.get_running_loop().time(), self._doubts
        try:
            served = await contract_of(self.connection, self.contract.name, reads)
        except ContractError as error:
            self._outdated = error
            raise
        except ServerUnavailableError:
            self._doubt()
            raise
        if differences := decisive_differences(self.contract, served):
            self._outdated = ModelChangedError(
                f"{self.endpoint} serves another {self.contract.name} than before: {'; '.join(differences)}; what was "
                "begun with the one cannot be ended with the other: start it again"
            )
            raise self._outdated
        if doubts == self._doubts:  # else a connection was lost meanwhile: what was read may be of the time before
            self._confirmed_at = began

    async def renewed(self) -> Self:
        """Return this client where its contract still holds, else another for what is served now, on its connection.

        Raises
        ------
        ServerError
            As for `confirm`, but where all servers serve the same new model.
        """
        try:
            await self.confirm()
        except ContractError:
            served = await contract_of(self.connection, self.contract.name)
            if not decisive_differences(self.contract, served):  # the servers have come to agree on the old one again
                return type(self)(self.connection, self.contract, self._infer_timeout_s)
            return type(self)(self.connection, served, self._infer_timeout_s)
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
            await self.confirm(_PASSING_READS)
        layout = self._layouts[request.probabilities]
        arrays = arrays_of(request, layout, self.contract, self.endpoint)
        try:
            tensors = await self.connection.exchange(
                self.contract.name, layout, arrays, timeout_s=self._infer_timeout_s
            )
        except InferenceServerException as caught:
            error = without_token(caught, self.connection.channel.plugin())
            raise self._failure(error) from error
        except ValueError as error:
            raise InferenceError(f"the answer of {self.endpoint} is malformed: {error}") from error
        return checked_answer(tensors, self.contract, self.endpoint)

    def _failure(self, error: InferenceServerException) -> ServerError:
        meaning = translated(error, self.endpoint, self._infer_timeout_s)
        if isinstance(meaning, (ContractError, ServerUnavailableError)) or is_not_served(error):
            self._doubt()
        return meaning

    def _doubt(self) -> None:
        """Have the next call look at the contract first."""
        self._doubts += 1
        self._confirmed_at = -math.inf
