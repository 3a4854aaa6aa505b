"""Configuration files and variables that are nonsense: one line, exit code 2, whatever is in them."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import UsageError
from kappamask_stream.km_predict import parse_config
from kappamask_stream.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], str]:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("KAPPAMASK_CONFIG", str(path))

    def refuse(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_settings()
        return one_line(caught.value)

    return refuse


def one_line(error: UsageError) -> str:
    said = str(error)
    assert "\n" not in said
    assert "\x1b" not in said
    assert len(said) < 3000
    return said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"output = " + b"[" * 1000, "nested too deeply"),
        (b"x = " + b"{a=" * 1000, "nested too deeply"),
        (b"a" + b".a" * 30_000 + b" = 1", "a name has 30000 dots, at most 100 are read"),  # tomllib: half a minute
        (b"[a" + b" .a" * 20_000 + b"]", "a name has 20000 dots"),
        (b"x = { a" + b".a" * 30_000 + b" = 1 }", "a name has 30000 dots"),
        (b"x = [\n# a comment\n{b = 1, a" + b'."a"' * 10_000 + b" = 1}]", "a name has 10000 dots"),
        ((b"a" + b".a" * 2000 + b" = 1\n") * 16, "it has more than|Cannot|cannot be read"),
        (b"# " + b"x" * (64 << 20), "more than 65536 bytes"),
        (b"max_in_flight = " + b"9" * 4000, "at most 2147483647 is taken"),
        (b"max_in_flight = 1e400", "finite number|valid integer"),
        (b"max_in_flight = true", "true and false are no values of it"),
        (b"max_in_flight = [[1]]", "valid integer"),
        (b"max_in_flight = 2026-07-01", "valid integer"),
        (b"decode_threads = 1000000", "less than or equal to 4096"),
        (b"infer_timeout_s = inf", "finite number"),
        (b"infer_timeout_s = nan", "finite number|greater than 0"),
        (b"server_wait_s = -inf", "finite number|greater than"),
        (b'output = "a\\nb"', "printable characters"),
        (b'output = "\\u0000"', "printable characters"),
        (b'output = "\\u001b[2J"', "printable characters"),
        (b'output = "a\\u2028b"', "printable characters"),
        (b'output = "a\\u202egpj.exe"', "printable characters"),
        (b'output = "a\\u2066b"', "printable characters"),
        (b"[output]\na = 1", "valid string|valid path|path"),
        (b'"a\\u001b[2Jb" = 1', "sets a.x1b.2Jb, which is no setting"),
        (b"output = 'a'\noutput = 'b'", "Cannot overwrite"),
        (b"x = 2026-99-99", "cannot be read"),
        (b"\x00\x01\x02" * 100, "cannot be read"),
        (b"output = '\xff\xfe'", "can't decode byte 0xff"),
        ("output = 'x'".encode("utf-16"), "can't decode byte 0xff"),
        (b"PK\x03\x04" + bytes(500), "cannot be read"),
    ],
)
def test_a_file_that_is_nonsense(refused: Callable[[bytes], str], content: bytes, said: str) -> None:
    assert re.search(said, refused(content))


def test_a_file_of_windows_editor_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which begins with the mark of UTF-8."""
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbfmax_in_flight = 3\r\n")
    monkeypatch.setenv("KAPPAMASK_CONFIG", str(path))
    assert load_settings().max_in_flight == 3


@pytest.mark.parametrize("name", ["Météo\u00a0France", "雲\u3000量", "a\u200db"])
def test_folders_are_called_as_people_call_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv("KAPPAMASK_OUTPUT", str(tmp_path / name))
    assert load_settings().output == tmp_path / name


def test_a_long_list_and_long_comments_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = [f"https://host{number}.example.org/collections/sentinel-2-l2a/" for number in range(80)]
    path = tmp_path / "config.toml"
    path.write_text(f"# {'x.' * 5000}\nallow = {json.dumps(places)}\n  # {'.' * 5000}\nmax_in_flight = 3\n")
    monkeypatch.setenv("KAPPAMASK_CONFIG", str(path))
    settings = load_settings()
    assert settings.max_in_flight == 3
    assert all(place in str(settings.allow) for place in places)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.mkdir, _fifo, _loop], ids=["directory", "fifo", "loop"])
def test_a_place_that_is_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "config.toml"
    make(path)
    monkeypatch.setenv("KAPPAMASK_CONFIG", str(path))
    with pytest.raises(UsageError, match="which is no file"):
        load_settings()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_no_variable_gets_past_as_another_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken can be printed and is finite, whatever the setting."""
    for value in (
        "9" * 5000, "-1", "1e400", "nan", "inf", "true", "[[", "{}", "a\nb", "\x1b[2J", "x" * 10**5, "\uff19", "\udcff",
        "../../..", "1,2,,3", "grpc://[::1", "s3://", "=", "null", "0x10", "1_0",
    ):  # fmt: skip
        monkeypatch.setenv(f"KAPPAMASK_{name.upper()}", value)
        try:
            found = getattr(load_settings(), name)
        except UsageError as error:
            one_line(error)
        else:
            assert str(found).isprintable(), value
            assert not isinstance(found, float) or math.isfinite(found)


# km_predict's files.

KM = {"product_name": NAME, "level_product": "L2A", "architecture": "Unet"}


def km_refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config(text, where="x.json")
    return one_line(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 10**5, "nested too deeply"),
        (json.dumps(KM | {"tile_size": 10**400}), "allowed is a whole number from 1 to 1000000"),
        (json.dumps(KM | {"tile_size": 10**400, "overlapping": 0.5}), "allowed is a whole number from 1 to 1000000"),
        (json.dumps(KM | {"overlapping": -(10**400)}), "allowed is a share of the tile"),
        (json.dumps(KM | {"overlapping": 10**400}), "allowed is a share of the tile"),
        (json.dumps(KM)[:-1] + ', "batch_size": ' + "9" * 5000 + "}", "is no JSON"),
        (json.dumps(KM | {"batch_size": float("inf")}), "batch_size is Infinity"),
        (json.dumps(KM | {"overlapping": float("nan")}), "overlapping is NaN"),
        (json.dumps(KM | {"folder_name": "a\nb"}), "allowed is a text of one line"),
        (json.dumps(KM | {"folder_name": "\ud800"}), "allowed is a text of one line"),
        (json.dumps(KM | {"folder_name": "\x1b[2J"}), "allowed is a text of one line"),
        (json.dumps(KM | {"product_name": f"../{NAME}"}), "allowed is the name of a Sentinel-2 product"),
        (json.dumps(KM | {"product_name": "x" * 10**5}), "allowed is the name of a Sentinel-2 product"),
        (json.dumps(KM | {"architecture": {"a": [1]}}), "allowed is DeepLabv3Plus or Unet"),
    ],
)
def test_a_configuration_of_km_predict_that_is_nonsense(text: str, said: str) -> None:
    assert said in km_refused(text)
