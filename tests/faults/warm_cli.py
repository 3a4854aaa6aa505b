"""`kappamask-stream` again and again without its start: a process that has imported it forks for every run.

    python -m tests.faults.warm_cli

One JSON object a line: ``{"argv": […], "variables": {…}, "out": FILE, "err": FILE, "failing": {…} or null}`` is
answered with ``{"code": N, "counted": [[call, path], …], "failed": […]}``; ``failing`` is `failing_calls.Failing`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.faults.failing_calls import Failing

ROOT = Path(__file__).resolve().parents[2]
#: What a run imports when it begins; none of it starts a thread.
_WARM = ("cli.masking", "cli.progress", "cli.product_list", "cli.settings_origin", "aoi", "models", "pipeline")
_WARM += ("extras.probabilities", "extras.subtiles", "processes", "report", "resources", "runner", "settings", "stac")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that has ended.

    Attributes
    ----------
    code : exit code; negative: the signal.
    out, err : what it wrote.
    counted, failed : see `failing_calls.Overseer`.
    """

    code: int
    out: str
    err: str
    counted: list[tuple[str, str]]
    failed: list[tuple[str, str]]


class WarmCli:
    """The process that forks. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm_cli"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def __call__(self, *argv: object, failing: Failing | None = None, **variables: str) -> Ended:
        """Run a command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = self._folder / "stdout", self._folder / "stderr"
        asked = {
            "argv": [str(one) for one in argv], "variables": variables, "out": str(out), "err": str(err),
            "failing": None if failing is None else asdict(failing),
        }  # fmt: skip
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        counted, failed = ([(call, path) for call, path in said[what]] for what in ("counted", "failed"))
        return Ended(code=said["code"], out=out.read_text(), err=err.read_text(), counted=counted, failed=failed)


def _serve() -> None:
    for name in _WARM:
        importlib.import_module(f"kappamask_stream.{name}")
    from kappamask_stream.cli import build_app

    build_app()
    assert threading.active_count() == 1, "a thread would not be in the fork"
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


def _run(asked: Mapping[str, Any]) -> dict[str, Any]:
    from tests.faults.failing_calls import Failing, Overseer, received_listener

    given = asked["failing"]
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()
        _be_a_run(asked["argv"], asked["variables"], (asked["out"], asked["err"]), there if given else None)
    there.close()
    overseer = Overseer(Failing(**given) if given else Failing(at=0, number=0, folders=()))
    if given:
        listener = received_listener(here)
        overseer.oversee(listener, child)
        os.close(listener)
    here.close()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "counted": overseer.counted, "failed": overseer.failed}


def _be_a_run(
    argv: Sequence[str], variables: Mapping[str, str], files: tuple[str, str], channel: socket.socket | None
) -> NoReturn:
    code: object = 99
    try:
        from kappamask_stream.cli import main

        for number, path in enumerate(files, start=1):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        os.environ.update(variables)
        sys.argv = ["kappamask-stream", *argv]
        if channel is not None:
            from tests.faults.failing_calls import hand_over_calls

            hand_over_calls(channel)
        main()
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 - as Python does at the end of a program
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is pytest's to answer
    _serve()
