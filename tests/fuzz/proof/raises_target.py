"""A parser that raises what it does not say: for inputs with "bad" in them."""

from __future__ import annotations


def seeds() -> list[bytes]:
    """Return an input that it takes."""
    return [b"good", b"b"]


def one_input(data: bytes) -> None:
    """Read it."""
    if data[:1] == b"b" and data[1:2] == b"a" and data[2:3] == b"d":
        raise KeyError(data)
