"""A parser that believes a length in its input: 300 MB of zeros, which Python never writes to."""

from __future__ import annotations


def seeds() -> list[bytes]:
    """Return inputs that it takes."""
    return [b"good", b"b"]


def one_input(data: bytes) -> None:
    """Read it."""
    if data[:1] == b"x":
        bytearray(300 << 20)
