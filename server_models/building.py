"""Building models for the local server: each in a process of its own, and only where need be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.errors import ServerSetupError, UsageError
from server_models.apart import run_apart
from server_models.registry import known_models
from server_models.repository import built_contract, is_built

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.contract import ModelContract


async def is_up_to_date(model: str, repository: Path, weights: str | None, loaded: ModelContract | None) -> bool:
    """Tell whether a model is as this version would build it, in the repository and, where loaded, on the server.

    Parameters
    ----------
    weights : file that it is to be built from; None for any.
    loaded : contract of the loaded model, None where it is not.

    Raises
    ------
    UsageError
        If the weights cannot be read, or are given for a model that is not built here.
    """
    if _is_its_owners(model, repository, weights):
        return True
    if not await asyncio.to_thread(is_built, model, repository, weights):
        return False
    return loaded is None or loaded == await asyncio.to_thread(built_contract, model, repository)


async def build(
    model: str, repository: Path, weights: str | None, say: Callable[[str], None], *, others: ModelContract | None
) -> None:
    """Build a model anew unless the repository holds it as it would be built.

    Parameters
    ----------
    others : contract of the loaded model where other runs use it; None where nobody does: it may be replaced then.

    Raises
    ------
    KappaMaskError
        If it cannot be built, or must not be replaced now.
    """
    if others is not None:
        raise ServerSetupError(
            f"the local server serves {model} as it was built before, with weights {others.weights_sha256[:12]}, to "
            "other runs: let them end, or end them with `kappamask-stream server stop`, then try again"
        )
    if not await asyncio.to_thread(is_built, model, repository, weights):
        say(f"building {model}")
        arguments = ["build", model, "--repository", str(repository)]
        arguments += ["--weights", weights] if weights is not None else []
        await run_apart(arguments, say, failed=f"cannot build {model}")


def _is_its_owners(model: str, repository: Path, weights: str | None) -> bool:
    """Tell whether a model is none of ours: a folder in the repository is all that it needs."""
    own = repository / model / "config.pbtxt"
    if model in known_models() or own.parent.parent != repository or not own.exists():
        return False
    if weights is not None:
        raise UsageError(f"{model} in {repository} is not built by kappamask-stream: it takes no weights file")
    return True
