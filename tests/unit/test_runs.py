"""Runs of codestream tiles: what is fetched together, what is not, and that the limit is one that never blocks."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.contract import BandGroup
from kappamask_stream.grid import TileGrid
from kappamask_stream.jp2 import BandInput, CodestreamIndex, CodestreamTile, DecodePlan
from kappamask_stream.jp2.runs import Run, RunCutter, compressed_bytes, extent, fitting_runs, plan_runs, required_bytes
from tests.unit.test_decode_plan import make_index, plans

Parts = tuple[tuple[int, int], ...]


def with_parts(index: CodestreamIndex, parts: Sequence[Parts]) -> CodestreamIndex:
    tiles = [
        CodestreamTile(index=tile.index, window=tile.window, parts=own)
        for tile, own in zip(index.tiles, parts, strict=True)
    ]
    return CodestreamIndex(**{**vars(index), "tiles": tuple(tiles)})


def one_band(parts: Sequence[Parts]) -> DecodePlan:
    """Plan one row of codestream tiles of 16 pixels, each with these tile-parts."""
    group = BandGroup(gsd_m=10, bands=("B02",), tile=16, stride=16)
    index = with_parts(make_index(16, 16 * len(parts), 16, 16), parts)
    band = BandInput(path="B02.jp2", index=index, group=group, channel=0)
    return DecodePlan.of([band], TileGrid(16, 16 * len(parts), 16, 0))


def shape(runs: Sequence[Run]) -> list[tuple[tuple[int, ...], int, int]]:
    return [(run.units, run.start, run.length) for run in runs]


def test_units_that_follow_each_other_are_one_run_up_to_the_limit() -> None:
    plan = one_band([((100 + 50 * i, 50),) for i in range(7)])
    assert shape(plan_runs(plan, 150)) == [((0, 1, 2), 100, 150), ((3, 4, 5), 250, 150), ((6,), 400, 50)]
    assert shape(plan_runs(plan, 149)) == [((0, 1), 100, 100), ((2, 3), 200, 100), ((4, 5), 300, 100), ((6,), 400, 50)]
    assert shape(plan_runs(plan, 10**6)) == [(tuple(range(7)), 100, 350)]
    assert shape(plan_runs(plan, 0)) == [((i,), 100 + 50 * i, 50) for i in range(7)]


@pytest.mark.parametrize(("gap", "runs"), [(0, 1), (49, 1), (50, 1), (51, 2), (10**6, 2)])
def test_a_gap_is_fetched_where_it_is_a_fortieth_of_the_rest_or_less(gap: int, runs: int) -> None:
    plan = one_band([((0, 1000),), ((1000 + gap, 1000),)])
    found = plan_runs(plan, 10**9)
    assert len(found) == runs
    assert sum(run.unit_bytes for run in found) == 2000


def test_gaps_count_towards_the_limit() -> None:
    plan = one_band([((0, 1000),), ((1010, 1000),)])
    assert len(plan_runs(plan, 2010)) == 1
    assert len(plan_runs(plan, 2009)) == 2


def test_units_in_another_order_than_in_the_file_are_apart() -> None:
    plan = one_band([((500, 50),), ((550, 50),), ((100, 50),), ((150, 50),), ((500, 50),)])
    assert shape(plan_runs(plan, 1000)) == [((0, 1), 500, 100), ((2, 3), 100, 100), ((4,), 500, 50)]


def test_rows_that_are_needed_by_turns_are_runs_beside_each_other() -> None:
    plan = one_band([((start + 50 * i, 50),) for i in range(3) for start in (0, 5000, 9000)])
    assert shape(plan_runs(plan, 1000)) == [((0, 3, 6), 0, 150), ((1, 4, 7), 5000, 150), ((2, 5, 8), 9000, 150)]
    runs, limit = fitting_runs(plan, 1000, 349)
    assert (len(runs), limit) == (6, 349)
    assert fitting_runs(plan, 1000, 350) == (plan_runs(plan, 1000), 350)
    assert fitting_runs(plan, 1000, 1) == (plan_runs(plan, 0), 50)


def test_tile_parts_of_a_tile_stay_together_or_are_scattered() -> None:
    plan = one_band([((0, 400), (410, 600)), ((1010, 50),), ((1060, 50), (5000, 50))])
    runs = plan_runs(plan, 10**6)
    assert shape(runs) == [((0, 1), 0, 1060), ((2,), 1060, 3990)]
    assert [run.is_scattered for run in runs] == [False, True]
    assert [run.unit_bytes for run in runs] == [1050, 100]


def test_bands_have_runs_of_their_own_even_of_one_file() -> None:
    group = BandGroup(gsd_m=10, bands=("B02", "B03"), tile=16, stride=16)
    index = make_index(16, 48, 16, 16)
    bands = [BandInput(path="same.jp2", index=index, group=group, channel=c) for c in range(2)]
    plan = DecodePlan.of(bands, TileGrid(16, 48, 16, 0))
    assert shape(plan_runs(plan, 1000)) == [((0, 2, 4), 1000, 60), ((1, 3, 5), 1000, 60)]
    assert required_bytes(plan, plan_runs(plan, 1000)) == 60 - 20 + 60


@st.composite
def laid_out(draw: st.DrawFn) -> DecodePlan:
    """Plans whose tile-parts lie in the files in any order, with gaps, whole or in parts."""
    plan = draw(plans())
    rng = draw(st.randoms(use_true_random=False))
    bands = []
    for band in plan.bands:
        count = len(band.index.tiles)
        owners = [tile for tile in range(count) for _ in range(rng.choice([1, 1, 1, 2]))]
        if draw(st.booleans()):
            rng.shuffle(owners)
        parts: list[Parts] = [()] * count
        at = rng.randrange(50)
        for tile in owners:
            size = rng.randrange(14, 90)
            parts[tile] += ((at, size),)
            at += size + rng.choice([0, 0, 0, 0, 1, 30])
        index = with_parts(band.index, parts)
        bands.append(BandInput(path=band.path, index=index, group=band.group, channel=band.channel))
    return DecodePlan.of(bands, plan.tiles)


@given(plan=laid_out(), most=st.integers(0, 2000))
def test_each_unit_is_in_one_run_of_its_file_and_in_order(plan: DecodePlan, most: int) -> None:
    runs = plan_runs(plan, most)
    assert Counter(unit for run in runs for unit in run.units) == Counter(range(len(plan.units)))
    assert [run.units[0] for run in runs] == sorted(run.units[0] for run in runs)
    for run in runs:
        units = [plan.units[number] for number in run.units]
        assert list(run.units) == sorted(run.units)
        assert len({unit.band for unit in units}) == 1
        assert plan.bands[units[0].band].path == run.path
        assert run.extents == tuple(extent(unit.tile.parts) for unit in units)
        assert run.unit_bytes == sum(compressed_bytes(unit) for unit in units)
        ends = [offset + length for offset, length in run.extents]
        assert all(end <= start for end, (start, _) in zip(ends, run.extents[1:], strict=False))
        if len(units) > 1:
            assert run.length <= most
        if not run.is_scattered:
            assert run.unit_bytes <= run.length <= run.unit_bytes * 41 / 40


class Reader:
    """What `RunReader` does with its bytes, without time: runs begin in order as they fit, units are used up."""

    def __init__(self, plan: DecodePlan, runs: Sequence[Run], limit: int) -> None:
        self.plan, self.runs, self.limit = plan, list(runs), limit
        self.there: set[int] = set()
        self.held = self.used = 0

    def steps(self) -> list[str]:
        able = ["begin"] if self.runs and self.held + self.runs[0].unit_bytes <= self.limit else []
        return [*able, "use"] if self.used in self.there else able

    def step(self, kind: str) -> None:
        if kind == "begin":
            run = self.runs.pop(0)
            self.held += run.unit_bytes
            self.there.update(run.units)
        else:
            self.held -= compressed_bytes(self.plan.units[self.used])
            self.used += 1


@given(plan=laid_out(), most=st.integers(0, 2000), seed=st.integers(0, 2**32), prefer=st.sampled_from(["use", ""]))
def test_the_required_bytes_never_block_and_one_less_does(plan: DecodePlan, most: int, seed: int, prefer: str) -> None:
    runs, rng = plan_runs(plan, most), random.Random(seed)
    required = required_bytes(plan, runs)
    alone = required_bytes(plan, plan_runs(plan, 0))
    assert fitting_runs(plan, most, alone)[1] == alone == max(compressed_bytes(unit) for unit in plan.units)
    reader = Reader(plan, runs, required)
    while able := reader.steps():
        reader.step(prefer if prefer in able else rng.choice(able))
    assert (reader.used, reader.held, reader.runs) == (len(plan.units), 0, [])
    short = Reader(plan, runs, required - 1)
    while able := short.steps():
        short.step("use" if "use" in able else "begin")  # nothing is held longer than needed
    assert short.used < len(plan.units)


@given(plan=laid_out(), most=st.integers(0, 2000), seed=st.integers(0, 2**32))
def test_pieces_of_any_size_are_cut_into_the_units(plan: DecodePlan, most: int, seed: int) -> None:
    rng = random.Random(seed)
    run = rng.choice(plan_runs(plan, most))
    file = random.Random(1).randbytes(run.start + run.length)
    whole, cutter, found = file[run.start :], RunCutter(run), []
    at = 0
    while at < len(whole):
        size = rng.randrange(200)
        for number, unit in cutter.feed(whole[at : at + size]):
            start, length = run.extents[len(found)]
            assert start + length <= run.start + at + size, "it was there before its bytes"
            assert number == run.units[len(found)]
            assert unit == file[start : start + length]
            found.append(number)
        for start, length in run.extents[len(found) :]:
            assert start + length > run.start + at + size, "its bytes had come"
        at += size
    assert tuple(found) == run.units
