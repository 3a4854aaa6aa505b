"""Names that come from strangers: of products, files and links. None becomes a path elsewhere, none steers a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.cli.masking import Telling
from kappamask_stream.cli.progress import ProgressDisplay
from kappamask_stream.errors import KappaMaskError, ProductError
from kappamask_stream.names import band_of_file, checked_path, mask_name, parse_product_name, printable, scene_of_file
from kappamask_stream.product import open_product
from kappamask_stream.result import ProductResult
from kappamask_stream.s3 import S3Options, Stores
from kappamask_stream.sources import DirectorySource
from kappamask_stream.sources.locate import open_source
from tests.unit.safe_product import SafeProduct

if TYPE_CHECKING:
    from pathlib import Path

NAME = SafeProduct().name

#: Letters and digits of other alphabets that people, or `upper()`, or `\d` take for Latin ones.
ALIKE = {
    "full-width digits": NAME.replace("2022", "\uff12\uff10\uff12\uff12"),
    "Arabic digits": NAME.replace("0400", "\u0660\u0664\u0660\u0660"),
    "full-width letters": NAME.replace("MSIL2A", "\uff2d\uff33\uff29\uff2c2A"),
    "Cyrillic A": NAME.replace("S2A", "S2\u0410"),
    "long s": NAME.replace("S2A", "\u017f2A"),
    "dotless i": NAME.replace("MSI", "MS\u0131"),
    "ligature": NAME.replace("R023", "\ufb0123"),
    "zero width": NAME.replace("_R", "\u200b_R"),
    "right to left": NAME.replace("_R", "\u202e_R"),
    "byte order mark": "\ufeff" + NAME,
    "no-break space": "\u00a0" + NAME,
    "line separator": NAME + "\u2028",
    "combining accent": NAME.replace("U", "U\u0301"),
}
BROKEN = {
    "null": NAME + "\0",
    "newline in the middle": NAME.replace("_R", "\n_R"),
    "escape": "\x1b[2J" + NAME,
    "parent": f"../{NAME}",
    "folder": f"{NAME}/../../x",
    "10 KB": NAME + "A" * 10_000,
    "a megabyte": NAME[:-1] * 16_000,
    "device of Windows": "CON",
    "twice": f"{NAME}_{NAME}",
    "two suffixes": f"{NAME}.SAFE.SAFE",
    "month 13": NAME.replace("20221005T115411", "20221305T115411"),
    "31 February": NAME.replace("20221005T115411", "20220231T115411"),
    "hour 24": NAME.replace("20221005T115411", "20221005T245411"),
    "year 0": NAME.replace("20221005T115411", "00001005T115411"),
    "a lone surrogate": NAME + "\udc80",
}


@pytest.mark.parametrize("what", [*ALIKE, *BROKEN])
def test_what_only_looks_like_a_products_name_is_none(what: str) -> None:
    with pytest.raises(ProductError, match="is no Sentinel-2 product name") as caught:
        parse_product_name((ALIKE | BROKEN)[what])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2500


def test_masks_are_named_by_what_passed_alone() -> None:
    name = parse_product_name(f"  {NAME.lower()}.safe\n")
    assert re.fullmatch(r"[A-Za-z0-9_]+", mask_name(name, "KZ", 10), re.ASCII)


@pytest.mark.parametrize("digit", ["\u0662", "\uff12", "\u09e8"])
def test_bands_of_other_digits_are_no_bands(digit: str) -> None:
    file = f"GRANULE/x/IMG_DATA/R20m/T29UNU_20221005T115411_B0{digit}_20m.jp2"
    assert band_of_file(file) is None
    assert band_of_file(file.replace(f"B0{digit}", "B02").replace("R20m", f"R{digit}0m")) == ("B02", 20)
    assert scene_of_file(f"T{digit}9UNU_20221005T115411_B02.jp2") is None


@pytest.mark.parametrize("path", ["", "/", ".", "./", "..", "a/..", "a/../b", "/a", "//a", "a\\b", "C:\\a", "a\0b", "a\nb",
                                  "a\x1b[2J", "a\u202eb", "a\u2028b", "a\udc80", "a" * 1025, "a/" * 600])  # fmt: skip
def test_paths_that_lead_out_or_break_messages_are_refused(path: str) -> None:
    with pytest.raises(ProductError, match=r"^MTD: IMAGE_FILE: .* is no path inside a product") as caught:
        checked_path(path, said_by="MTD: IMAGE_FILE")
    assert str(caught.value).isprintable()


ODD = "evil\x1b]0;owned\x07\x1b[2J\nerror: all is lost\r\u202e"
#: What may be in no output for people: control characters and what is shown elsewhere than it stands.
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def said_by(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kappamask_stream", *argv], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("kind", ["missing", "directory", "zip"])
def test_a_products_own_name_steers_no_terminal(tmp_path: Path, kind: str) -> None:
    place = tmp_path / (ODD + (".zip" if kind == "zip" else ""))
    if kind == "directory":
        place.mkdir()
    elif kind == "zip":
        place.write_bytes(b"PK")
    ended = said_by("info", str(place))
    assert ended.returncode == 3
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert "evil\\x1b]0;owned\\x07" in ended.stderr
    assert not _STEERING.search(ended.stderr)


def test_a_usage_error_steers_no_terminal() -> None:
    ended = said_by("info", "x", f"--{ODD}")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert not _STEERING.search(ended.stderr)


def test_results_and_progress_steer_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    failed = ProductResult(product=ODD, status="failed", error=ProductError(f"{ODD} is damaged"))
    Telling().result(failed)
    Telling().result(ProductResult(product=ODD, status="skipped", output=f"{ODD}.tif", notes=(ODD,)))
    ProgressDisplay().message(ODD)
    for text in (out.getvalue(), err.getvalue()):
        assert "evil\\x1b]0;owned\\x07\\x1b[2J\\nerror" in text
        assert not _STEERING.search(text)
    Telling(as_json=True).result(failed)
    last = out.getvalue().splitlines()[-1]
    assert not _STEERING.search(last)
    assert json.loads(last)["product"] == ODD, "a program gets the name as it is, escaped by JSON's rules"


def test_long_texts_are_cut_for_people() -> None:
    assert printable("a b\u00fc") == "a b\u00fc"
    assert printable("a\tb\x85\ud800") == "a\\tb\\x85\\ud800"
    assert len(printable("x" * 10**6)) < 10_000


@pytest.mark.parametrize(
    "where", ["a\0b", "a\0.zip", "a\0.json", "x" * 10_000, "x" * 10_000 + ".zip", "a/" * 5000, "\n", " "]
)
def test_places_that_no_file_can_have_are_refused_in_words(where: str) -> None:
    async def run() -> None:
        async with Stores(S3Options()) as stores:
            await open_product(await open_source(where, stores=stores))

    with pytest.raises(KappaMaskError) as caught:
        asyncio.run(run())
    assert caught.value.exit_code in {2, 3}


def test_a_directory_with_files_of_hostile_names_is_read_and_they_are_not(tmp_path: Path) -> None:
    root = SafeProduct().write(tmp_path)
    for name in (ODD[:40].replace("/", ""), "B02\u202e.jp2", os.fsdecode(b"\xff\xfe.jp2"), "-rf", "$(reboot)", "CON"):
        (root / name).write_bytes(b"x")
    product = asyncio.run(open_product(DirectorySource(root)))
    assert all(path.isprintable() for path in product.listing)
    assert {"-rf", "$(reboot)", "CON"} <= set(product.listing), "odd, but shown as they are and named by nobody"


@pytest.mark.parametrize("escape", ["../../../../etc/passwd", "/etc/passwd", "..\\..\\x", "GRANULE/../../../x"])
def test_image_files_that_lead_out_are_refused_before_anything_is_read(tmp_path: Path, escape: str) -> None:
    root = SafeProduct(replace={f"<IMAGE_FILE>{SafeProduct().images[0]}": f"<IMAGE_FILE>{escape}"}).write(tmp_path)
    with pytest.raises(ProductError, match=r"MTD_MSIL2A\.xml: IMAGE_FILE: .* is no path inside a product"):
        asyncio.run(open_product(DirectorySource(root)))
