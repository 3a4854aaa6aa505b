"""Temporary folders of a benchmark: what is left of one that was killed is removed, what is in use is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from kappamask_stream import resources
from kappamask_stream.bench.scratch import scratch_folder
from kappamask_stream.errors import OutputError
from kappamask_stream.resources import Resources
from kappamask_stream.settings import Settings
from kappamask_stream.whereabouts import boot

OWNER = """
import sys, tempfile
from kappamask_stream.bench.scratch import scratch_folder
tempfile.tempdir = sys.argv[1]
with scratch_folder() as folder:
    (folder / "tile").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_of_a_killed_owner_goes_and_that_of_a_living_one_stays(temporary: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(temporary)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        theirs = Path(owner.stdout.readline().strip())
        with scratch_folder() as own:
            assert sorted(temporary.iterdir()) == sorted([theirs, own])
            assert (theirs / "tile").read_text() == "x"
        owner.kill()
    assert list(temporary.iterdir()) == [theirs]
    with scratch_folder() as own:
        assert list(temporary.iterdir()) == [own]
    assert list(temporary.iterdir()) == []


#: What nobody but an owner gives a folder by chance.
DIGITS = "0123456789abcdef"


def mark(folder: Path, boot: str, said: str = "kappamask-stream {} machine 1 1\n") -> None:
    (folder / ".owner").write_text(said.format(boot))


def test_what_is_no_folder_of_a_benchmark_is_left_alone(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("x")
    mark(elsewhere, boot())
    (temporary / f"kappamask-bench-{DIGITS}").symlink_to(elsewhere)
    (temporary / f"kappamask-bench-{DIGITS[::-1]}").write_text("x")
    for name in ("other", "bench-results", "bench-may_2026", f"bench-{DIGITS}.bak", f"bench-{DIGITS.upper()}"):
        folder = temporary / f"kappamask-{name}"
        folder.mkdir()
        mark(folder, boot())
    for number, said in enumerate((None, "", "mine\n", "kappamask-stream\n")):  # the right name, but not marked
        folder = temporary / f"kappamask-bench-{number:016x}"
        folder.mkdir()
        (folder / "mask.tif").write_text("results")
        if said is not None:
            mark(folder, boot(), said)
    before = sorted(temporary.rglob("*"))
    with scratch_folder() as own:
        assert own.is_dir()
    assert sorted(temporary.rglob("*")) == before
    assert (elsewhere / "file").exists()


def test_a_folder_of_another_machine_is_left_alone_for_a_day(temporary: Path) -> None:
    """Its owner's lock may not be seen here: on NFS and Lustre that is a matter of how they are mounted."""
    theirs, another = (temporary / f"kappamask-bench-{number:016x}" for number in (1, 2))
    for folder in (theirs, another):
        (folder / "deep").mkdir(parents=True)
        (folder / "tile").write_text("x")
        mark(folder, "0" * 32)
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in [*theirs.rglob("*"), theirs, another]:  # of `another` a file has grown since
        os.utime(path, (two_days_ago, two_days_ago))
    with scratch_folder():
        pass
    assert list(temporary.iterdir()) == [another]
    assert {path.name for path in another.iterdir()} == {"deep", "tile", ".owner"}


@pytest.mark.parametrize("marked", [False, True])
def test_a_folder_whose_owner_was_killed_while_it_was_made_goes(temporary: Path, marked) -> None:
    folder = temporary / f"kappamask-bench-{DIGITS}"
    folder.mkdir()
    if marked:
        mark(folder, "", "")
    with scratch_folder():
        pass
    assert list(temporary.iterdir()) == []


def test_a_folder_that_another_process_removes_before_it_is_marked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, first = fcntl.flock, []

    def removed(handle: int, how: int) -> None:
        if not first:
            first.append(Path(f"/proc/self/fd/{handle}").readlink())
            first[0].rmdir()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", removed)
    with scratch_folder() as own:
        assert own != first[0]
        assert list(temporary.iterdir()) == [own]


def test_resources_remove_what_is_abandoned_and_the_loop_does_not_wait_for_it(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = temporary / "kappamask-scratch-results"
    left = temporary / f"kappamask-scratch-{DIGITS}"
    for folder in (mine, left):
        folder.mkdir()
        (folder / "probabilities.tif").write_text("x")
        mark(folder, boot())
    threads = []
    remove = resources.remove_abandoned
    monkeypatch.setattr(resources, "remove_abandoned", lambda: (threads.append(threading.current_thread()), remove()))
    with Resources(settings=Settings()):
        pass
    assert list(temporary.iterdir()) == [mine]
    assert threads != [threading.main_thread()]


def test_a_temporary_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"cannot write .*gone.*: No such file .* TMPDIR"), scratch_folder():
        pass
