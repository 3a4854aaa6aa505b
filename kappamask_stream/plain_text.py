"""What a text from elsewhere may hold that is shown to people. Pure; standard library only."""

from __future__ import annotations

import unicodedata

#: Categories of characters that end a line, or steer what shows them.
_STEERING = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: Marks that change in which order letters are shown.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_plain(text: str) -> bool:
    """Tell whether a text has one line, steers no terminal, and is shown in the order in which it stands.

    No-break and other spaces, which Python does not count as printable, are plain: people name folders with them.
    """
    return text.isprintable() or not any(
        character in _REORDERING or unicodedata.category(character) in _STEERING for character in text
    )
