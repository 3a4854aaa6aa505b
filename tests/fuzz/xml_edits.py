"""Arbitrary bytes as edits of a valid XML file: a byte changed at random would end at "no well-formed XML".

Input that begins with ``<`` is XML as it stands. Else it is a list of edits between null bytes: the first byte of each
chooses a text or an attribute's value of the template, the rest takes its place, as it is.
"""

from __future__ import annotations

import re

_VALUES = re.compile(rb">([^<>]+)<|\"([^\"<>]*)\"")


def edited(template: bytes, data: bytes) -> bytes:
    """Return the XML that an input stands for."""
    if data[:1] == b"<" or not data:
        return data
    spans = [found.span(found.lastindex or 0) for found in _VALUES.finditer(template) if found.lastindex]
    changes = {spans[edit[0] % len(spans)]: edit[1:] for edit in data.split(b"\0") if edit}
    pieces, at = [], 0
    for (start, end), text in sorted(changes.items()):
        pieces += [template[at:start], text]
        at = end
    return b"".join([*pieces, template[at:]])


def edits(*changes: tuple[int, bytes]) -> bytes:
    """Write edits: (number of the value, what takes its place)."""
    return b"\0".join(bytes([number]) + text for number, text in changes)
