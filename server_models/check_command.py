"""``python -m server_models check``: check a model that some Triton serves, and keep a record where asked to."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from kappamask_stream.errors import ContractError, ServerUnavailableError, UsageError
from server_models.access import Access, open_client
from server_models.check_record import write_record
from server_models.check_tiles import builtin_tiles, load_tiles
from server_models.model_check import ModelCheck
from server_models.reference import reference_graph
from server_models.repository import built_contract

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    Say = Callable[..., None]

#: Built-in tiles: enough for different answers in one batch, few enough that alone they cost little.
_BUILTIN_TILES = 4
_CONTROL_TIMEOUT_S = 30.0


def check(args: argparse.Namespace, say: Say) -> None:
    """Check ``args.model`` at ``args.endpoint`` and say the report.

    Parameters
    ----------
    args : ``access``: JSON of `Access`; ``tiles``: a user's file, None for the built-in ones; ``repository``: where the
        float32 graph lies, None where there is none; ``rests_on``: JSON of what a record of this check rests on (null:
        none is kept), None for a server that is not the local one.

    Raises
    ------
    ServerUnavailableError, ContractError, InputError, UsageError
        If there is nothing to check, or nothing to check it with.
    """
    access = Access.from_json(args.access)
    contract = _served_contract(args.endpoint, access, args.model)
    folder = args.repository / args.model if args.repository else None
    graph = None if folder is None else reference_graph(folder, contract)
    if args.tiles is None:
        tiles = builtin_tiles(contract, min(contract.max_batch, _BUILTIN_TILES))
    else:
        tiles = load_tiles(args.tiles, contract)
    if folder is not None and args.rests_on is None:
        _require_same_weights(contract, args.repository)
        if graph is None and tiles.labels is None:
            raise UsageError(
                f"{folder} holds no float32 graph to compare with: build it again with `kappamask-stream models "
                "build`, or give LABELS with --tiles"
            )
    report = ModelCheck(
        endpoint=args.endpoint,
        contract=contract,
        tiles=tiles,
        graph=graph,
        say=lambda text: say(event="progress", text=f"checking {args.model}: {text}"),
        access=access,
    ).run()
    if args.rests_on is not None and folder is not None:
        rests_on = json.loads(args.rests_on)
        if rests_on is not None:
            with contextlib.suppress(OSError):  # a repository that is another user's: it is checked again next time
                write_record(folder, rests_on, report.to_json())
    say(event="checked", report=report.to_json())


def own_contract(repository: Path, model: str) -> ModelContract | None:
    """Return the contract in the configuration of a model that its owner put into a repository, None without one.

    Raises
    ------
    ContractError
        If the configuration or the contract cannot be read.
    """
    path = repository / model / "config.pbtxt"
    if path.parent.parent != repository or not path.exists():
        return None
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise ContractError(f"{path} is no model configuration: {error}") from error
    return _contract_in(config, str(path))


def _served_contract(endpoint: str, access: Access, model: str) -> ModelContract:
    with contextlib.closing(open_client(endpoint, access)) as client:
        try:
            config = client.get_model_config(model, client_timeout=_CONTROL_TIMEOUT_S).config
        except InferenceServerException as error:
            raise ServerUnavailableError(f"{endpoint} does not serve {model}: {error.message()}") from error
    return _contract_in(config, f"the model {model} at {endpoint}")


def _contract_in(config: Any, where: str) -> ModelContract:
    if PARAMETER_KEY not in config.parameters:
        raise ContractError(f"{where} carries no contract (parameter {PARAMETER_KEY!r}): see docs/models.md")
    return ModelContract.from_json(config.parameters[PARAMETER_KEY].string_value)


def _require_same_weights(contract: ModelContract, repository: Path) -> None:
    """Refuse a reference that is another network's: nothing could be learnt from it."""
    here = built_contract(contract.name, repository)
    if here is None:
        raise UsageError(
            f"{repository / contract.name} holds no model that kappamask-stream built, so no float32 graph to compare "
            "with: name another --repository, or leave it out and give LABELS with --tiles"
        )
    if here.weights_sha256 != contract.weights_sha256:
        raise UsageError(
            f"{contract.name} in {repository} is built from other weights ({here.weights_sha256[:12]}) than the one "
            f"served ({contract.weights_sha256[:12]}): it is no reference for it"
        )
