"""A disk that is full, or breaks, at every single call of a run that writes; and a process killed at each of them."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.failing_calls import Failing, why_not
from tests.faults.plant import ALIKE, ALL, STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from tests.fault_table import Fault
    from tests.faults.plant import Plant

pytestmark = [pytest.mark.integration, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

#: Errors of a disk, of which each call gets one after the other; and what a message says of it.
ERRORS = {errno.ENOSPC: "make room", errno.EIO: "", errno.EDQUOT: "your quota is used up", errno.EROFS: ""}
REMEDIES = ("give another folder with --output", "name another folder for temporary files with TMPDIR")


def calls(plant: Plant, brief: int, fault: Fault, *, kills: bool = False) -> Iterator[int]:
    """Numbers of calls: all, until a run passes (the caller stops); in brief some, the first of them between tiles.

    At the end of them all each of `STAGES` must have had some.
    """
    plant.fresh()
    counted = plant.run(failing=failing(plant, at=0, number=0, kills=kills)).counted
    assert len(counted) > 80
    plant.fresh()
    pictures = [number for number, (_, path) in enumerate(counted, 1) if "_tiles/tile_2_1/" in path]
    draw = random.Random(len(counted))
    some = [draw.choice(pictures), *draw.sample(range(1, len(counted) + 1), brief - 1)]
    yield from fault.amount(some, itertools.count(1))  # type: ignore[arg-type]


def failing(plant: Plant, *, at: int, number: int, **rest: Any) -> Failing:
    """Which calls fail: of the pictures of tiles, which are all written alike, those of two tiles."""
    return Failing(at=at, number=number, folders=[str(plant.out), str(plant.tmp)], uncounted=ALIKE, **rest)


def require_spread(fault: Fault) -> None:
    """Assert that calls failed at each stage; in brief, between tiles."""
    seen = {stage: sum(times for what, times in fault.outcomes.items() if what.startswith(stage)) for stage in STAGES}
    assert all(seen[stage] >= fault.amount(stage == STAGES[1], 5) for stage in STAGES), seen


@pytest.mark.fault("Output", "disk full or broken at every call that writes, once")
def test_a_call_that_fails_once(plant: Plant, fault: Fault) -> None:
    for at, number in zip(calls(plant, 2, fault), itertools.cycle(ERRORS), strict=False):
        ended = plant.run(failing=failing(plant, at=at, number=number))
        if not ended.failed:
            break
        judge(plant, fault, ended.code, ended.err, number)
    require_spread(fault)


@pytest.mark.fault("Output", "disk full or broken from every call on")
def test_a_disk_that_stays_full(plant: Plant, fault: Fault) -> None:
    for at, number in zip(calls(plant, 1, fault), itertools.cycle(ERRORS), strict=False):
        ended = plant.run(failing=failing(plant, at=at, number=number, lasting=True))
        if not ended.failed:
            break
        judge(plant, fault, ended.code, ended.err, number)
    require_spread(fault)


def judge(plant: Plant, fault: Fault, code: int, said: str, number: int) -> None:
    """Assert what a user gets: the whole set, or one line with file and remedy, and afterwards the whole set."""
    fault.injected()
    stage = plant.stage()
    assert "Traceback" not in said
    if code == 0:  # what can be done in another way, or once more, is
        plant.require_whole()
        fault.outcome("went on, all files byte-identical")
        plant.fresh()
        return
    assert code == 5, said
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert f"cannot write {plant.out}" in line or f"cannot write {plant.tmp}" in line
    assert os.strerror(number) in line
    assert ERRORS[number] in line
    assert any(remedy in line for remedy in REMEDIES)
    if plant.left():  # the mask was whole before the catalogue around it failed
        assert line.startswith(f"error: cannot write {plant.out}")
        made = plant.made()
        assert all(content == plant.whole[name] for name, content in made.items())
        assert set(plant.whole) - set(made) <= {name for name in plant.whole if "/" not in name or "models/" in name}
    plant.require_again()
    fault.outcome(f"{stage}: exit 5 with file and remedy, nothing left, then byte-identical")
    plant.fresh()


@pytest.mark.fault("Process", "SIGKILL at every call that changes a folder")
def test_killed_at_a_call(plant: Plant, fault: Fault) -> None:
    for at in calls(plant, 2, fault, kills=True):
        ended = plant.run(failing=failing(plant, at=at, number=signal.SIGKILL, kills=True))
        if not ended.failed:
            break
        assert ended.code == -signal.SIGKILL
        fault.injected()
        stage = plant.stage()
        require_sound(plant)
        plant.require_again()
        fault.outcome(f"{stage}: the same command: byte-identical, nothing left")
        plant.fresh()
    require_spread(fault)


def require_sound(plant: Plant) -> None:
    """Assert that whatever has its final name is what it should be, and no Item is there without its files."""
    made = {name: content for name, content in plant.made().items() if "/." not in f"/{name}"}
    lists = [name for name in made if name.endswith("_subtiles.json")]
    assert {name for name in made if made[name] != plant.whole[name]} <= set(lists)
    if any(name.endswith("_20m.json") for name in made):
        assert {name for name in plant.whole if name.startswith("S2")} == {n for n in made if n.startswith("S2")}


#: Another mask of the same name: shadows are grown over what is clear.
OTHER = ("--dilate", "cloud=40", "--png", "--stac", "--report", "--overwrite")


@pytest.mark.fault("Process", "SIGKILL at every call while another mask is replaced")
def test_killed_while_another_mask_is_replaced(plant: Plant, fault: Fault, tmp_path: Path) -> None:
    """Whichever of the two is asked for then, with whichever files: none is a mixture of both.

    Where the next run fails, the old set is whole again; if the new mask was there already, nothing of the old is.
    """
    plant.fresh()
    old = (*OTHER, "--subtiles", "--probabilities")
    assert plant.run(old).code == 0
    other = plant.made()
    shutil.copytree(plant.out, tmp_path / "old")
    new = ("--stac", "--overwrite")
    counted = plant.run(new, failing=failing(plant, at=0, number=0, kills=True)).counted
    mask = next(name for name in plant.whole if name.endswith("_20m.tif"))
    taken = next(at for at, (call, path) in enumerate(counted, 1) if call == "rename" and path.endswith(mask))
    numbers = fault.amount([random.Random(3).randint(taken, taken + 4)], range(1, len(counted) + 1))
    for at in numbers:
        plant.fresh()
        shutil.copytree(tmp_path / "old", plant.out)
        ended = plant.run(new, failing=failing(plant, at=at, number=signal.SIGKILL, kills=True))
        if not ended.failed:
            break
        fault.injected()
        ended = plant.cli("run", broken(plant, tmp_path), "--model", "null_l2a", "--output", plant.out, *new)
        made = plant.made()
        if made[mask] != other[mask]:  # killed after the new one was there: it may be found done
            assert ended.code == 0 or (ended.code == 3 and "error: " in ended.err), ended.err
            assert {name for name in made if "/" in name and made[name] != plant.whole.get(name)} <= items(made)
        else:
            assert (ended.code, "error: " in ended.err) == (3, True), ended.err
            assert made == other, at
        wanted, expected = (old, other) if at % 2 else ((*new, *ALL), plant.whole)
        assert plant.run(wanted).code == 0
        made = plant.made()
        wrong = [name for name in made if "/" in name and made[name] != expected.get(name)]
        assert wrong == [], (at, ended.failed)
        assert set(expected) - set(made) == set()
        fault.outcome("the next run fails: the old set is whole; it does not: byte-identical, nothing of the other")


def items(made: Iterable[str]) -> set[str]:
    """Items tell which files were asked for with the mask."""
    return {name for name in made if name.endswith("_20m.json")}


def broken(plant: Plant, folder: Path) -> Path:
    """Return the same product with bands that end too early: masking it fails when it has begun."""
    product = folder / plant.product.name
    if not product.exists():
        shutil.copytree(plant.product, product)
        for band in product.rglob("*.jp2"):
            os.truncate(band, band.stat().st_size // 2)
    return product
