"""JSON from strangers: no duplicate names, no NaN, no depth, no size beyond what a message needs. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from kappamask_stream.errors import MessageError

#: Characters of a message; SQS takes 1 MiB.
LONGEST = 1 << 20
#: Levels of lists and objects; a STAC Item has 7.
DEEPEST = 32


def parse_json(text: str) -> Any:
    """Read JSON.

    Raises
    ------
    MessageError
        If it is none, is ambiguous, too long, or nested too deeply.
    """
    if len(text) > LONGEST:
        raise MessageError(f"it has {len(text)} characters, at most {LONGEST} are read")
    try:
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unambiguous)
    except RecursionError as error:
        raise MessageError(f"its JSON is nested more than {DEEPEST} levels deep") from error
    except ValueError as error:  # also of whole numbers beyond what Python converts
        raise MessageError(f"it is no JSON: {str(error)[:200]}") from error
    _require_shallow(found)
    return found


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number: True and False are none, and JSON's may be beyond what a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with two members of one name: readers would differ in which one they believe."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:80]!r} is there twice in one object")
        found[name] = value
    return found


def _require_shallow(value: object) -> None:
    level: list[object] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise MessageError(f"its JSON is nested more than {DEEPEST} levels deep")


def _members(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
