"""What a Triton client's exceptions mean: one pure function, for gRPC's statuses say little.

Triton answers UNAVAILABLE where its queue is full, where part of the protocol is closed to this client, and gRPC
answers UNAVAILABLE where nobody listens and where certificates are wrong: things that a client must treat in its way
each.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import (
    ContractError,
    InferenceTimeoutError,
    ServerError,
    ServerFaultError,
    ServerOverloadedError,
    ServerUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ANY = ""
#: In front of what Triton says of a request.
_REQUEST = re.compile(r"^\[request id: [^\]]*\] ")
#: What Triton says of a request that it has thrown out of its queue, or not let in.
_TURNED_AWAY = ("exceeds maximum queue size", "request timeout expired")

#: What gRPC says of a message of more bytes than it was told to take.
_TOO_LARGE = re.compile(r"larger than max \((?P<size>[0-9]+) vs\. (?P<most>[0-9]+)\)")

#: What `closed` says.
_CLOSED = "the connection is closed"

#: What gRPC says of a certificate, and the remedy. First match counts.
_CERTIFICATES = [
    ("hostname verification", "it is for another name than this; give the name that it is for"),
    ("expired", "it has expired; have it renewed, or set this machine's clock"),
    ("not yet valid", "it is not valid yet; set this machine's clock"),
    ("issuer", "it is of a CA that is not known here; give the file of the CA with --triton-ca"),
    ("self", "it is of a CA that is not known here; give the file of the CA with --triton-ca"),
]


def _certificate(said: str) -> str:
    """Say what is wrong with a server's certificate, and what to do."""
    reason = said.rpartition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK").strip()
    return next((remedy for text, remedy in _CERTIFICATES if text in reason.lower()), reason)


def _unanswered(at: str, _: str, seconds: float) -> str:
    return f"no answer from {at} within {seconds:g} s (setting infer_timeout_s)"


#: Status (any where empty), texts of which the message holds one (any where empty), what it means. First match counts.
_MEANINGS: list[tuple[str, tuple[str, ...], type[ServerError], Callable[[str, str, float], str]]] = [
    (
        "UNAVAILABLE",
        ("protocol is restricted",),
        ServerError,
        lambda at, said, _: f"the server at {at} refuses: {said}; ask its operator for access",
    ),
    (
        "UNAVAILABLE",
        _TURNED_AWAY,
        ServerOverloadedError,
        lambda at, said, _: f"the queue of the server at {at} is full: {said}",
    ),
    (
        "UNAVAILABLE",
        ("certificate_verify_failed", "hostname verification check failed"),
        ServerError,
        lambda at, said, _: f"the certificate of the server at {at} is not accepted: {_certificate(said)}",
    ),
    (
        "UNAVAILABLE",
        ("wrong_version_number",),
        ServerError,
        lambda at, _, __: f"the server at {at} does not speak TLS: give grpc://HOST:PORT, or start it with TLS",
    ),
    (
        "UNAUTHENTICATED",
        (),
        ServerError,
        lambda at, said, _: f"the server at {at} does not know who asks: {said}; give a good token (triton_token_file)",
    ),
    (
        "PERMISSION_DENIED",
        (),
        ServerError,
        lambda at, said, _: f"the server at {at} does not let us in: {said}; ask its operator for access",
    ),
    (
        "UNIMPLEMENTED",
        (),
        ServerError,
        lambda at, said, _: f"what listens at {at} is no Triton: {said or 'it does not know its protocol'}",
    ),
    (  # A model that is not loaded, or whose process has died: a server that is starting again, for one.
        _ANY,
        ("request for unknown model", "is not healthy", "is not ready"),
        ServerUnavailableError,
        lambda at, said, _: f"the server at {at} does not serve the model now: {said}",
    ),
    (  # It was registered, so this is another server than before.
        _ANY,
        ("unable to find shared memory region",),
        ServerUnavailableError,
        lambda at, said, _: f"the server at {at} was started again: {said}",
    ),
    (  # What gRPC says of a deadline that it has told the server of before it noticed itself.
        _ANY,
        ("stream removed (deadline exceeded)",),
        InferenceTimeoutError,
        _unanswered,
    ),
    (  # On this side, for good: another try would find it closed again.
        "UNAVAILABLE",
        (_CLOSED,),
        ServerError,
        lambda at, _, __: f"the connection to the server at {at} was closed while it was in use",
    ),
    (
        "UNAVAILABLE",
        (),
        ServerUnavailableError,
        lambda at, said, _: f"no server answers at {at}: {said}; is it running and the address right?",
    ),
    (  # A server that ends cancels what it works on. Where we cancel, there is no such answer.
        "CANCELLED",
        (),
        ServerUnavailableError,
        lambda at, said, _: f"the server at {at} broke off: {said}; is it being restarted?",
    ),
    ("ABORTED", (), ServerUnavailableError, lambda at, said, _: f"the server at {at} broke off: {said}"),
    (
        "RESOURCE_EXHAUSTED",
        ("larger than max",),
        ServerError,
        lambda at, said, _: f"{at} takes no messages of this size (a proxy's limit?): {said}",
    ),
    (
        "RESOURCE_EXHAUSTED",
        (),
        ServerOverloadedError,
        lambda at, said, _: f"the server at {at} has no room: {said}",
    ),
    (  # gRPC's words, and a proxy's (Envoy), for a connection that was lost on the way.
        _ANY,
        ("rst_stream", "stream removed", "upstream connect error", "disconnect/reset", "socket closed", "goaway"),
        ServerUnavailableError,
        lambda at, said, _: f"the server at {at} broke off: {said}; is it being restarted?",
    ),
    (
        "DEADLINE_EXCEEDED",
        (),
        InferenceTimeoutError,
        _unanswered,
    ),
    (
        "INVALID_ARGUMENT",
        (),
        ContractError,
        lambda at, said, _: f"the server at {at} refuses the request: {said}",
    ),
]


