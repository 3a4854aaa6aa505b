"""The configuration file: `kappamask_stream.settings`, without the file and the variables."""

from __future__ import annotations

import math

from pydantic import ValidationError

from kappamask_stream.cli.settings_origin import example_file
from kappamask_stream.plain_text import is_plain
from kappamask_stream.settings import Settings, parsed_file

#: Four times as much is read.
LONGEST = 1 << 14


def seeds() -> list[bytes]:
    """Return a file with every setting, and some that are none."""
    settings = [line.removeprefix("# ") for line in example_file().splitlines() if " = " in line]
    texts = [
        *settings[:60], "", "[output]\na = 1", "output = [1, 2]", "a.b.c = 1", "x = [" * 200, "infer_timeout_s = inf",
        "max_in_flight = " + "9" * 400, "max_in_flight = true", 'output = "\\u0000"', "x = 2020-99-99", "\ufeffoutput = 'x'",
        'allow = ["s3://a", "https://b/c"]', "triton = 'grpc://h:1,grpc://i:2'",
    ]  # fmt: skip
    return [*(text.encode() for text in texts), b"output = '\xff'", "output = 'x'".encode("utf-16")]


def large() -> dict[str, bytes]:
    """Return files near the limit: lists, tables, names and comments."""
    return {
        "lists in lists": b"x = " + b"[" * 20_000 + b"]" * 20_000,
        "a list": b"x = [" + b"1, " * 20_000 + b"]",
        "tables": b"".join(b"[a%d]\n" % number for number in range(7_000)),
        "tables of one list": b"[[a]]\n" * 10_000,
        "names with dots": b"".join(b"a." * 90 + b"b%d = 1\n" % number for number in range(300)),
        "settings": b"".join(b"a%d = 'x'\n" % number for number in range(5_000)),
        "a number": b"x = " + b"9" * 60_000,
        "a text": b"output = '" + b"x" * 60_000 + b"'",
        "comments": b"#" * 64_000,
        "an inline table": b"x = {" + b", ".join(b"a%d = 1" % number for number in range(5_000)) + b"}",
    }


def dictionary() -> list[bytes]:
    """Return the names of all settings."""
    return [f"{name} = ".encode() for name in Settings.model_fields]


def one_input(data: bytes) -> None:
    """Read a file, and check its values as those of a file are."""
    try:
        found = parsed_file(data)
    except ValueError:
        return
    try:
        checked = Settings.__pydantic_validator__.validate_python(found)
    except ValidationError:
        return
    for value in vars(checked).values():
        assert not isinstance(value, float) or math.isfinite(value)
        assert not isinstance(value, int) or abs(value) < 2**31
        assert not isinstance(value, str) or is_plain(value)
