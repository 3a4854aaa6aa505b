"""A tile without the packets that a window does not need decodes to the same pixels inside that window."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kappamask_stream.grid import Window
from kappamask_stream.jp2 import CodestreamIndex, ImagecodecsDecoder, RasterioDecoder
from kappamask_stream.jp2.markers import Coding, Marker, parse_coding
from kappamask_stream.jp2.origin import framed
from kappamask_stream.jp2.precincts import _spans, thinned
from kappamask_stream.jp2.standalone import standalone_codestream
from tests.unit.jp2_files import (
    COD,
    EPH,
    PLT,
    SOP,
    Codestream,
    Part,
    cropped_image,
    cut_into_parts,
    esa_options,
    index_bytes,
    moved_image,
    scene,
    with_ppt,
    write_jp2,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

COC = b"\xff\x53"

#: Precincts that differ between the resolutions (GDAL wants the finest first), and are small.
SMALLEST = {"PRECINCTS": "{16,16},{8,8},{8,8},{4,4}", "CODEBLOCK_WIDTH": "4", "CODEBLOCK_HEIGHT": "4"}
ODD_TILES = {"BLOCKXSIZE": "51", "BLOCKYSIZE": "37"}

#: What GDAL writes: options, and height and width of the image.
WRITTEN: dict[str, tuple[dict[str, str], tuple[int, int]]] = {
    "small": ({}, (150, 170)),
    "small precincts": (SMALLEST, (150, 170)),
    "odd tiles": (ODD_TILES, (149, 167)),
    "odd tiles, small precincts": (ODD_TILES | SMALLEST, (149, 167)),
    "RLCP": ({"PROGRESSION": "RLCP"} | SMALLEST, (131, 95)),
    "RPCL": ({"PROGRESSION": "RPCL"} | ODD_TILES | SMALLEST, (131, 95)),
    "SOP and EPH": ({"SOP": "YES", "EPH": "YES"} | SMALLEST, (100, 90)),
    "EPH": ({"EPH": "YES"}, (100, 90)),
    "layers": ({"QUALITY": "5,20,100"} | SMALLEST, (100, 90)),
    "layers, RLCP": ({"QUALITY": "5,20,100", "PROGRESSION": "RLCP"} | SMALLEST, (100, 90)),
    "layers, RPCL": ({"QUALITY": "5,20,100", "PROGRESSION": "RPCL"} | SMALLEST, (100, 90)),
    "9/7": ({"REVERSIBLE": "NO", "QUALITY": "60"} | SMALLEST, (150, 170)),
    "9/7 in odd tiles": ({"REVERSIBLE": "NO", "QUALITY": "60"} | ODD_TILES | SMALLEST, (149, 167)),
    "one resolution": ({"RESOLUTIONS": "1", "PRECINCTS": "{16,16}"}, (100, 90)),
    "tiles smaller than the wavelet reaches": (
        {"RESOLUTIONS": "6", "BLOCKXSIZE": "33", "BLOCKYSIZE": "35", "PRECINCTS": ",".join(["{8,8}"] * 6)}, (72, 67)
    ),
    "one row": (SMALLEST, (1, 131)),
    "one column over": (SMALLEST, (65, 129)),
    "ESA 20 m": (esa_options(20), (790, 700)),
    "ESA 60 m": (esa_options(60), (305, 390)),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    folder = tmp_path_factory.mktemp("precincts")

    @cache
    def write(name: str) -> bytes:
        options, (height, width) = WRITTEN[name]
        path = folder / f"{list(WRITTEN).index(name)}.jp2"
        return write_jp2(path, scene(height, width), **options | {"PLT": "YES"}).read_bytes()

    return write


def parts_of(data: bytes, index: CodestreamIndex, number: int) -> list[bytes]:
    return [data[offset : offset + length] for offset, length in index.tiles[number].parts]


def decoded(index: CodestreamIndex, number: int, codestream: bytes) -> NDArray[np.uint16]:
    window = index.tiles[number].window
    return ImagecodecsDecoder().decode(codestream, height=window.height, width=window.width, name=f"tile {number}")


@st.composite
def windows(draw: st.DrawFn, tile: Window) -> Window:
    """Any window inside a tile, single pixels and edges among them."""
    row, col = draw(st.integers(0, tile.height - 1)), draw(st.integers(0, tile.width - 1))
    height, width = draw(st.integers(1, tile.height - row)), draw(st.integers(1, tile.width - col))
    return Window(tile.row + row, tile.col + col, height, width)


def check(data: bytes, index: CodestreamIndex, number: int, needed: Window) -> tuple[int, int]:
    """Compare a window of a thinned tile with the whole one; returns the bytes of both codestreams."""
    tile, parts = index.tiles[number], parts_of(data, index, number)
    whole = standalone_codestream(index, tile, parts)
    thin = standalone_codestream(index, tile, parts, needed)
    place = needed.relative_to(tile.window)
    np.testing.assert_array_equal(decoded(index, number, thin)[place], decoded(index, number, whole)[place])
    return len(thin), len(whole)


@pytest.mark.parametrize("name", WRITTEN)
def test_pixels_of_the_window_are_those_of_the_whole_tile(written: Callable[[str], bytes], name: str) -> None:
    data = written(name)
    index = index_bytes(data)
    sizes: list[tuple[int, int]] = []

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def compare(drawn: st.DataObject) -> None:
        number = drawn.draw(st.integers(0, len(index.tiles) - 1))
        sizes.append(check(data, index, number, drawn.draw(windows(index.tiles[number].window))))

    compare()
    assert any(thin < whole for thin, whole in sizes)


def with_plt(stream: Codestream, *, per_segment: int = 10_000) -> Codestream:
    """Add PLT segments to tile-parts written with SOP=YES, whose packets are found by their markers."""
    return replace(stream, parts=tuple(_with_plt(part, per_segment) for part in stream.parts))


def _with_plt(part: Part, per_segment: int) -> Part:
    starts = [at for at in range(len(part.data)) if part.data[at : at + 2] == SOP]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], len(part.data)], strict=True)]
    segments = part.segments
    for number, at in enumerate(range(0, len(lengths), per_segment)):
        body = bytes([number]) + b"".join(map(seven_bits, lengths[at : at + per_segment]))
        segments += PLT + struct.pack(">H", len(body) + 2) + body
    return replace(part, segments=segments)


def seven_bits(value: int) -> bytes:
    """Code a length as PLT does (T.800 A.7.3)."""
    coded = bytes([value & 0x7F])
    while value := value >> 7:
        coded = bytes([value & 0x7F | 0x80]) + coded
    return coded


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Codestream:
    """Tiles of 64 x 64 with SOP before each packet and EPH behind its header, and no PLT."""
    path = tmp_path_factory.mktemp("marked") / "a.jp2"
    return Codestream.of(write_jp2(path, scene(100, 90), SOP="YES", EPH="YES", **SMALLEST).read_bytes())


@pytest.mark.parametrize("packets", [1, 3, 1000])
@pytest.mark.parametrize("per_segment", [2, 1000])
def test_tile_in_several_parts(marked: Codestream, packets: int, per_segment: int) -> None:
    """Each part keeps its number, and has a length of its own."""
    data = with_plt(cut_into_parts(marked, packets), per_segment=per_segment).encode()
    index = index_bytes(data)
    assert (len(index.tiles[0].parts) > 1) == (packets < 1000)
    for needed in (Window(5, 6, 1, 1), Window(0, 30, 40, 34), Window(63, 63, 1, 1)):
        thin, whole = check(data, index, 0, needed)
        assert thin < whole * 0.9
    thin = standalone_codestream(index, index.tiles[0], parts_of(data, index, 0), Window(5, 6, 1, 1))
    assert PLT not in thin
    found = Codestream.of(thin)
    assert [part.number for part in found.parts] == list(range(len(index.tiles[0].parts)))
    assert b"".join(part.data for part in found.parts).count(SOP) == b"".join(p.data for p in marked.parts[:1]).count(
        SOP
    )
    assert thin.count(EPH) == thin.count(SOP)


def test_tile_parts_lie_where_gdal_puts_them(tmp_path: Path) -> None:
    options = {"TILEPARTS": "RESOLUTIONS", "PLT": "YES", "PRECINCTS": ""}
    data = write_jp2(tmp_path / "a.jp2", scene(100, 90), **options).read_bytes()
    index = index_bytes(data)
    assert len(index.tiles[0].parts) == 4
    thin, whole = check(data, index, 0, Window(0, 0, 1, 1))
    assert 0 < whole - thin < 80, "one precinct a resolution: nothing but PLT can be left out"


@pytest.mark.parametrize("offset", [(64, 64), (0, 0)])
def test_image_that_begins_elsewhere(tmp_path: Path, offset: tuple[int, int]) -> None:
    """Windows count from the image's corner, precincts from the reference grid's."""
    pixels = scene(64 * 4, 64 * 5)
    if offset == (0, 0):
        stream = Codestream.of(write_jp2(tmp_path / "a.jp2", pixels, PLT="YES").read_bytes())
        stream = cropped_image(stream, across=5, size=64)
    else:
        stream = moved_image(tmp_path, pixels, PLT="YES")
    data = stream.encode()
    index = index_bytes(data)
    rng = np.random.default_rng(3)
    smaller = 0
    for number, tile in enumerate(index.tiles):
        for _ in range(4):
            row, col = rng.integers(0, tile.window.height), rng.integers(0, tile.window.width)
            thin, whole = check(data, index, number, Window(tile.window.row + row, tile.window.col + col, 1, 1))
            smaller += thin < whole
    assert smaller > len(index.tiles)


def _part_changed(stream: Codestream, change: Callable[[Part], Part]) -> Codestream:
    return replace(stream, parts=tuple(map(change, stream.parts)))


def _tile_cod(stream: Codestream) -> Codestream:
    body = stream.segment(COD)
    segment = COD + struct.pack(">H", len(body) + 2) + body
    return _part_changed(stream, lambda part: replace(part, segments=segment + part.segments))


def _coc(stream: Codestream) -> Codestream:
    body = stream.segment(COD)
    return stream.with_segment(COC, bytes([0, body[0] & 1]) + body[5:])


def _shifted(part: Part, by: int) -> Part:
    """Let the last packet of PLT be longer than it is."""
    at = len(part.segments) - 1
    return replace(part, segments=part.segments[:at] + bytes([part.segments[at] + by & 0x7F]))


UNTOLD: dict[str, Callable[[Codestream, Codestream], Codestream]] = {
    "no PLT": lambda marked, _: marked,
    "PPT": lambda marked, _: with_ppt(marked),
    "PPT and PLT": lambda marked, _: with_ppt(with_plt(marked)),
    "coding parameters of a tile": lambda _, plain: _tile_cod(plain),
    "coding parameters of the component": lambda _, plain: _coc(plain),
    "lengths that are not those of the packets": lambda _, plain: _part_changed(plain, lambda p: _shifted(p, 1)),
    "lengths that end within one": lambda _, plain: _part_changed(
        plain, lambda p: replace(p, segments=p.segments[:-1] + bytes([p.segments[-1] | 0x80]))
    ),
    "a packet too few": lambda marked, _: _part_changed(
        with_plt(marked), lambda p: replace(p, data=p.data[: p.data.rindex(SOP)])
    ),
    "PLT twice": lambda _, plain: _part_changed(plain, lambda p: replace(p, segments=p.segments * 2)),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_tile_whose_packets_cannot_be_told_apart_stays_whole(tmp_path: Path, marked: Codestream, case: str) -> None:
    plain = Codestream.of(write_jp2(tmp_path / "a.jp2", scene(100, 90), PLT="YES", **SMALLEST).read_bytes())
    data = UNTOLD[case](marked, plain).encode()
    index = index_bytes(data)
    parts = parts_of(data, index, 0)
    whole = standalone_codestream(index, index.tiles[0], parts)
    assert standalone_codestream(index, index.tiles[0], parts, Window(5, 6, 1, 1)) == whole


@pytest.mark.parametrize("progression", ["PCRL", "CPRL"])
def test_progression_by_position_stays_whole(tmp_path: Path, progression: str) -> None:
    path = write_jp2(tmp_path / "a.jp2", scene(100, 90), PLT="YES", PROGRESSION=progression, **SMALLEST)
    data = path.read_bytes()
    index = index_bytes(data)
    parts = parts_of(data, index, 0)
    whole = standalone_codestream(index, index.tiles[0], parts)
    assert standalone_codestream(index, index.tiles[0], parts, Window(5, 6, 1, 1)) == whole


@pytest.mark.parametrize("cut", range(12, 60, 3))
def test_truncated_header_is_refused_or_left_alone(marked: Codestream, cut: int) -> None:
    """Whatever stands in a tile-part's header, `thinned` does not raise."""
    part = with_plt(marked).parts[0].encode()
    coding = parse_coding("a.jp2", Marker.COD, marked.segment(COD))
    assert thinned(coding, Window(0, 0, 64, 64), Window(1, 1, 1, 1), [part[:cut]]) is None


