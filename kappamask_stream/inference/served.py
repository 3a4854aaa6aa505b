"""What a model on a server, or on several behind one name, says of itself: its contract, checked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from kappamask_stream.errors import ContractError, InferenceTimeoutError, ServerError, ServerUnavailableError
from kappamask_stream.inference.grpc_errors import too_large, translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.inference.channel import Connection

#: Seconds for calls that carry no pixels.
CONTROL_TIMEOUT_S = 10.0
#: Bytes of their answers, far more than any has: a configuration with its contract, statistics.
LARGEST_CONTROL = 16 << 20
#: Times that several servers behind one name are asked: calls go in turn to those that are connected by then.
READS = 8
_BETWEEN_S = 0.01
_TYPES = {
    model_config_pb2.TYPE_UINT8: "UINT8",
    model_config_pb2.TYPE_UINT16: "UINT16",
    model_config_pb2.TYPE_FP32: "FP32",
}


async def served_contract(connection: Connection, model: str, *, reads: int) -> ModelContract:
    """Read a model's contract, several times where several servers may answer, and check it.

    Parameters
    ----------
    connection : its calls go to all servers in turn.
    reads : calls; those that fail count for nothing as long as one succeeds.

    Raises
    ------
    ContractError
        If the model has no contract, its configuration contradicts it, or servers do not agree.
    ServerError
        If no call succeeds: the first failure; see `is_not_served`.
    """
    configs: list[Any] = []
    endpoint = connection.endpoint.text
    failures: list[ServerError] = []
    for read in range(reads):
        if read:
            await asyncio.sleep(_BETWEEN_S)
        try:
            configs.append(await _config(connection, model))
        except ServerError as error:
            failures.append(error)
            if not is_not_served(error.__cause__):  # nobody answers, or refuses: no use in asking on
                break
    if not configs:
        raise failures[0]
    contracts = [_checked(config, model, endpoint) for config in _different(configs)]
    for other in contracts[1:]:
        if differences := decisive_differences(contracts[0], other):
            raise ContractError(
                f"the servers behind {endpoint} do not serve the same {model}: {'; '.join(differences)}; masks would "
                "be mixed from both: deploy one of them on all servers"
            )
    return next((contract for contract in contracts if contract.canary is not None), contracts[0])


def decisive_differences(one: ModelContract, other: ModelContract) -> list[str]:
    """Name what differs between two contracts and becomes part of a mask's fingerprint; with both sides."""
    indifferent = {name: getattr(one, name) for name in ("max_batch", "instances", "canary", "schema_version")}
    return one.differences(replace(other, **indifferent))


def is_not_served(error: BaseException | None) -> bool:
    """Tell whether a client's error says that the server is there and has no such model, or has not loaded it yet."""
    return isinstance(error, InferenceServerException) and error.status() == str(grpc.StatusCode.NOT_FOUND)


async def _config(connection: Connection, model: str) -> Any:
    endpoint = connection.endpoint.text
    try:
        return await connection.config(model, timeout_s=CONTROL_TIMEOUT_S)
    except InferenceServerException as error:
        if (size := too_large(error, LARGEST_CONTROL)) is not None:
            raise ContractError(
                f"the configuration of {model} at {endpoint} has {size} bytes, at most {LARGEST_CONTROL} are read: "
                "deploy it again"
            ) from error
        meaning = translated(error, endpoint, CONTROL_TIMEOUT_S)
        if isinstance(meaning, InferenceTimeoutError):
            meaning = ServerUnavailableError(
                f"{endpoint} accepts connections and does not answer within {CONTROL_TIMEOUT_S:g} s: "
                "is it the gRPC port of a Triton?"
            )
        raise meaning from error


def _different(configs: Sequence[Any]) -> list[Any]:
    """Keep one of those that are equal."""
    return list({config.SerializeToString(deterministic=True): config for config in configs}.values())


def _checked(config: Any, model: str, endpoint: str) -> ModelContract:
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
