"""Signals at random moments of a run's life, then the same command again: valid, identical, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.server import server_status
from tests.faults.plant import STAGES, TILES
from tests.integration.local_state import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fault_table import Fault
    from tests.faults.plant import Plant
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

#: What is seen from outside of a run's life: its first words, its scratch folder, a temporary file, a mask, its end.
STATES: dict[str, Callable[[Plant], object]] = {
    "says something": lambda plant: plant.said,
    "has a scratch folder": lambda plant: any(name.startswith("kappamask-scratch-") for name in os.listdir(plant.tmp)),  # noqa: PTH208 - quicker
    "has a product's folder": lambda plant: plant.out.exists(),
    "writes": lambda plant: next(plant.out.glob("*/.*.part"), None),
    "has a mask": lambda plant: next(plant.out.glob("*/*_20m.tif"), None),
    "has a catalogue": lambda plant: (plant.out / "collection.json").exists(),
}
#: A moment of a run's life: seconds after its start, tiles that it has answered, or one of `STATES`.
Moment = float | int | str


def moments(amount: int, seed: int, seconds: float) -> list[Moment]:
    """Half of them by tiles, the rest by time, spread over a run's life, and states; of few the first is by tiles."""
    draw = random.Random(seed)
    by_tiles = (amount + 1) // 2
    # Later ones may come when all have been answered.
    tiles = [1 + int((TILES - 4) * (step + draw.random()) / by_tiles) for step in range(by_tiles)]
    if amount < len(STATES):
        return [*tiles, *draw.sample(sorted(STATES), amount - by_tiles)]
    states = sorted(STATES)
    steps = amount - by_tiles - len(states)
    return [*tiles, *states, *(seconds * (step + draw.random()) / steps for step in range(steps))]


def wait_for(plant: Plant, process: subprocess.Popen[str], moment: Moment) -> None:
    if isinstance(moment, float):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        return

    def has_come() -> object:
        return STATES[moment](plant) if isinstance(moment, str) else plant.tiles() >= moment

    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and not has_come():
        assert time.monotonic() < deadline, moment
        time.sleep(0.001)


def hears(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Tell whether our own handlers are in place: before, it is Python that starts, and dies as it likes."""
    if number is signal.SIGINT:
        number = signal.SIGTERM  # Python has a handler of its own for SIGINT, ours of both come together
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")] or ["0"]
    return bool(int(caught, 16) >> (number - 1) & 1)


def held_leases(server: SessionServer) -> int:
    status = asyncio.run(server_status(server.state.environment))
    assert status is not None
    return int(status["leases"])


def regions(pid: int) -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"kappamask-*-{pid}-*")]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=pytest.mark.fault("Process", f"{number.name} at random moments"), id=number.name)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
    ],
)
def test_ended_at_random_moments(
    plant: Plant, session_server: SessionServer, fault: Fault, number: signal.Signals
) -> None:
    """Moments that come after the end, on a machine that is quicker than the undisturbed run was, count for nothing.

    Where they fell is seen, not planned: a third, or one of few, must have fallen between tiles.
    """
    brief = 2 if number in (signal.SIGTERM, signal.SIGKILL) else 1
    amount = fault.amount(brief, 10 if number is signal.SIGHUP else 50)
    leases, fell = held_leases(session_server), Counter[str]()
    planned = (moments(amount, number + 100 * turn, plant.seconds) for turn in range(3))
    for moment in itertools.chain.from_iterable(planned):
        if fault.times >= amount and fell[STAGES[1]] >= max(1, amount // 3):
            break
        plant.fresh()
        process = plant.start()
        wait_for(plant, process, moment)
        heard, stage = hears(process, number), plant.stage()
        process.send_signal(number)
        code = process.wait(PATIENCE_S)
        fell[stage] += code != 0
        if code == 0:
            plant.require_whole()
        elif heard and number is not signal.SIGKILL:
            # Asyncio gives a handler back by way of the system's own, which ends a process that has just ended its work.
            assert code in (128 + number, -number), moment
            assert not any(word in plant.said for word in ("Traceback", "xception", "never")), (moment, plant.said)
            require_nothing_or_the_mask(plant)
        else:
            # An interpreter that is interrupted while it starts (SIGINT in `site`) ends with 1.
            is_interrupted = number is signal.SIGINT and "KeyboardInterrupt" in plant.said
            assert code in (-number, 128 + number, 1 if is_interrupted else -number), moment
        fault.injected(code != 0)
        if number is not signal.SIGKILL:
            assert regions(process.pid) == []
        plant.require_again()
        assert regions(process.pid) == []
        wait_until(lambda: held_leases(session_server) <= leases, "its lease is given back")
        if code:
            fault.outcome(f"{stage}: the same command: byte-identical, nothing left")
    assert fault.times >= amount, "too many came after the end"
    assert fell[STAGES[1]] >= max(1, amount // 3), fell
    assert min(fell[stage] for stage in STAGES) >= fault.amount(0, 1), fell


def require_nothing_or_the_mask(plant: Plant) -> None:
    """Assert that a run which could clean up has left nothing, or - told so after the last rename - all of a mask."""
    left, whole = plant.left(), {name for name in plant.whole if "/" in name and not name.startswith("models/")}
    assert left == [] or whole <= set(plant.made()), left
    assert not any("/." in f"/{name}" for name in left)
