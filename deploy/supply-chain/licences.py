"""Licences of all packages that the client needs when it runs; part of `make audit`.

A package must say that it may be used under a permissive licence. What says something else, or nothing, fails, unless
it stands in `ACCEPTED` with a reason. What counts is the SPDX expression, else all classifiers, else the free text.

Native libraries that wheels carry have licences of their own, which no metadata tell: see docs/security.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import packages, runtime

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: As SPDX, classifiers and people call them; compared in small letters, without "license", brackets and "the".
PERMISSIVE = {
    "0bsd",
    "apache 2.0",
    "apache software",
    "apache-2.0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "3-clause bsd",
    "cc0-1.0",
    "isc",
    "mit",
    "new bsd",
    "psf-2.0",
    "psfl",
    "python software foundation",
    "zlib",
}
#: Package -> why its licence, which is not permissive, is all right.
ACCEPTED = {
    "certifi": "MPL-2.0, copyleft by the file: used unchanged, as its own package",
}
_TOKEN = re.compile(r"\(|\)|[^\s()]+")


def main() -> int:
    """Check an environment; 1 where a package fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("environment", type=Path, help="virtual environment of the client")
    found = runtime(packages(parser.parse_args().environment))
    faults = [fault for name, distribution in sorted(found.items()) if (fault := wrong(name, distribution))]
    for name in sorted(set(ACCEPTED) & set(found)):
        print(f"{name}: accepted: {ACCEPTED[name]}")
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(found)} packages of the client's run time, {len(faults)} with a licence that is not accepted")
    return 1 if faults else 0


def wrong(name: str, distribution: Distribution) -> str | None:
    """Return why a package's licence will not do; None where it does."""
    said = statements(distribution)
    if name in ACCEPTED or (said and all(is_permissive(text) for text in said)):
        return None
    if not said:
        return f"{name}: says nothing about its licence"
    return f"{name}: {'; '.join(said)}: not known as permissive; add it to PERMISSIVE, or to ACCEPTED with a reason"


def statements(distribution: Distribution) -> list[str]:
    """Return what a package says of its licence, by the most precise of the ways that it may."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return [expression]
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License :: ")]
    # "OSI Approved" alone names none.
    classifiers = [last for text in classifiers if (last := text.rpartition(" :: ")[2]) != "OSI Approved"]
    if classifiers:
        return classifiers
    text = (metadata.get("License") or "").strip()
    return [text.splitlines()[0]] if text else []


def is_permissive(text: str) -> bool:
    """Tell whether one may choose permissive licences only: of ``A OR B`` one must be, of ``A AND B`` both."""
    if _plain(text) in PERMISSIVE:  # also names that hold brackets, or a word "and"
        return True
    tokens = _TOKEN.findall(text)
    value, rest = _either(tokens)
    return value and not rest


def _either(tokens: list[str]) -> tuple[bool, list[str]]:
    value, rest = _both(tokens)
    while rest[:1] == ["OR"]:
        other, rest = _both(rest[1:])
        value = value or other
    return value, rest


def _both(tokens: list[str]) -> tuple[bool, list[str]]:
    value, rest = _one(tokens)
    while rest[:1] == ["AND"]:
        other, rest = _one(rest[1:])
        value = value and other
    return value, rest


def _one(tokens: list[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, [""]  # something is left to be said
    if tokens[0] == "(":
        value, rest = _either(tokens[1:])
        return value and rest[:1] == [")"], rest[1:]
    value, rest = _plain(tokens[0]) in PERMISSIVE, tokens[1:]
    if rest[:1] == ["WITH"]:  # an exception only ever allows more
        rest = rest[2:]
    return value, rest


def _plain(text: str) -> str:
    words = re.sub(r"\(.*?\)|\blicen[cs]e\b|\bthe\b|,", " ", text.lower()).split()
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
