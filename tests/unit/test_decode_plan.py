"""The decode plan: each unit once, in the order of first use, and a ring that is large enough."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.errors import ProductError
from kappamask_stream.grid import Tile, TileGrid, Window, source_window
from kappamask_stream.jp2 import BandInput, CodestreamIndex, CodestreamTile, DecodePlan, bands_of
from kappamask_stream.jp2.plan import covering
from kappamask_stream.planning import reservation
from kappamask_stream.settings import Settings


def make_index(
    height: int,
    width: int,
    tile_height: int,
    tile_width: int,
    *,
    skip_rows: int = 0,
    skip_cols: int = 0,
    name: str = "made.jp2",
    decode_bytes: int = 0,
    plain_reason: str | None = None,
) -> CodestreamIndex:
    """Lay tiles over an image whose first row and column of tiles lack `skip_rows` and `skip_cols` pixels."""
    tops = [0, *range(tile_height - skip_rows, height, tile_height)]
    lefts = [0, *range(tile_width - skip_cols, width, tile_width)]
    windows = [
        Window(top, left, below - top, right - left)
        for top, below in zip(tops, [*tops[1:], height], strict=True)
        for left, right in zip(lefts, [*lefts[1:], width], strict=True)
    ]
    tiles = tuple(CodestreamTile(index=i, window=w, parts=((1000 + 20 * i, 20),)) for i, w in enumerate(windows))
    return CodestreamIndex(
        name=name, height=height, width=width, bit_depth=15, tile_height=tile_height, tile_width=tile_width,
        main_header=b"", codestream=(0, 0), tiles=tiles, decode_bytes=decode_bytes, plain_reason=plain_reason, layout="",
    )  # fmt: skip


@st.composite
def indexes(draw: st.DrawFn, height: int | None = None, width: int | None = None) -> CodestreamIndex:
    tile_height, tile_width = draw(st.integers(3, 70)), draw(st.integers(3, 70))
    return make_index(
        height or draw(st.integers(1, 200)),
        width or draw(st.integers(1, 200)),
        tile_height,
        tile_width,
        skip_rows=draw(st.integers(0, tile_height - 1)),
        skip_cols=draw(st.integers(0, tile_width - 1)),
        decode_bytes=draw(st.sampled_from([0, 0, 17 * 2**20])),
    )


def meets(tile: CodestreamTile, window: Window, index: CodestreamIndex) -> bool:
    inside = window.intersection(Window(0, 0, index.height, index.width))
    return not inside.is_empty and not tile.window.intersection(inside).is_empty


@given(
    index=indexes(),
    window=st.builds(Window, st.integers(0, 250), st.integers(0, 250), st.integers(0, 90), st.integers(0, 90)),
)
def test_covering_names_exactly_the_tiles_that_a_window_meets(index: CodestreamIndex, window: Window) -> None:
    expected = [position for position, tile in enumerate(index.tiles) if meets(tile, window, index)]
    assert covering(index, window) == expected


@pytest.mark.parametrize(("row", "col"), [(0, 0), (63, 0), (64, 63), (64, 64), (149, 169)])
def test_one_pixel_is_covered_by_one_tile(row: int, col: int) -> None:
    index = make_index(150, 170, 64, 64)
    (position,) = covering(index, Window(row, col, 1, 1))
    assert position == row // 64 * 3 + col // 64


def test_windows_beyond_the_image_are_covered_by_nothing() -> None:
    index = make_index(150, 170, 64, 64)
    for window in (Window(150, 0, 64, 64), Window(0, 170, 64, 64), Window(0, 0, 0, 64)):
        assert covering(index, window) == []


def test_an_index_without_the_tiles_that_its_size_asks_for_is_an_error() -> None:
    whole = make_index(150, 170, 64, 64)
    fields: dict[str, Any] = {**vars(whole), "tiles": whole.tiles[:7]}
    with pytest.raises(ProductError, match=r"made\.jp2: tile 8 is needed, the file has 7"):
        covering(CodestreamIndex(**fields), Window(0, 0, 150, 170))


@st.composite
def plans(draw: st.DrawFn) -> DecodePlan:
    """Bands at two resolutions, each file with a layout of its own, and all or some tiles of a grid over them."""
    height, width = 2 * draw(st.integers(1, 90)), 2 * draw(st.integers(1, 90))
    stride, margin = 2 * draw(st.integers(8, 40)), draw(st.integers(0, 6))
    tile = stride + 2 * margin
    fine = BandGroup(gsd_m=10, bands=("B02", "B03"), tile=tile, stride=stride)
    coarse = BandGroup(gsd_m=20, bands=("B05",), tile=tile // 2 + draw(st.integers(0, 2)), stride=stride // 2)
    bands = [
        BandInput(path=f"{b}.jp2", index=draw(indexes(height, width)), group=fine, channel=channel)
        for channel, b in enumerate(fine.bands)
    ]
    bands.append(BandInput(path="B05.jp2", index=draw(indexes(height // 2, width // 2)), group=coarse, channel=0))
    tiles = list(TileGrid(height, width, tile, margin))
    chosen = draw(st.sets(st.sampled_from(range(len(tiles))), min_size=1)) if draw(st.booleans()) else None
    return DecodePlan.of(bands, [t for i, t in enumerate(tiles) if chosen is None or i in chosen])


def wanted(plan: DecodePlan, tile: Tile) -> list[tuple[int, int]]:
    """Return (band, codestream tile) of all that a tile of the grid takes pixels from, by brute force."""
    return [
        (number, codestream_tile.index)
        for number, band in enumerate(plan.bands)
        for codestream_tile in band.index.tiles
        if meets(codestream_tile, source_window(tile, band.group), band.index)
    ]


@given(plan=plans())
def test_every_unit_is_planned_once_in_the_order_of_its_first_use(plan: DecodePlan) -> None:
    expected = list(dict.fromkeys(unit for tile in plan.tiles for unit in wanted(plan, tile)))
    assert [(unit.band, unit.tile.index) for unit in plan.units] == expected


@given(plan=plans())
def test_needs_and_uses_are_what_each_tile_takes(plan: DecodePlan) -> None:
    uses: Counter[tuple[int, int]] = Counter()
    for tile, needs in zip(plan.tiles, plan.needs, strict=True):
        named = [(plan.units[unit].band, plan.units[unit].tile.index) for unit in needs]
        assert named == wanted(plan, tile)
        uses.update(named)
    assert {(unit.band, unit.tile.index): unit.uses for unit in plan.units} == dict(uses)


class Ring:
    """What `TileStream` does with its bytes, without time: units begin in order as they fit, end at any time."""

    def __init__(self, plan: DecodePlan, reservation: int) -> None:
        self.plan, self.reservation = plan, reservation
        self.left = [unit.uses for unit in plan.units]
        self.held = self.peak = plan.kept_bytes
        self.begun = self.cut = 0
        self.running: set[int] = set()
        self.ended: set[int] = set()
        self.zero: set[int] = set()

    def steps(self) -> list[str]:
        able = ["end"] if self.running else []
        if self.begun < len(self.plan.units):
            unit = self.plan.units[self.begun]
            if self.held + unit.nbytes + unit.work_bytes <= self.reservation:
                able.append("begin")
        if self.cut < len(self.plan.tiles) and self.ended.issuperset(self.plan.needs[self.cut]):
            able.append("cut")
        return able

    def step(self, kind: str, rng: random.Random) -> None:
        if kind == "begin":
            unit = self.plan.units[self.begun]
            self.held += unit.nbytes + unit.work_bytes
            self.running.add(self.begun)
            self.begun += 1
        elif kind == "end":
            number = rng.choice(sorted(self.running))
            self.running.remove(number)
            self.ended.add(number)
            self.held -= self.plan.units[number].work_bytes
            if rng.random() < 0.3:
                self.zero.add(number)
                self.held -= self.plan.units[number].nbytes
        else:
            for number in self.plan.needs[self.cut]:
                self.left[number] -= 1
                if not self.left[number] and number not in self.zero:
                    self.held -= self.plan.units[number].nbytes
            self.cut += 1
        self.peak = max(self.peak, self.held)


@given(plan=plans(), seed=st.integers(0, 2**32), prefer=st.sampled_from(["begin", "end", "cut", ""]))
def test_a_ring_of_the_required_bytes_never_blocks_for_good(plan: DecodePlan, seed: int, prefer: str) -> None:
    rng, ring = random.Random(seed), Ring(plan, plan.required_bytes)
    while able := ring.steps():
        ring.step(prefer if prefer in able else rng.choice(able), rng)
    assert (ring.cut, ring.begun, ring.held) == (len(plan.tiles), len(plan.units), plan.kept_bytes)
    assert ring.peak <= plan.required_bytes


@given(plan=plans())
def test_less_than_the_required_bytes_blocks(plan: DecodePlan) -> None:
    """The requirement is exact: with one byte less the schedule that decodes just in time does not come through."""
    ring, rng = Ring(plan, plan.required_bytes - 1), random.Random(0)
    rng.random = lambda: 1.0  # type: ignore[method-assign] # no unit is zero
    while able := ring.steps():
        # Cut and end as soon as possible: nothing is held longer than needed.
        ring.step(next(kind for kind in ("cut", "end", "begin") if kind in able), rng)
    assert ring.cut < len(plan.tiles) or not plan.units


def test_a_ring_holds_two_rows_of_codestream_tiles_not_the_image(csmask_contract: ModelContract) -> None:
    group = csmask_contract.inputs[0]
    index = make_index(5490, 5490, 640, 640)
    bands = [BandInput(path=b, index=index, group=group, channel=i) for i, b in enumerate(group.bands)]
    plan = DecodePlan.of(bands, TileGrid.of(csmask_contract, 5490, 5490))
    row_bytes = 6 * 640 * 5490 * 2
    assert row_bytes < plan.required_bytes - plan.kept_bytes <= 2 * row_bytes
    assert plan.kept_bytes < row_bytes // 40, "what is kept of ESA's layouts is next to nothing"
    assert len(plan.units) == 6 * 81


def test_what_a_decoder_takes_for_a_huge_tile_counts() -> None:
    group = BandGroup(gsd_m=20, bands=("B02", "B03"), tile=256, stride=204)
    grid = TileGrid(5000, 5000, 256, 26)
    pixels, work = 5000 * 5000 * 2, 5000 * 5000 * 4
    huge = make_index(5000, 5000, 5000, 5000, decode_bytes=work)
    bands = [BandInput(path=b, index=huge, group=group, channel=i) for i, b in enumerate(group.bands)]
    plan = DecodePlan.of(bands, grid)
    assert [unit.work_bytes for unit in plan.units] == [work + 2 * 20] * 2
    # Both bands are kept; the second is decoded beside the first.
    assert plan.required_bytes == plan.kept_bytes + 2 * pixels + work + 2 * 20
    small = make_index(5000, 5000, 500, 500, decode_bytes=500 * 500 * 4)
    assert {
        unit.work_bytes for unit in DecodePlan.of([BandInput(path="", index=small, group=group, channel=0)], grid).units
    } == {0}


@pytest.mark.parametrize("side", [5000, 500])
def test_a_file_laid_out_greedily_is_at_fault_itself_and_no_reason_to_change_the_budget(side: int) -> None:
    """A worker takes the settings' fault for every product's and pauses: one file must not make it."""
    group = BandGroup(gsd_m=20, bands=("B02",), tile=256, stride=204)
    index = make_index(5000, 5000, side, side, name="B02.jp2", decode_bytes=side * side * 4)
    plan = DecodePlan.of([BandInput(path="", index=index, group=group, channel=0)], TileGrid(5000, 5000, 256, 26))
    assert plan.required_bytes < 200 * 2**20
    enough, tight = Settings(memory_budget_mb=200), Settings(memory_budget_mb=16)
    assert reservation(plan, enough) >= plan.required_bytes
    if side == 500:
        assert plan.required_bytes <= reservation(plan, tight)
        return
    with pytest.raises(
        ProductError, match=r"^B02\.jp2 is laid out in pieces so large that decoding needs 144 MB, .* 16"
    ):
        reservation(plan, tight)


def test_a_file_of_too_many_pieces_is_at_fault_itself() -> None:
    """What is kept of them is part of what the product needs, whatever of their pixels is held at once."""
    group = BandGroup(gsd_m=20, bands=("B02",), tile=256, stride=240)
    index = make_index(3300, 3300, 31, 31, name="B02.jp2")
    plan = DecodePlan.of([BandInput(path="", index=index, group=group, channel=0)], TileGrid(3300, 3300, 256, 8))
    assert len(plan.units) == len(index.tiles) == 107**2
    assert plan.kept_bytes > 16 * 2**20 > plan.required_bytes - plan.kept_bytes
    with pytest.raises(
        ProductError, match=r"^B02\.jp2 is laid out in 11449 pieces, so many that decoding needs 19 MB, .* 16"
    ):
        reservation(plan, Settings(memory_budget_mb=16))
    assert reservation(plan, Settings(memory_budget_mb=20)) == plan.required_bytes


def test_bands_are_paired_with_their_files_in_the_order_of_the_contract(kappamask_contract: ModelContract) -> None:
    keys = [(band, group.gsd_m) for group in kappamask_contract.inputs for band in group.bands]
    made = {key: make_index(9, 9, 9, 9, name=f"{key[0]}_{key[1]}m") for key in keys}
    bands = bands_of(kappamask_contract, made, {key: f"R{key[1]}m/{key[0]}.jp2" for key in keys})
    assert [band.path for band in bands] == [f"R{gsd}m/{name}.jp2" for name, gsd in keys]
    assert [band.index.name for band in bands] == [f"{name}_{gsd}m" for name, gsd in keys]
    assert [(band.group.gsd_m, band.channel) for band in bands] == [
        *((10, i) for i in range(6)), *((20, i) for i in range(6)), *((60, i) for i in range(2)),
    ]  # fmt: skip


def test_no_tiles_need_nothing() -> None:
    plan = DecodePlan.of([], [])
    assert (plan.units, plan.needs, plan.required_bytes) == ((), (), 0)
