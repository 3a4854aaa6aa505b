"""What a server did between two looks at it, and the CPU seconds of its processes."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from kappamask_stream.bench.lag import Lag
from kappamask_stream.bench.products_work import sums
from kappamask_stream.bench.server_statistics import Statistics
from kappamask_stream.bench.server_work import ServerWork, descendants_cpu_s

#: Has a child of its own; both work, say so and wait.
BUSY = """
import subprocess, sys, time
child = None
if sys.argv[1] == "outer":
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], "inner"], stdin=0, stdout=subprocess.PIPE)
while time.process_time() < 0.2:
    pass
if child:
    child.stdout.read(1)
sys.stdout.write("x")
sys.stdout.flush()
sys.stdin.read()
"""


def looked(executing_s: float | None, cpu_s: float | None) -> ServerWork:
    untold = "nobody tells" if executing_s is None else None
    return ServerWork(statistics=Statistics(executing_s=executing_s or 0.0, untold=untold), cpu_s=cpu_s)


def test_shares_are_of_all_instances_together() -> None:
    work = looked(13.0, 20.0).since(looked(10.0, 5.0))
    assert work.statistics.executing_s == 3
    assert work.cpu_s == 15
    assert work.busy(2.0, 3) == 0.5
    assert work.busy(1.0, 2) == 1.5  # more than there can be: it is not hidden


@pytest.mark.parametrize(("now", "before"), [(None, 1.0), (1.0, None), (1.0, 2.0)])
def test_what_began_anew_or_is_not_told_is_unknown(now: float | None, before: float | None) -> None:
    work = looked(now, now).since(looked(before, before))
    assert (work.cpu_s, work.busy(1.0, 1)) == (None, None)
    assert work.statistics.untold is not None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_cpu_of_processes_is_that_of_children_and_theirs() -> None:
    before = descendants_cpu_s(os.getpid()) or 0.0
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, "outer", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.read(1) == b"x"
        found = descendants_cpu_s(os.getpid())
        assert found is not None
        assert found - before >= 0.36  # four counters, each of whole ticks of 10 ms
        inner = psutil.Process(process.pid).children()
        assert [child.pid for child in inner]
        assert 0.18 <= (descendants_cpu_s(process.pid) or 0.0) <= found - before
        assert descendants_cpu_s(inner[0].pid) is None
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_lags_are_summed_up_without_averages() -> None:
    assert Lag.of([0.001] * 98 + [0.5, 0.7]) == Lag(p50_s=0.001, p99_s=0.5, max_s=0.7)
    assert Lag.of([]) == Lag(p50_s=0.0, p99_s=0.0, max_s=0.0)


def test_stages_of_products_are_added_up() -> None:
    assert sums([{"decode": 1.0, "cut": 2.0}, {"decode": 3.0, "close": 4.0}]) == {
        "decode": 4.0,
        "cut": 2.0,
        "close": 4.0,
    }
