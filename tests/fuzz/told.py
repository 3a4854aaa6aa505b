"""What a refusal must be, whatever the input: short, and naming what it is about."""

from __future__ import annotations

_LONGEST = 3000


def require_telling(error: Exception, names: str) -> None:
    """Assert that a message names the file and does not repeat megabytes of it."""
    said = str(error)
    assert names in said, said[:200]
    assert len(said) < _LONGEST, f"{len(said)} characters: {said[:200]}"
