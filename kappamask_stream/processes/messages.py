"""What parent and children say to each other. Values; they travel pickled, between processes of one program.

parent -> child     Setup, then Job ...; Answer to each question. The end of the stream means: stop now.
child -> parent     Picture ..., Ended for each Job; Question; TurnOver; Note
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from kappamask_stream.errors import InternalError, KappaMaskError, error_kinds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.models import ModelChoice
    from kappamask_stream.result import ProductProgress, ProductResult
    from kappamask_stream.runner import Order
    from kappamask_stream.settings import Settings

#: What is shown of a product in work.
_SHOWN = (
    "product", "state", "tiles_total", "tiles_read", "tiles_in_flight", "tiles_done", "pixels_read", "started", "note",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The first message to a child: what all its products are masked with.

    Attributes
    ----------
    settings : with the child's share of what is shared.
    processes : that share what a store allows one user.
    """

    choice: ModelChoice
    settings: Settings
    order: Order
    processes: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """Mask a product; `number` tells it from the others of this child."""

    number: int
    where: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How a product in work looks now: values of `ProductProgress` by name."""

    number: int
    values: Mapping[str, Any]

    @classmethod
    def of(cls, number: int, progress: ProductProgress) -> Self:
        """Take a picture."""
        return cls(number=number, values={name: getattr(progress, name) for name in _SHOWN})

    def show(self, progress: ProductProgress) -> None:
        """Make another object look the same."""
        for name, value in self.values.items():
            setattr(progress, name, value)


class TracebackOfChildError(Exception):
    """Stands as the cause of an error for one that was raised in another process: its traceback as text."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of ours on its way to another process.

    Attributes
    ----------
    kind : name of its class.
    message : all it says.
    trace : traceback of what caused a fault of the program; None for other errors.
    """

    kind: str
    message: str
    trace: str | None = None

    @classmethod
    def of(cls, error: KappaMaskError) -> Self:
        """Pack an error."""
        trace = None
        if isinstance(error, InternalError) and error.__cause__ is not None:
            trace = "".join(traceback.format_exception(error.__cause__))
        return cls(kind=type(error).__name__, message=str(error), trace=trace)

    def error(self) -> KappaMaskError:
        """Return an error of the same kind."""
        error = error_kinds().get(self.kind, KappaMaskError)(self.message)
        if self.trace is not None:
            error.__cause__ = TracebackOfChildError(f"in another process:\n{self.trace}")
        return error


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a product ended; its error travels as a `Failure`."""

    number: int
    packed: ProductResult
    failure: Failure | None

    @classmethod
    def of(cls, number: int, result: ProductResult) -> Self:
        """Pack a result."""
        failure = None if result.error is None else Failure.of(result.error)
        return cls(number=number, packed=replace(result, error=None), failure=failure)

    @property
    def result(self) -> ProductResult:
        """The result, with an error of the same kind."""
        return replace(self.packed, error=None if self.failure is None else self.failure.error())


@dataclass(frozen=True, kw_only=True)
class Question:
    """Something that only the parent may decide; `ticket` is in its `Answer`."""

    ticket: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelWanted(Question):
    """Is there a model for a product level? The parent connects first: a local server is started once, and told of."""

    level: str


@dataclass(frozen=True, kw_only=True)
class TurnWanted(Question):
    """May this job write these files? See `runner.Turns`."""

    number: int
    place: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Yes, or why not."""

    ticket: int
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class TurnOver:
    """The files of a `TurnWanted` are written, or will not be."""

    ticket: int


@dataclass(frozen=True, kw_only=True)
class Note:
    """What happened between products: a store is asked again."""

    cause: str
    text: str
