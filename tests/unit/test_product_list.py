"""Which products a command line means."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from kappamask_stream.cli.product_list import products_of
from kappamask_stream.errors import UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("A.SAFE", "B.SAFE", "b.zip", "[x].SAFE"):
        (tmp_path / name).mkdir()
    return tmp_path


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["nowhere", "B.SAFE"], ["nowhere", "B.SAFE"]),
        (["*.zip"], ["b.zip"]),
        (["?.SAFE"], ["A.SAFE", "B.SAFE"]),
        (["B.SAFE", "?.SAFE", "B.SAFE"], ["B.SAFE", "A.SAFE"]),
        (["[x].SAFE"], ["[x].SAFE"]),
        (["./?.SAFE"], ["./A.SAFE", "./B.SAFE"]),
        (["A.SAFE", "A.SAFE/", "./A.SAFE", "B.SAFE/../A.SAFE//", "B.SAFE/"], ["A.SAFE", "B.SAFE/"]),
        (["s3://b/A.SAFE/", "s3://b/A.SAFE", "s3://b/a.SAFE"], ["s3://b/A.SAFE/", "s3://b/a.SAFE"]),
        (["s3://bucket/key [1]?.SAFE/"], ["s3://bucket/key [1]?.SAFE/"]),
        (["https://host/item?x=[1]"], ["https://host/item?x=[1]"]),
        (["S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"],) * 2,
    ],
)
def test_arguments_and_globs(arguments: list[str], meant: list[str]) -> None:
    assert products_of(arguments, None) == meant


def test_a_link_is_the_product_that_it_leads_to(folder: Path) -> None:
    (folder / "link").symlink_to("A.SAFE")
    assert products_of(["link", "A.SAFE", "link/"], None) == ["link"]


def test_a_file_names_products_after_the_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    (folder / "list").write_text("# of today\n\n  s3://b/k/ \nA.SAFE\r\n?.SAFE\n~/C.SAFE\n#D\n")
    assert products_of(["B.SAFE"], "list") == ["B.SAFE", "s3://b/k/", "A.SAFE", "/home/someone/C.SAFE"]


def test_a_name_that_is_no_utf8_stays_what_it_is(folder: Path) -> None:
    (folder / "list").write_bytes(b"caf\xe9.SAFE\n")
    (name,) = products_of([], "list")
    assert Path(name).parts == (b"caf\xe9.SAFE".decode("utf-8", "surrogateescape"),)


@pytest.mark.parametrize(("arguments", "file"), [(["B.SAFE", "-"], None), (["B.SAFE"], "-")])
def test_stdin_names_products(arguments: list[str], file: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"A.SAFE\n# no\nb.zip")
    assert products_of(arguments, file) == ["B.SAFE", "A.SAFE", "b.zip"]


def test_an_empty_list_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"# nothing new today\n")
    assert products_of(["-"], None) == []


@pytest.mark.parametrize(
    ("arguments", "file", "says"),
    [
        ([], None, "no product is named: give paths, URLs or names, or --products-file FILE"),
        (["-"], "-", "stdin can be read once"),
        (["-", "-"], None, "stdin can be read once"),
        (["*.tar"], None, r"\*\.tar matches nothing"),
        (["s3://bucket/*.SAFE"], None, r"s3://bucket/\*\.SAFE: what a store holds is not listed"),
        ([], "absent", "--products-file absent cannot be read: No such file or directory"),
        ([], "A.SAFE", "--products-file A.SAFE cannot be read: Is a directory"),
    ],
)
def test_what_means_no_product(arguments: list[str], file: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        products_of(arguments, file)


def test_a_files_glob_that_matches_nothing_is_refused(folder: Path) -> None:
    (folder / "list").write_text("A.SAFE\n*.tar\n")
    with pytest.raises(UsageError, match=r"\*\.tar matches nothing"):
        products_of([], "list")
