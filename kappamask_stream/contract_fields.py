"""The values of a contract's JSON, each of its type and within bounds. Pure; standard library only.

A contract comes from whoever deployed the model, or plays the server, in whatever language: ``8.0`` is a whole number,
``true`` is none, and ``1.5`` is not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from kappamask_stream.plain_text import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Values of classes: 0 to one less, since LABELS is UINT8 and its largest value marks faults.
MOST_CLASS_VALUES = 255
#: Characters of a document, of a text for people, and of what names something.
_LONGEST = 1 << 20
_LONGEST_TEXT = 2000
_LONGEST_NAME = 100


def read_document(text: str) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Raises
    ------
    ValueError, TypeError
        If it is none, is ambiguous, or longer than any contract.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text)} characters, at most {_LONGEST} are read")
    try:
        found = json.loads(text, object_pairs_hook=_unambiguous)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(found, dict):
        raise TypeError(f"{shown(found)} is not an object")
    return found


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with two members of one name: client and server might differ in which one they believe."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has two members of one name")
    return found


def listed(values: Any, most: int) -> list[Any]:
    """Return a list of at most `most` entries."""
    if not isinstance(values, list):
        raise TypeError(f"{shown(values)} is not a list")
    if len(values) > most:
        raise ValueError(f"a list has {len(values)} entries, at most {most} are taken")
    return values


def each(reader: Callable[[Any], T], values: Any, *, most: int) -> tuple[T, ...]:
    """Return the entries of a list of at most `most`, each read."""
    return tuple(reader(value) for value in listed(values, most))


def as_choice(value: Any, *, allowed: tuple[str, ...]) -> str:
    """Return one of a few words."""
    if value not in allowed:
        raise ValueError(f"it is {shown(value)}, not one of {allowed}")
    return str(value)


def as_name(value: Any) -> str:
    """Return a text that becomes part of a path."""
    found = as_label(value)
    if not found.isprintable() or ".." in found or set("/\\") & set(found):
        raise ValueError(f"{shown(found)} cannot name anything: it would lead elsewhere in a path")
    return found


def as_label(value: Any) -> str:
    """Return what people call something: 1 to 100 characters."""
    found = as_text(value)
    if not found:
        raise ValueError(f"{shown(found)} cannot name anything: it is empty")
    return found


def as_text(value: Any, longest: int = _LONGEST_NAME) -> str:
    """Return a text that may be shown; it may be empty."""
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not a string")
    if len(value) > longest or not is_plain(value):
        raise ValueError(f"{shown(value)} is no text of at most {longest} printable characters")
    return value


def as_remark(value: Any) -> str:
    """Return a text for people, which nothing depends on: control characters escaped, and cut."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not a string")
    text = "".join(
        character if is_plain(character) else ascii(character)[1:-1] for character in value[: _LONGEST_TEXT + 1]
    )
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def as_whole(value: Any) -> int:
    """Return a whole number, also where it is written as ``8.0``."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise TypeError(f"{shown(value)} is not a whole number")
    return value


def as_number(value: Any) -> float:
    """Return a number, which may be infinite or none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{shown(value)} is not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a number is larger than any that is taken") from error


def as_positive(value: Any) -> int:
    """Return a whole number from 1 to 65536."""
    found = as_whole(value)
    if not 0 < found <= 2**16:
        raise ValueError(f"{shown(value)} is not between 1 and 65536")
    return found


def as_share(value: Any) -> float:
    """Return a number from 0 to 1."""
    found = as_number(value)
    if not 0 <= found <= 1:
        raise ValueError(f"{shown(value)} is not between 0 and 1")
    return found


def as_class_value(value: Any) -> int:
    """Return a value that pixels of a mask may have."""
    found = as_whole(value)
    if not 0 <= found < MOST_CLASS_VALUES:
        raise ValueError(f"class value {shown(value)} is not between 0 and 254")
    return found


def as_colour(values: Any) -> tuple[int, int, int]:
    """Return red, green and blue."""
    red, green, blue = (as_whole(v) for v in listed(values, 3))
    if not all(0 <= v <= 255 for v in (red, green, blue)):  # noqa: PLR2004
        raise ValueError(f"colour {shown(values)} is not 8-bit")
    return red, green, blue


def shown(value: Any) -> str:
    """Return a value for a message, cut: one that is long, or huge, may come from a stranger."""
    try:
        return ascii(value)[:80]
    except ValueError:  # a whole number of more digits than Python writes
        return "a huge number"


def said(error: Exception) -> str:
    """Return what an exception says, printable and cut: it may quote a stranger."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[:300])