def test_other_decoders_read_thinned_tiles_alike(written: Callable[[str], bytes]) -> None:
    data = written("ESA 60 m")
    index = index_bytes(data)
    for number, tile in enumerate(index.tiles):
        needed = Window(tile.window.row + 40, tile.window.col + 3, 2, 2)
        thin = standalone_codestream(index, tile, parts_of(data, index, number), needed)
        pixels = decoded(index, number, thin)
        by_gdal = RasterioDecoder().decode(thin, height=tile.window.height, width=tile.window.width, name="tile")
        np.testing.assert_array_equal(by_gdal, pixels)
        frame, (top, left, bottom, right) = framed(thin)
        np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(frame)[top:bottom, left:right], pixels)


def reached(extent: range, needed: set[int], wavelet: str) -> set[int]:
    """Return the interleaved samples that samples of the finer signal are made of, by the lifting steps (T.800 F.3.8)."""
    inside = set(needed)
    for step in range({"5/3": 2, "9/7": 4}[wavelet]):
        # Steps backwards: the last one changes the odd samples, the one before it the even ones, and so on.
        odd = step % 2 == 0
        inside |= {mirrored(i + side, extent) for i in inside if i % 2 == odd for side in (-1, 1)}
    return inside


def mirrored(at: int, extent: range) -> int:
    if len(extent) == 1:
        return extent.start
    period = 2 * (len(extent) - 1)
    at = (at - extent.start) % period
    return extent.start + min(at, period - at)


