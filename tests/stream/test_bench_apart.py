"""Work in a process of its own: what comes back, and that none is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from kappamask_stream.bench.apart import in_child
from kappamask_stream.errors import InternalError, ProcessEndedError
from tests.stream.bench_works import EndSuddenly, Fail, Hang, Spin
from tests.stream.polling import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _child_finds_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def test_the_result_comes_with_time_and_cpu_of_the_whole_process(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    ended = await in_child(Spin(1.5), said.append)
    assert ended.result == "spun"
    assert said == ["spinning", "done"]
    assert 1.5 <= ended.cpu_s < 5
    assert ended.wall_s >= 1.4
    assert capfd.readouterr() == ("", "not for the parent\n")


async def test_a_fault_of_the_program_says_so() -> None:
    with pytest.raises(InternalError, match="KeyError: 'surprise'; this is a fault of kappamask-stream"):
        await in_child(Fail(), lambda _: None)


async def test_a_process_that_is_killed_is_told_of_with_a_remedy() -> None:
    with pytest.raises(ProcessEndedError, match=r"ended by SIGKILL: is there enough memory\?"):
        await in_child(EndSuddenly(by_signal=True), lambda _: None)
    with pytest.raises(InternalError, match="exit code 7"):
        await in_child(EndSuddenly(by_signal=False), lambda _: None)


async def test_cancelling_lets_the_process_clean_up_and_waits_for_its_end(tmp_path: Path) -> None:
    said: list[str] = []
    work = asyncio.create_task(in_child(Hang(tmp_path / "note"), said.append))
    await until(lambda: said)
    pid = int(said[0])
    assert psutil.pid_exists(pid)
    work.cancel()
    await asyncio.sleep(0)
    work.cancel()  # once more, while it is waited for
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not psutil.pid_exists(pid)
    assert (tmp_path / "note").read_text() == "cleaned up"


async def test_cancelling_before_the_work_has_begun_leaves_no_process(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    work = asyncio.create_task(in_child(Hang(tmp_path / "note"), lambda _: None))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not set(psutil.Process().children(recursive=True)) - before
