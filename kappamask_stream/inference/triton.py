"""One model on a Triton Inference Server over gRPC (KServe v2 protocol and Triton's extensions)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Self

from tritonclient.grpc import InferRequestedOutput
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
from kappamask_stream.inference.tensors import checked_answer, inputs_of
from kappamask_stream.inference.token import without_token
from kappamask_stream.inference.types import BatchSizes, InferResult, TileRequest

if TYPE_CHECKING:
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
        self._outdated: ContractError | None = None
        self._confirmed_at = asyncio.get_running_loop().time()
        self._doubts = 0

    def __repr__(self) -> str:
        return f"<TritonClient {self.contract.name} at {self.endpoint}{', outdated' if self._outdated else ''}>"

    @classmethod
    async def connect(
        cls,
        endpoint: str,
        model: str,
        *,
        security: Security | None = None,
        infer_timeout_s: float = 120.0,
        server_wait_s: float = 0.0,
    ) -> Self:
        """Connect, wait up to `server_wait_s` for the server, read and check the model's contract.

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
        connection = Connection.open(parse_endpoint(endpoint), security, infer_timeout_s=infer_timeout_s)
        try:
            return cls(connection, await first_contract(connection, model, server_wait_s), infer_timeout_s)
        except BaseException:
            await connection.aclose()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self.connection.aclose()

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

    async def infer(self, request: TileRequest) -> InferResult:
        """Send one tile once; see `InferenceClient.infer` for the errors."""
        if self.is_doubtful:
            await self.confirm(_PASSING_READS)
        names = ["LABELS", "PROBABILITIES"] if request.probabilities else ["LABELS"]
        try:
            answer = await self.connection.channel.infer(
                self.contract.name,
                inputs_of(request, self.contract, self.endpoint),
                outputs=[InferRequestedOutput(name) for name in names],
                client_timeout=self._infer_timeout_s,
            )
            tensors = {name: answer.as_numpy(name) for name in names}
        except InferenceServerException as caught:
            error = without_token(caught, self.connection.channel.plugin())
            raise self._failure(error) from error
        except ValueError as error:  # a tensor whose bytes do not fill its shape
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
