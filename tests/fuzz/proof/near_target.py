"""A parser that fails on what is longer than any input that is fuzzed."""

from __future__ import annotations


def seeds() -> list[bytes]:
    """Return inputs that it takes."""
    return [b"good", b"b"]


def large() -> dict[str, bytes]:
    """Return an input near its limits."""
    return {"zeros": bytes(100_000)}


def one_input(data: bytes) -> None:
    """Read it."""
    if len(data) > 50_000:
        raise IndexError(len(data))
