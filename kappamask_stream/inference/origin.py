"""Whose answer it is: of our request, and of the same version of the model as all others of this client."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ModelChangedError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Numbers of requests: a server that mixes up answers, or a proxy, is found out.
_numbers: Iterator[int] = count(1)


def new_request_id() -> str:
    """Return what names one request of this process; servers repeat it in the answer."""
    return str(next(_numbers))


class Origin:
    """The version of a model that a client's answers come from.

    A model's configuration, and the contract in it, are those of all its versions: that another one answers, which was
    put beside the first, nothing but the answer itself tells. It does so for each tile, however short the change was.

    State: the version that gave the first answer; None before.
    """

    def __init__(self) -> None:
        self._version: str | None = None

    def __repr__(self) -> str:
        return f"<Origin, version {self._version}>"

    def check(self, answer: Any, model: str, request_id: str, endpoint: str) -> None:
        """Take the first answer's version, and refuse answers of another one or to another request.

        Parameters
        ----------
        answer : ModelInferResponse of the protocol.
        model, request_id : of the request.
        endpoint : for the message.

        Raises
        ------
        ModelChangedError
            If another version answers than before; with both.
        ValueError
            If the answer is to another request.
        """
        if answer.id != request_id:
            raise ValueError(f"it is to the request {answer.id!r}, not to {request_id!r}")
        self._version = self._version or answer.model_version
        if answer.model_version != self._version:
            raise ModelChangedError(
                f"version {answer.model_version} of {model} answers at {endpoint}, version {self._version} did before: "
                "what was begun with the one cannot be ended with the other: start it again"
            )
