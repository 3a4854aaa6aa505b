"""Files of a product on a disk that change, vanish or cannot be read while they are read: by the real command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.plant import SIZE
from tests.stream.scene import _scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fault_table import Fault
    from tests.integration.session import SessionServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are told by Linux's /proc"),
]

ROOT = Path(__file__).resolve().parents[2]
BAND = "_B03_20m.jp2"


@dataclass
class Bench:
    """A product, as a directory and as a zip, and a process that runs the command line on it."""

    folder: Path
    whole: Path
    process: subprocess.Popen[str]

    def __post_init__(self) -> None:
        archive = shutil.make_archive(str(self.folder / self.whole.name), "zip", self.whole.parent, self.whole.name)
        self.archive = Path(archive)
        self.out, self.product = self.folder / "out", self.folder / "in" / self.whole.name

    @property
    def said(self) -> str:
        return (self.folder / "err").read_text()

    def run(
        self, what: str, *, call: str = "open", at: int = 1, path: str = BAND, zipped: bool = False
    ) -> tuple[int, int]:
        """Mask a fresh copy while `what` happens to it; returns the exit code and how often it happened."""
        for folder in (self.out, self.product.parent):
            shutil.rmtree(folder, ignore_errors=True)
        self.product.parent.mkdir()
        given = self.product.with_suffix(".zip") if zipped else self.product
        if zipped:
            shutil.copy(self.archive, given)
        else:
            shutil.copytree(self.whole, given)
        argv = ["run", str(given), "--model", "null_l2a", "--output", str(self.out)]
        asked = {"argv": argv, "out": str(self.folder / "out.txt"), "err": str(self.folder / "err"), "path": path,
                 "call": call, "at": at, "what": what}  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["times"]

    def mask(self) -> Path:
        (mask,) = self.out.rglob("*.tif")
        return mask


@pytest.fixture(scope="module")
def bench(session_server: SessionServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert session_server
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.disturbed_reads"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield Bench(tmp_path_factory.mktemp("disk"), _scene(tmp_path_factory, "L2A", SIZE).path, process)
        process.stdin.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> Path:
    assert bench.run("none", at=10**9) == (0, 0), bench.said
    return bench.mask().rename(bench.folder / "undisturbed.tif")


@pytest.mark.fault("Source", "disk: short reads, 500 bytes at a time")
def test_short_reads(bench: Bench, undisturbed: Path, fault: Fault) -> None:
    code, times = bench.run("short", call="pread", path=".jp2")
    assert code == 0, bench.said
    fault.injected(times)
    fault.identical(bench.mask(), undisturbed)


#: What happens, at which call, and what is said of it.
FAULTS = {
    "file deleted while it is read": ("deleted", "open", 2, "is not there (or a link to nothing)"),
    "file truncated between two reads": ("truncated", "open", 2, "bytes of two versions are not mixed, run again"),
    "file truncated in a read": ("truncated", "pread", 2, "bytes of two versions are not mixed, run again"),
    "file emptied in a read": ("emptied", "pread", 1, "it is truncated, fetch it again"),
    "file replaced by one of its size": ("replaced", "open", 2, "bytes of two versions are not mixed, run again"),
    "file replaced between listing and reading": ("replaced", "open", 1, "bytes of two versions are not mixed"),
    "file still growing": ("grown", "open", 2, "bytes of two versions are not mixed, run again"),
    "stale handle (NFS)": ("stale", "open", 2, os.strerror(116)),
    "stale handle in a read (NFS)": ("stale", "pread", 2, os.strerror(116)),
    "read error": ("broken", "pread", 1, os.strerror(5)),
    "permission taken away": ("denied", "open", 2, os.strerror(13)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fault("Source", f"disk: {name}")) for name in FAULTS]
)
def test_a_file_that_is_not_as_it_was(bench: Bench, undisturbed: Path, fault: Fault, name: str) -> None:
    what, call, at, says = FAULTS[name]
    for band in fault.amount([BAND], [BAND, "_B02_20m.jp2", "_B04_20m.jp2"]):
        code, times = bench.run(what, call=call, at=at, path=band)
        assert (code, times >= 1) == (3, True), bench.said
        fault.injected(times)
        fault.refused(bench.said, bench.out, band, says)
    assert undisturbed.exists()


@pytest.mark.fault("Source", "disk: archive replaced, cut or grown while it is read")
@pytest.mark.parametrize("what", ["replaced", "truncated", "grown", "deleted"])
def test_an_archive_that_is_not_as_it_was(bench: Bench, undisturbed: Path, fault: Fault, what: str) -> None:
    code, times = bench.run(what, at=8, path=".zip", zipped=True)
    assert (code, times) == (3, 1), bench.said
    fault.injected(times)
    fault.refused(bench.said, bench.out, ".zip")
    assert undisturbed.exists()
