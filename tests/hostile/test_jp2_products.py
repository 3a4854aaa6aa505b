"""Products whose band files lie, through the command: one message each, nothing written, no more memory than is set."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from kappamask_stream.synth import write_product
from tests.fault_table import Fault
from tests.hostile.jp2_corpus import SIDE, corpus, valid, written
from tests.integration.local_state import CLI, PATIENCE_S
from tests.integration.test_run import at_null, files_in
from tests.stream.scene import band_file
from tests.unit.jp2_files import COD, POC, Codestream, Part, poc_body, scene, write_jp2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.integration

__all__ = ["at_null"]

_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
_BUDGET_MB = 64


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the most memory that it had, MB."""

    code: int
    documents: list[dict[str, Any]]
    stderr: str
    peak_mb: int


#: The peak of a process counts what its parent had when it was forked: a small one stands between.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:], check=False).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def run(folder: Path, *arguments: object) -> Ended:
    told = folder / "peak"
    command = [sys.executable, "-c", _MEASURED, str(told), str(CLI), "run", *map(str, arguments), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3 * PATIENCE_S)
    documents = [json.loads(line) for line in ended.stdout.splitlines()]
    return Ended(ended.returncode, documents, ended.stderr, int(told.read_text()) // 1024)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("made"), level="L2A", size=2 * SIDE, seed=1).product


@pytest.fixture
def product(made: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies of one product, each of its own name."""
    numbers = iter(range(1, 200))
    stem = made.name.removesuffix(".SAFE")

    def copy() -> Path:
        number = next(numbers)
        name = f"{stem.rpartition('_')[0]}_20250101T{number // 60:02}{number % 60:02}00"
        path = shutil.copytree(made, tmp_path / "in" / f"{name}.SAFE")
        xml = path / "MTD_MSIL2A.xml"
        xml.write_text(xml.read_text().replace(stem, name))
        return path

    return copy


@pytest.mark.thorough
def test_each_file_that_lies_fails_its_product_alone_with_one_line_that_names_it(
    product: Callable[[], Path], at_null: list[str], tmp_path: Path
) -> None:
    stream = valid(tmp_path)
    every = Fault.amount(3, 1)
    files = {what: (hostile.data, hostile.said) for what, hostile in list(corpus(stream).items())[::every]}
    files["another size"] = (write_jp2(tmp_path / "a.jp2", scene(60, 60)).read_bytes(), "60 x 60 pixels, the metadata")
    files["8 bits"] = (write_jp2(tmp_path / "b.jp2", scene(SIDE, SIDE, dtype="uint8")).read_bytes(), "of 8 bits")
    Image.fromarray(scene(SIDE, SIDE)).save(tmp_path / "c.tif")
    files["a real TIFF"] = ((tmp_path / "c.tif").read_bytes(), "it starts with 49492a00")
    files["one codestream too few pixels"] = (stream.with_siz(x1=1, y1=1).encode(), "of tile 1, there are 1 tiles")
    good = product()
    band_file(good, "B8A", 20).write_bytes(stream.encode())
    products = {what: product() for what in files}
    for what, path in products.items():
        band_file(path, "B8A", 20).write_bytes(files[what][0])
    endless = product()
    with band_file(endless, "B8A", 20).open("wb") as file:
        file.write(stream.encode(open_end=True, eoc=b""))
        file.truncate(10 * 2**30)
    products["10 GB"], files["10 GB"] = endless, (b"", "no end marker|bytes for 120 x 120 pixels")

    out = tmp_path / "out"
    ended = run(tmp_path, good, *products.values(), "--output", out, *at_null)
    assert (ended.code, ended.stderr) == (1, "")
    documents = {document["product"]: document for document in ended.documents}
    name = good.name.removesuffix(".SAFE")
    right = next(path for path in (out / name).iterdir() if path.suffix == ".tif")
    for what, path in products.items():
        document = documents.get(str(path)) or documents[path.name.removesuffix(".SAFE")]
        said, file = files[what][1], band_file(path, "B8A", 20).name
        if said is None:
            assert document["status"] == "done", f"{what}: {document['error']}"
            with Image.open(document["output"]) as mask, Image.open(right) as expected:
                assert np.array_equal(np.asarray(mask), np.asarray(expected)), what
            continue
        assert (document["status"], document["exit_code"], document["output"]) == ("failed", 3, None), what
        assert re.search(said, document["error"]), f"{what}: {document['error']}"
        assert file in document["error"], what
        assert "\n" not in document["error"], what
        assert not (out / path.name.removesuffix(".SAFE")).exists(), what
    assert ended.peak_mb < 400, f"{ended.peak_mb} MB"


def greedy(folder: Path) -> dict[str, tuple[dict[str, bytes], str]]:
    """Bands of 5490 x 5490 pixels, as the metadata says, that want more than their bytes are worth."""
    small = Codestream.of(written(folder).read_bytes())
    side = 5490
    one = small.with_siz(x1=side, y1=side, tile_w=side, tile_h=side)
    empty = Part(0, 0, 1, b"", b"\0")
    blocks = _with_cod(one, b"\1\0\0\1\0" + b"\1\0\0\0\1" + b"\x77\x77")

    def tiled(tile: int) -> Codestream:
        parts = tuple(replace(empty, tile=number) for number in range((-(-side // tile)) ** 2))
        return replace(small.with_siz(x1=side, y1=side, tile_w=tile, tile_h=tile), parts=parts)

    missing = tiled(45)
    many = r"_B\w+_20m\.jp2: with it .* are laid out in \d+ pieces or more, of which \d+ MB .* memory budget is 32 MB"
    large = r"is laid out in pieces so large that decoding needs \d+ MB, the budget is 64 MB"
    few = small.with_siz(x1=side, y1=side, tile_w=side // 2, tile_h=side // 2).with_segment(POC, poc_body(4))
    whole = replace(few, parts=tuple(replace(empty, tile=number) for number in range(4)))

    def bands(data: bytes, *names: str) -> dict[str, bytes]:
        return dict.fromkeys(names or _BANDS, data)

    return {
        "one tile": (bands(replace(one, parts=(empty,)).encode()), large),
        "code-blocks of 4 x 4": (bands(replace(blocks, parts=(empty,)).encode()), f"code-blocks and precincts|{large}"),
        "tiles that are decoded as a whole": (bands(whole.encode()), large),
        "31684 tiles in every band, all of them there": (bands(tiled(31).encode()), many),
        "7921 tiles in every band, all of them there": (bands(tiled(62).encode()), many),
        "14884 tiles, the last one missing": (
            bands(replace(missing, parts=missing.parts[:-1]).encode(), "B8A"),
            "codestream tile 14883 is missing",
        ),
    }


def _with_cod(stream: Codestream, body: bytes) -> Codestream:
    return replace(stream, segments=tuple((m, body if m == COD else b) for m, b in stream.segments))


def test_a_product_takes_no_more_memory_than_is_set_whatever_its_files_say(
    product: Callable[[], Path], at_null: list[str], tmp_path: Path
) -> None:
    settings = ("--memory-budget-mb", _BUDGET_MB, "--output", tmp_path / "out", *at_null)
    usual = run(tmp_path, product(), *settings)
    assert usual.code == 0
    for what, (bands, said) in greedy(tmp_path).items():
        path = product()
        (xml,) = path.glob("GRANULE/*/MTD_TL.xml")
        text = xml.read_text()
        for gsd in (10, 20, 60):
            for field in ("NROWS", "NCOLS"):
                text = text.replace(f"<{field}>{2 * SIDE * 10 // gsd}</{field}>", f"<{field}>{109800 // gsd}</{field}>")
        xml.write_text(text)
        for band, data in bands.items():
            band_file(path, band, 20).write_bytes(data)
        ended = run(tmp_path, path, *settings)
        (document,) = ended.documents
        assert (ended.code, document["status"]) == (3, "failed"), what
        assert re.search(said, document["error"]), f"{what}: {document['error']}"
        assert files_in(tmp_path / "out" / path.name.removesuffix(".SAFE")) == []
        assert ended.peak_mb < usual.peak_mb + _BUDGET_MB, f"{what}: {ended.peak_mb} MB, {usual.peak_mb} as usual"
        print(what, ended.peak_mb, usual.peak_mb, document["error"][:150])
