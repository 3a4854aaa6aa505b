"""The record of a check holds for as long as all that it rests on is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from server_models import check_record
from server_models.check_record import RECORD, identity, recorded, write_record

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = {"passed": True, "tiles": 4, "faults": []}
FILES = ("config.pbtxt", "1/model.onnx", "1/model.py", "reference.onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder with a record."""
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(name.encode())
    write_record(folder, identity(folder), REPORT)
    return folder


def test_a_record_is_found_again(model: Path) -> None:
    assert recorded(model, identity(model)) == REPORT
    assert [p.name for p in model.iterdir() if p.name.startswith(".")] == []
    assert (model / RECORD).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", FILES)
def test_it_does_not_hold_for_another_file(model: Path, name: str) -> None:
    (model / name).write_bytes(b"another")
    assert recorded(model, identity(model)) is None
    (model / name).unlink()
    assert recorded(model, identity(model)) is None
    (model / name).write_bytes(name.encode())
    assert recorded(model, identity(model)) == REPORT


@pytest.mark.parametrize(
    ("what", "stands_for"),
    [("version", lambda _: "another"), ("cpu", lambda: "another"), ("_CODE", ("check_tiles.py",))],
)
def test_it_does_not_hold_for_another_engine_cpu_or_check(
    model: Path, monkeypatch: pytest.MonkeyPatch, what: str, stands_for: Callable[..., str]
) -> None:
    monkeypatch.setattr(check_record, what, stands_for)
    assert recorded(model, identity(model)) is None


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "{}", '{"rests_on": {}}', json.dumps({"report": REPORT}), "null"],
)
def test_a_damaged_record_is_none(model: Path, text: str) -> None:
    (model / RECORD).write_text(text)
    assert recorded(model, identity(model)) is None


@pytest.mark.parametrize("report", [None, [], {}, {"passed": "yes"}, {"passed": None}])
def test_a_record_without_a_verdict_is_none(model: Path, report: object) -> None:
    (model / RECORD).write_text(json.dumps({"rests_on": identity(model), "report": report}))
    assert recorded(model, identity(model)) is None


def test_a_folder_that_cannot_be_written_keeps_its_record(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_record(model, {}, {"passed": False})
    assert recorded(model, identity(model)) == REPORT
    assert [p.name for p in model.iterdir() if p.name.startswith(".")] == []


def test_the_cpu_is_told_by_name_and_by_what_engines_look_at() -> None:
    name, colon, features = check_record.cpu().partition(": ")
    info = Path("/proc/cpuinfo").read_text()
    assert colon
    assert f": {name}\n" in info
    assert features == " ".join(sorted(features.split()))
    assert {"avx2", "fma"} & set(info.split()) == {"avx2", "fma"} & set(features.split())
    assert "vmx" not in features
