"""Standard files that are closed, full or gone; a terminal that goes; a laptop whose lid is closed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from kappamask_stream.synth import write_product
from tests.integration.local_state import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from tests.fault_table import Fault
    from tests.faults.plant import Plant

pytestmark = pytest.mark.integration

PROGRAM = [sys.executable, "-m", "kappamask_stream"]


def shell(plant: Plant, redirections: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the plant's command in a shell that redirects its standard files."""
    plant.fresh()
    return subprocess.run(
        ["sh", "-c", f'"$0" "$@" {redirections}', *PROGRAM, *plant.arguments(), *more],
        env={**os.environ, "TMPDIR": str(plant.tmp)}, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.mark.fault("Process", "standard output, error and input are closed")
def test_closed_files_are_no_hindrance_and_receive_nothing(plant: Plant, fault: Fault) -> None:
    for closed in fault.amount((">&- 2>&- <&-",), (">&-", "2>&-", "<&-", ">&- 2>&-", ">&- 2>&- <&-", "2>/dev/full")):
        ended = shell(plant, closed)
        assert ended.returncode == 0, ended.stderr
        fault.injected()
        plant.require_whole()
        fault.outcome("exit 0, byte-identical")


@pytest.mark.fault("Process", "standard error is closed: run --processes 2")
def test_children_of_a_run_whose_files_are_closed_have_them(plant: Plant, fault: Fault, tmp_path: Path) -> None:
    """Else a child's first files, its connection to Triton among them, would receive what it prints."""
    plant.fresh()
    other = write_product(tmp_path, size=240, seed=8).product
    with subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" 2>&-', *PROGRAM, *plant.arguments(), str(other), "--processes", "2"],
        env={**os.environ, "TMPDIR": str(plant.tmp)}, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        seen: dict[int, str] = {}

        def look() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                for child in psutil.Process(process.pid).children():
                    if "kappamask_stream.processes" in child.cmdline():
                        seen[child.pid] = str(Path(f"/proc/{child.pid}/fd/2").readlink())
            return process.poll() is not None or len(seen) == 2

        wait_until(look, "children")
        assert set(seen.values()) == {os.devnull}
        fault.injected(len(seen))
        assert process.wait(PATIENCE_S) == 0
    made = plant.made()
    assert [name for name, content in plant.whole.items() if "/" in name and made[name] != content] == []
    fault.outcome("exit 0, byte-identical")


@pytest.mark.fault("Process", "standard input is closed, and products are to be read from it")
def test_products_from_an_input_that_is_closed(fault: Fault) -> None:
    for given in fault.amount((["-"],), (["-"], ["--products-file", "-"])):
        command = ["sh", "-c", '"$0" "$@" <&-', *PROGRAM, "run", *given]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        fault.injected()
        assert (ended.returncode, ended.stderr) == (
            2, "error: stdin, which - stands for, cannot be read: Bad file descriptor: is it closed?\n",
        )  # fmt: skip
        fault.outcome("exit 2 with the cause")


@pytest.mark.fault("Process", "standard output is full")
def test_results_that_cannot_be_written_end_it_with_one_line(plant: Plant, fault: Fault) -> None:
    ended = shell(plant, ">/dev/full", "--json")
    assert (ended.returncode, ended.stderr) == (
        5, "error: cannot write to standard output: No space left on device: make room, or send it elsewhere\n",
    )  # fmt: skip
    for command in ("--version", "--help"):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            ended = subprocess.run([*PROGRAM, command], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (ended.returncode, ended.stderr.count("\n")) == (5, 1), ended.stderr
        fault.injected()
    plant.require_again()
    fault.outcome("exit 5 with the cause, then byte-identical")


@pytest.mark.fault("Process", "standard output's reader goes after the first line (| head -1)")
def test_a_reader_that_has_seen_enough(plant: Plant, fault: Fault) -> None:
    plant.fresh()
    with plant.start(("--json",), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        fault.injected()
        assert process.wait(PATIENCE_S) == 1
    assert plant.said == ""
    assert plant.temporary() == []
    plant.require_again()
    fault.outcome("exit 1, no traceback, then byte-identical")


@pytest.mark.fault("Process", "the terminal goes in the middle")
@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_terminal_that_goes(plant: Plant, fault: Fault, ignored: bool) -> None:  # noqa: FBT001
    plant.fresh()
    master, slave = pty.openpty()

    def lead_a_session() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with subprocess.Popen(
        [*PROGRAM, *plant.arguments()], stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TMPDIR": str(plant.tmp), "TERM": "xterm"}, preexec_fn=lead_a_session,  # noqa: PLW1509 - it must lead before it begins
    ) as process:  # fmt: skip
        os.close(slave)
        wait_until(lambda: process.poll() is not None or os.listdir(plant.tmp), "it has begun")  # noqa: PTH208
        os.close(master)
        fault.injected(process.poll() is None)
        code = process.wait(PATIENCE_S)
    if ignored:  # nobody reads its results, and it says so to nobody
        assert code in (0, 1, 5)
        assert any(name.endswith("NULL_20m.tif") for name in plant.made())
    else:
        assert code == 129
        assert plant.left() == []
    plant.require_again()
    fault.outcome("the mask is finished" if ignored else "exit 129, nothing left, then byte-identical")


@pytest.mark.fault("Process", "stopped and continued: SIGSTOP, SIGCONT")
def test_a_lid_that_is_closed(plant: Plant, fault: Fault) -> None:
    plant.fresh()
    with plant.start() as process:
        wait_until(lambda: os.listdir(plant.tmp), "it has begun")  # noqa: PTH208
        process.send_signal(signal.SIGSTOP)
        fault.injected()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(fault.amount(0.5, 60.0))
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 0, plant.said
    plant.require_whole()
    fault.outcome("byte-identical")