def translated(error: InferenceServerException, endpoint: str, timeout_s: float) -> ServerError:
    """Return the error of this package's tree for a tritonclient exception.

    Parameters
    ----------
    error : its status is a string like ``StatusCode.UNAVAILABLE``, or None.
    endpoint : for the message.
    timeout_s : seconds that the call was given.
    """
    status = str(error.status() or "").removeprefix("StatusCode.")
    said = _REQUEST.sub("", str(error.message() or ""))
    for expected, texts, kind, describe in _MEANINGS:
        if expected in (_ANY, status) and (not texts or any(text in said.lower() for text in texts)):
            return kind(describe(endpoint, said, timeout_s))
    return ServerFaultError(f"the server at {endpoint} answered {status or 'without a status'}: {said}")


def too_large(error: InferenceServerException, limit: int) -> int | None:
    """Return the bytes of an answer that gRPC refuses on this side as it has more than `limit`; None for other errors.

    Who takes too large a message for an answer is told by the limit: servers and proxies have others, for requests.
    """
    found = _TOO_LARGE.search(str(error.message() or ""))
    if error.status() != "StatusCode.RESOURCE_EXHAUSTED" or found is None or int(found["most"]) != limit:
        return None
    return int(found["size"])


def is_turned_away(error: InferenceServerException) -> bool:
    """Tell whether a server says that it has not worked on a request and will not: nobody reads its tensors then."""
    said = str(error.message() or "").lower()
    return error.status() == "StatusCode.UNAVAILABLE" and any(text in said for text in _TURNED_AWAY)


def closed() -> InferenceServerException:
    """Return what is raised where this side has closed the connection."""
    return InferenceServerException(msg=_CLOSED, status="StatusCode.UNAVAILABLE")


@contextmanager
def unless_closed() -> Iterator[None]:
    """Wait for what closing the connection cancels: whoever was not cancelled himself is told so, not cancelled.

    Raises
    ------
    InferenceServerException
        If the connection was closed.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise closed() from error
