"""A parser that fails where an input has 5,000 elements: libFuzzer's mutations alone do not come so far."""

from __future__ import annotations

LONGEST = 1 << 16


def seeds() -> list[bytes]:
    """Return inputs that it takes."""
    return [b"<r><a/><a/></r>", b"<r/>"]


def one_input(data: bytes) -> None:
    """Read it."""
    elements = 0
    for piece in data.split(b"<"):
        if piece == b"a/>":
            elements += 1
            if elements > 5_000:
                raise IndexError(elements)
