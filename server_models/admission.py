"""Which models the local server hands out: those that have passed a check on this machine, as they are now.

A model of somebody's own is its owner's business: it is checked when its owner asks.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ServerSetupError
from server_models.apart import run_apart
from server_models.check_record import identity, recorded
from server_models.registry import known_models
from server_models.repository import built_contract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What is known of a model before it is loaded.

    Attributes
    ----------
    model, repository : name and repository of the model.
    rests_on : what a record of a check rests on; None for a model of somebody's own, of which none is kept.
    report : of the check on record; None where there is none, or where anything it rests on has changed.
    """

    model: str
    repository: Path
    rests_on: dict[str, str] | None
    report: dict[str, Any] | None

    @classmethod
    async def of(cls, model: str, repository: Path) -> Admission:
        """Read the record, and the model's files to see whether it still holds."""
        if model not in known_models():
            return cls(model=model, repository=repository, rests_on=None, report=None)
        rests_on = await asyncio.to_thread(identity, repository / model)
        return cls(model=model, repository=repository, rests_on=rests_on, report=recorded(repository / model, rests_on))

    @property
    def needs_check(self) -> bool:
        """True where the model must pass a check before it is handed out."""
        return self.rests_on is not None and self.report is None

    def require_not_failed(self) -> None:
        """Refuse a model that failed its last check.

        Raises
        ------
        ServerSetupError
            With the figures and the remedies.
        """
        if self.report is not None:
            self.require_passed(self.report)

    def require_passed(self, report: dict[str, Any]) -> None:
        """Refuse the model where a report says that it failed.

        Raises
        ------
        ServerSetupError
            With the figures and the remedies.
        """
        if not report["passed"]:
            raise refusal(self.model, self.repository, report)

    async def check(self, endpoint: str, tiles: str | None, say: Callable[[str], None]) -> dict[str, Any]:
        """Check the model, which is loaded at `endpoint`, in a process apart, and return the report.

        Parameters
        ----------
        tiles : a user's file; None for the built-in ones.

        Raises
        ------
        KappaMaskError
            If it cannot be checked. One that fails its check is no error here.
        """
        arguments = ["check", self.model, "--endpoint", endpoint, "--repository", str(self.repository)]
        arguments += ["--rests-on", json.dumps(self.rests_on)]
        arguments += ["--tiles", tiles] if tiles is not None else []
        event = await run_apart(arguments, say, failed=f"cannot check {self.model}")
        report: dict[str, Any] = event["report"]
        return report


def refusal(model: str, repository: Path, report: dict[str, Any]) -> ServerSetupError:
    """Say why a model is not served, with the figures, and what to do."""
    contract = built_contract(model, repository)
    remedies = ["take --precision f32"] if contract is not None and contract.precision != "f32" else []
    remedies.append(f"check it on pixels of your own with `kappamask-stream models check {model} --product SAFE`")
    if contract is not None:
        remedies.append(f"have it built again after `kappamask-stream models remove {model}`")
    return ServerSetupError(
        f"{model} is not served, it failed its check on {report['tiles']} {report['source']}: "
        f"{'; '.join(report['faults'])}; {', or '.join(remedies)}"
    )
