"""A token that goes with each request, kept out of everything that is said."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from tritonclient._request import Request

#: Seconds between two looks at whether the file has changed; a look is one `stat`.
_LOOK_S = 1.0
_LARGEST = 64 * 1024
#: Tokens that were sent before and may still be in an answer: a request lives for minutes, a token for longer.
_MOST_FORMER = 4


class BearerToken:
    """Puts ``authorization: Bearer …`` on requests, as a tritonclient's plugin; the file is read again when it changes.

    Where it cannot be read then, the token that was good before goes on being sent: files are replaced in two steps.

    Raises
    ------
    UsageError
        When it is made, if the file cannot be read or holds no token.

    State: the token, the last ones before it, what the file looked like when it was read, and when it was looked at
    last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._seen = _looks(path.stat())
            self._token = _token(path)
        except OSError as error:
            raise UsageError(f"setting triton_token_file: {path} cannot be read: {error.strerror or error}") from error
        self._former: deque[str] = deque(maxlen=_MOST_FORMER)
        self._looked = time.monotonic()

    def __repr__(self) -> str:
        return f"<BearerToken of {self._path}>"

    def __call__(self, request: Request) -> None:
        """Give a request its header."""
        name, value = self.header()
        request.headers[name] = value

    def header(self) -> tuple[str, str]:
        """Return the name and the value of a request's header."""
        if time.monotonic() - self._looked > _LOOK_S:
            self._look()
        return "authorization", f"Bearer {self._token}"

    def hide(self, text: str) -> str:
        """Take the token out of a text, and those that were sent before it: answers to them may come later."""
        for token in sorted({self._token, *self._former}, key=len, reverse=True):  # one may be the begin of another
            text = text.replace(token, "…")
        return text

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            seen = _looks(self._path.stat())
            if seen == self._seen:
                return
            token = _token(self._path)
        except (OSError, UsageError):
            return
        if token != self._token:
            self._former.append(self._token)
        self._token, self._seen = token, seen


def without_token(error: InferenceServerException, plugin: object) -> InferenceServerException:
    """Return a client's error without the token of its plugin: a server may repeat what it was sent."""
    if not isinstance(plugin, BearerToken):
        return error
    return InferenceServerException(msg=plugin.hide(str(error.message() or "")), status=error.status())


def _looks(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _token(path: Path) -> str:
    """Read a token; what is wrong with it is said without any of it."""
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise UsageError(f"setting triton_token_file: {path} is larger than {_LARGEST} bytes: is it a token?")
    token = content.strip()
    if re.fullmatch(rb"[\x21-\x7e]+", token) is None:
        raise UsageError(
            f"setting triton_token_file: {path} must hold one token of printable ASCII and nothing else, and is "
            f"{'empty' if not token else 'something else'}"
        )
    return token.decode()
