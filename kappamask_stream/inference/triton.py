"""One model on a Triton Inference Server over gRPC (KServe v2 protocol and Triton's extensions)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput, model_config_pb2
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from kappamask_stream.contract import FAULT_LABEL, PARAMETER_KEY, ModelContract
from kappamask_stream.errors import (
    ContractError,
    InferenceError,
    InferenceTimeoutError,
    ServerUnavailableError,
    UsageError,
)
from kappamask_stream.inference.grpc_errors import translated
from kappamask_stream.inference.types import BatchSizes, InferResult, TileRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Seconds for calls that carry no pixels.
_CONTROL_TIMEOUT_S = 10.0
_TYPES = {
    model_config_pb2.TYPE_UINT8: "UINT8",
    model_config_pb2.TYPE_UINT16: "UINT16",
    model_config_pb2.TYPE_FP32: "FP32",
}
_LARGEST_MESSAGE = 2**31 - 1

#: Passing channel arguments to tritonclient replaces its defaults, so all of them stand here. Keep-alive
#: pings find a peer that vanished without a FIN within half a minute.
_CHANNEL_ARGS = [
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.lb_policy_name", "round_robin"),
    # A server that restarts is found again within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def grpc_target(endpoint: str) -> str:
    """Turn ``grpc://HOST:PORT`` into a gRPC target.

    Raises
    ------
    UsageError
        Where the scheme is another one or host or port are missing.
    """
    parts = urlsplit(endpoint if "//" in endpoint else f"grpc://{endpoint}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "grpc" or not parts.hostname or port is None:
        raise UsageError(f"--triton {endpoint!r} is no endpoint: give grpc://HOST:PORT, e.g. grpc://127.0.0.1:8001")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


class TritonClient:
    """`InferenceClient` for one model of a Triton server.

    Owns one gRPC channel; use as ``async with await TritonClient.connect(...)``. Not for several event loops.
    """

    def __init__(
        self, channel: InferenceServerClient, endpoint: str, contract: ModelContract, infer_timeout_s: float
    ) -> None:
        self.contract = contract
        self.endpoint = endpoint
        self._channel = channel
        self._infer_timeout_s = infer_timeout_s

    def __repr__(self) -> str:
        return f"<TritonClient {self.contract.name} at {self.endpoint}>"

    @classmethod
    async def connect(
        cls, endpoint: str, model: str, *, infer_timeout_s: float = 120.0, server_wait_s: float = 0.0
    ) -> Self:
        """Connect, wait up to `server_wait_s` for the server, read and check the model's contract.

        Raises
        ------
        UsageError
            If the endpoint is malformed.
        ServerUnavailableError
            If nobody answers in time.
        ContractError
            If the model is not there, has no contract, or its configuration contradicts it.
        """
        channel = InferenceServerClient(grpc_target(endpoint), channel_args=_CHANNEL_ARGS)
        try:
            config = await _model_config(channel, endpoint, model, server_wait_s)
            return cls(channel, endpoint, _checked_contract(config, model, endpoint), infer_timeout_s)
        except BaseException:
            await channel.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def is_ready(self) -> bool:
        """Tell whether the server answers and serves the model right now."""
        try:
            return bool(await self._channel.is_model_ready(self.contract.name, client_timeout=_CONTROL_TIMEOUT_S))
        except InferenceServerException:
            return False

    async def batch_sizes(self) -> BatchSizes:
        """Take a snapshot of executions by batch size from the statistics extension."""
        try:
            statistics = await self._channel.get_inference_statistics(
                self.contract.name, client_timeout=_CONTROL_TIMEOUT_S
            )
        except InferenceServerException as error:
            return BatchSizes(reason=f"the server does not give statistics: {error.message()}")
        counts: dict[int, int] = {}
        for model in statistics.model_stats:
            for batch in model.batch_stats:
                counts[batch.batch_size] = counts.get(batch.batch_size, 0) + batch.compute_infer.count
        return BatchSizes(counts=counts)

    async def infer(self, request: TileRequest) -> InferResult:
        """Send one tile once; see `InferenceClient.infer` for the errors."""
        names = ["LABELS", "PROBABILITIES"] if request.probabilities else ["LABELS"]
        try:
            answer = await self._channel.infer(
                self.contract.name,
                self._inputs(request),
                outputs=[InferRequestedOutput(name) for name in names],
                client_timeout=self._infer_timeout_s,
            )
            tensors = {name: answer.as_numpy(name) for name in names}
        except InferenceServerException as error:
            raise translated(error, self.endpoint, self._infer_timeout_s) from error
        except ValueError as error:  # a tensor whose bytes do not fill its shape
            raise InferenceError(f"the answer of {self.endpoint} is malformed: {error}") from error
        return self._checked(tensors)

    def _inputs(self, request: TileRequest) -> list[InferInput]:
        inputs = []
        for name, dtype, shape, array in self._parts(request):
            if array is None or array.dtype != dtype or array.shape != shape:
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise ContractError(
                    f"{request.name}: {name} is {found}, the contract of {self.contract.name} at {self.endpoint} "
                    f"says {dtype.__name__} {list(shape)}"
                )
            tensor = InferInput(name, [1, *shape], np_to_triton_dtype(dtype))
            tensor.set_data_from_numpy(array[np.newaxis])
            inputs.append(tensor)
        return inputs

    def _parts(self, request: TileRequest) -> list[tuple[str, type, tuple[int, ...], NDArray[Any] | None]]:
        """List a request's tensors: name, type and shape by the contract, and what the request holds."""
        parts: list[tuple[str, type, tuple[int, ...], NDArray[Any] | None]] = [
            (g.tensor, np.uint16, (len(g.bands), g.tile, g.tile), request.tensors.get(g.tensor))
            for g in self.contract.inputs
        ]
        channels = (len(self.contract.channels),)
        parts += [("OFFSET", np.float32, channels, request.offset), ("SCALE", np.float32, channels, request.scale)]
        return parts

    def _checked(self, tensors: dict[str, NDArray[Any] | None]) -> InferResult:
        """Refuse answers that do not have the contract's shape or hold the fault value."""
        size = self.contract.tile_size
        shapes = {
            "LABELS": (1, size, size),
            "PROBABILITIES": (1, len(self.contract.probability_classes), size, size),
        }
        for name, tensor in tensors.items():
            if tensor is None or tensor.shape != shapes[name] or tensor.dtype != np.uint8:
                given = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                raise InferenceError(
                    f"{name} from {self.endpoint} is {given}, the contract of {self.contract.name} "
                    f"says uint8 {list(shapes[name])}"
                )
        labels = tensors["LABELS"]
        assert labels is not None  # noqa: S101 - checked above, for the type checker
        # Counting is cheaper than sorting, and this runs on the event loop for every tile.
        found = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=FAULT_LABEL + 1)).tolist())
        if FAULT_LABEL in found:
            raise InferenceError(
                f"the network of {self.contract.name} gave values that are not finite (LABELS {FAULT_LABEL})"
            )
        allowed = {c.value for c in self.contract.classes}
        if not found <= allowed:
            raise InferenceError(
                f"LABELS from {self.endpoint} hold classes {sorted(found - allowed)}, "
                f"the contract of {self.contract.name} knows {sorted(allowed)}"
            )
        probabilities = tensors.get("PROBABILITIES")
        return InferResult(labels=labels[0], probabilities=None if probabilities is None else probabilities[0])


