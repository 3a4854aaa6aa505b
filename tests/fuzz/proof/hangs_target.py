"""A parser that loops for ever on inputs that begin with "x", and sees no CPU time in it for those with "y"."""

from __future__ import annotations

import time


def seeds() -> list[bytes]:
    """Return inputs that it takes."""
    return [b"good", b"b"]


def one_input(data: bytes) -> None:
    """Read it."""
    if data[:1] == b"x":
        while True:
            pass
    if data[:1] == b"y":
        time.sleep(60)
