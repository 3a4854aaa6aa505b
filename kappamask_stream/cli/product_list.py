"""Which products a command line means: arguments, globs, files of products, stdin."""

from __future__ import annotations

import glob
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STDIN = "-"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def products_of(arguments: Sequence[str], products_file: str | None) -> list[str]:
    """Return what to mask, each once, in the order given: arguments first, then the file's lines.

    Parameters
    ----------
    arguments : paths, globs, URLs or names; ``-`` stands for the lines of stdin.
    products_file : file with one a line, ``-`` for stdin; None where not given. Empty lines and lines that begin
        with ``#`` are passed over.

    Raises
    ------
    UsageError
        If nothing is named, stdin is asked for twice, a file cannot be read, or a glob matches nothing.
    """
    asked = [*arguments, *([] if products_file is None else [products_file])]
    if not asked:
        raise UsageError("no product is named: give paths, URLs or names, or --products-file FILE")
    if asked.count(STDIN) > 1:
        raise UsageError("stdin can be read once: give - as a product or as --products-file, not both")
    named: list[str] = []
    for argument in arguments:
        named += _lines_of(STDIN) if argument == STDIN else _expanded(argument)
    if products_file is not None:
        named += _lines_of(products_file)
    meant: dict[str, str] = {}
    for where in named:
        meant.setdefault(_place(where), where)
    return list(meant.values())


def _place(where: str) -> str:
    """Return what two ways to write one product have in common."""
    if _URL.match(where):
        return where.rstrip("/")
    with suppress(ValueError):  # a null byte; whoever opens it complains
        return os.path.realpath(where)
    return where


def _lines_of(file: str) -> list[str]:
    """Read products from a file or stdin; names that are no UTF-8 stay the bytes that they are."""
    try:
        content = sys.stdin.buffer.read() if file == STDIN else Path(file).expanduser().read_bytes()
    except OSError as error:
        if file == STDIN:
            raise UsageError(f"stdin, which - stands for, cannot be read: {error.strerror}: is it closed?") from error
        raise UsageError(f"--products-file {file} cannot be read: {error.strerror}") from error
    lines = (line.strip() for line in os.fsdecode(content).splitlines())
    wanted = [line for line in lines if line and not line.startswith("#")]
    return list(_flat(_expanded(os.path.expanduser(line)) for line in wanted))  # noqa: PTH111 - URLs are left alone


def _expanded(where: str) -> list[str]:
    """Expand a glob, as a shell does; something that is there under this very name is meant itself."""
    if _URL.match(where):
        if "*" in where:
            raise UsageError(f"{where}: what a store holds is not listed; name each product, or --products-file FILE")
        return [where]
    if not glob.has_magic(where) or os.path.lexists(where):
        return [where]
    found = sorted(glob.glob(where))  # noqa: PTH207 - pathlib's drops a leading ./ and wants a folder to start from
    if not found:
        raise UsageError(f"{where} matches nothing: check the pattern and the folder")
    return found


def _flat(lists: Iterable[list[str]]) -> Iterable[str]:
    for one in lists:
        yield from one
