"""Temporary folders of a benchmark: what is left of one that was killed is removed, what is in use is not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kappamask_stream.bench.scratch import scratch_folder
from kappamask_stream.errors import OutputError

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


def test_what_is_no_folder_of_a_benchmark_is_left_alone(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("x")
    (temporary / "kappamask-bench-link").symlink_to(elsewhere)
    (temporary / "kappamask-bench-file").write_text("x")
    (temporary / "kappamask-other").mkdir()
    with scratch_folder() as own:
        assert own.is_dir()
    assert {path.name for path in temporary.iterdir()} == {
        "kappamask-bench-link", "kappamask-bench-file", "kappamask-other",
    }  # fmt: skip
    assert (elsewhere / "file").exists()


def test_a_temporary_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"cannot write .*gone.*: No such file .* TMPDIR"), scratch_folder():
        pass
