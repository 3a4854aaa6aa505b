"""The fuzzing of one target: a child process after the other, until so many inputs have been run, or so long."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROOT = Path(__file__).parents[2]
#: After so many inputs that hang or crash it, a target is to be repaired first.
_MOST_CHILDREN = 5
_PULSE = re.compile(r"#(\d+)\s.*cov: (\d+) ft: \d+ corp: (\d+)/")
_DONE = re.compile(r"stat::number_of_executed_units: (\d+)|Done (\d+) runs")
_WRITTEN = re.compile(r"Test unit written to (\S+)")
#: libFuzzer's exit codes, that of `-timeout`.
_KINDS = {70: "hangs"}
_IMPORTS_S = 60.0
_REPLAY_S = 60.0


@dataclass(kw_only=True)
class Finding:
    """An input that a parser does not stand.

    Attributes
    ----------
    kind : ``raises``, ``slow``, ``allocates``, ``hangs`` or ``crashes``.
    said : one line.
    file : that holds the input.
    explained : traceback, or figures.
    """

    kind: str
    said: str
    file: str
    explained: str


@dataclass(kw_only=True)
class Campaign:
    """What is done to one target, and what came of it so far.

    Attributes
    ----------
    name, package : of the module ``PACKAGE.NAME_target``.
    runs : inputs to run.
    seconds : after which it ends before them.
    folder : for corpus and counts; a corpus that is there is taken up.
    findings_folder : for inputs that are findings.
    executions, seconds_spent : so far, of all children.
    coverage, coverage_before : edges that libFuzzer counts, now and after the corpus and the seeds.
    corpus : inputs that each reach something new.
    findings : those that a second run, without instrumentation, confirms.
    passing : hangs and slow inputs that it does not.
    broken : why the target cannot be fuzzed at all.
    told : by the last child: worst CPU time of an input, most address space that one took, peak resident size.
    """

    name: str
    package: str
    runs: int
    seconds: float
    folder: Path
    findings_folder: Path
    executions: int = 0
    seconds_spent: float = 0.0
    coverage: int = 0
    coverage_before: int = 0
    corpus: int = 0
    findings: list[Finding] = field(default_factory=list)
    passing: int = 0
    broken: str | None = None
    told: dict[str, float] = field(default_factory=dict)
    is_running: bool = False
    _child_now: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """Fuzz; returns when it is over."""
        for sub in ("corpus", "seeds"):
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        begin, self.is_running = time.monotonic(), True
        for _ in range(_MOST_CHILDREN):
            left = self.seconds - (time.monotonic() - begin)
            if self.executions >= self.runs or left < 1:
                break
            if self._child(left):
                break
        self.seconds_spent = time.monotonic() - begin
        self.findings = [found for found in self.findings if self._is_confirmed(found)]
        self.is_running = False
        with contextlib.suppress(OSError):  # it holds findings, or somebody took it away
            self.findings_folder.rmdir()

    def stop(self) -> None:
        """End the child that runs now."""
        if self._child_now is not None:
            self._child_now.kill()

    def _child(self, left: float) -> bool:
        """Run a child; True where there is no use in another one."""
        before, told_in = self.executions, self.folder / "told.json"
        told_in.unlink(missing_ok=True)
        self.findings_folder.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-runs={self.runs - before}", f"-max_total_time={int(left)}", "-timeout=1", "-rss_limit_mb=0",
            "-print_final_stats=1", f"-artifact_prefix={self.findings_folder}/",
        ]  # fmt: skip
        command = [sys.executable, "-m", "tests.fuzz.child", self.package, self.name, self.folder, self.findings_folder]
        child = subprocess.Popen(
            [*map(str, command), *flags], cwd=_ROOT, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._child_now = child
        stop = threading.Timer(left + _IMPORTS_S, child.kill)  # a seed that hangs before libFuzzer watches
        stop.start()
        assert child.stdout is not None
        last = self._follow(child.stdout, before)
        status = child.wait()
        stop.cancel()
        if told_in.is_file():
            told = json.loads(told_in.read_text())
            self.told = {name: max(value, self.told.get(name, 0)) for name, value in told.items()}
        if status == 0:
            return True
        output = "\n".join(last)
        written = _WRITTEN.search(output)
        if written is None:
            self.broken = f"its process ended with {status}: {output}"
            return True
        kind, is_known = _KINDS.get(status, "crashes"), written[1] in {found.file for found in self.findings}
        if not is_known:
            self.findings.append(Finding(kind=kind, said=f"it {kind}", file=written[1], explained=output))
        return is_known

    def _follow(self, lines: Iterable[str], before: int) -> deque[str]:
        last: deque[str] = deque(maxlen=30)
        for line in lines:
            if line.startswith("FINDING "):
                self.findings.append(Finding(**json.loads(line.removeprefix("FINDING "))))
                continue
            last.append(line.rstrip())
            if pulse := _PULSE.match(line):
                self.executions = before + int(pulse[1])
                self.coverage, self.corpus = max(self.coverage, int(pulse[2])), int(pulse[3])
                if "INITED" in line and not self.coverage_before:
                    self.coverage_before = int(pulse[2])
            elif done := _DONE.match(line):
                self.executions = before + int(done[1] or done[2])
        return last

    def _is_confirmed(self, found: Finding) -> bool:
        """Run a finding again, without instrumentation; what is only slow under it, or on a busy machine, is none."""
        command = [sys.executable, "-m", "tests.fuzz.replay", self.package, self.name, found.file]
        try:
            again = subprocess.run(
                command, cwd=_ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=_REPLAY_S
            )
        except subprocess.TimeoutExpired:
            return True
        if again.returncode == 0 and found.kind in {"slow", "hangs"}:
            self.passing += 1
            Path(found.file).unlink()
            return False
        if again.returncode:
            found.explained = f"{again.stdout}{again.stderr}"
            if found.kind in {"allocates", "raises"}:
                found.said = again.stdout.strip().splitlines()[0] if again.stdout.strip() else found.said
        return True