async def _model_config(channel: InferenceServerClient, endpoint: str, model: str, server_wait_s: float) -> Any:
    """Ask for a model's configuration until the server answers or patience ends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + server_wait_s
    while True:
        try:
            answer = await channel.get_model_config(model, client_timeout=_CONTROL_TIMEOUT_S)
        except InferenceServerException as error:
            meaning = translated(error, endpoint, _CONTROL_TIMEOUT_S)
            if error.status() == str(grpc.StatusCode.NOT_FOUND):
                raise ContractError(
                    f"the server at {endpoint} does not serve {model}: {error.message()}; deploy it there "
                    f"(`kappamask-stream models build {model}`) or name another with --model"
                ) from error
            if isinstance(meaning, InferenceTimeoutError):
                meaning = ServerUnavailableError(
                    f"{endpoint} accepts connections and does not answer within {_CONTROL_TIMEOUT_S:g} s: "
                    "is it the gRPC port of a Triton?"
                )
            if not meaning.retryable or loop.time() >= deadline:
                raise meaning from error
            await asyncio.sleep(0.5)
        else:
            return answer.config


def _checked_contract(config: Any, model: str, endpoint: str) -> ModelContract:
    """Read the contract out of a model configuration and compare the two."""
    if PARAMETER_KEY not in config.parameters:
        raise ContractError(
            f"the model {model} at {endpoint} carries no contract (parameter {PARAMETER_KEY!r}): "
            "it was not deployed for kappamask-stream; see docs/models.md"
        )
    contract = ModelContract.from_json(config.parameters[PARAMETER_KEY].string_value)
    if contract.name != model:
        raise ContractError(f"the model {model} at {endpoint} carries the contract of {contract.name}")
    declared = {t.name: (_TYPES.get(t.data_type, "?"), *t.dims) for t in (*config.input, *config.output)}
    size, channels = contract.tile_size, len(contract.channels)
    expected: dict[str, tuple[str | int, ...]] = {
        g.tensor: ("UINT16", len(g.bands), g.tile, g.tile) for g in contract.inputs
    }
    expected |= {"OFFSET": ("FP32", channels), "SCALE": ("FP32", channels)}
    expected |= {
        "LABELS": ("UINT8", size, size),
        "PROBABILITIES": ("UINT8", len(contract.probability_classes), size, size),
    }
    if declared != expected:
        names = sorted(name for name in declared | expected if declared.get(name) != expected.get(name))
        raise ContractError(
            f"the model {model} at {endpoint} has {_shown(declared, names)}, its contract says "
            f"{_shown(expected, names)}: deploy it again"
        )
    return contract


def _shown(tensors: dict[str, tuple[str | int, ...]], names: list[str]) -> str:
    return ", ".join(f"{name} {list(tensors[name])}" if name in tensors else f"no {name}" for name in names)