@given(
    start=st.integers(0, 70),
    length=st.integers(1, 70),
    levels=st.integers(0, 5),
    exponents=st.lists(st.integers(1, 5), min_size=6, max_size=6),
    wavelet=st.sampled_from(["5/3", "9/7"]),
    drawn=st.data(),
)
def test_exactly_the_precincts_that_the_wavelet_reaches(
    start: int, length: int, levels: int, exponents: list[int], wavelet: str, drawn: st.DataObject
) -> None:
    """Along one axis, against sets of samples followed through every lifting step."""
    first = drawn.draw(st.integers(start, start + length - 1))
    last = drawn.draw(st.integers(first + 1, start + length))
    coding = Coding(
        progression=0, layers=1, levels=levels, block_w=2, block_h=2, reversible=wavelet == "5/3",
        precincts=tuple((e, 15) for e in exponents[: levels + 1]), has_sop=False, has_eph=False,
    )  # fmt: skip
    spans = _spans(coding, 0, (start, start + length), (first, last))
    extent, needed = range(start, start + length), set(range(first, last))
    for level in range(levels, -1, -1):
        if level:
            needed = reached(extent, needed, wavelet) if len(extent) > 0 else needed
        exponent = exponents[level]
        there = sorted({at >> exponent for at in extent})
        assert spans[level].count == len(there)
        assert list(spans[level].needed) == [there.index(p) for p in sorted({at >> exponent for at in needed})]
        extent = range((extent.start + 1) // 2, (extent.stop + 1) // 2)
        needed = {at // 2 for at in needed if at % 2 == 0}
