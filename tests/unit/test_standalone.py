"""A codestream tile that stands alone decodes to the pixels that a plain read of the whole file gives."""

import struct
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2 import CodestreamIndex, CodestreamTile, ImagecodecsDecoder, RasterioDecoder, TileDecoder
from kappamask_stream.jp2.standalone import standalone_codestream, tile_identity
from tests.unit.jp2_files import (
    POC,
    TLM,
    Codestream,
    boxed,
    cropped_image,
    cut_into_parts,
    decode_by_tiles,
    esa_options,
    index_bytes,
    interleaved,
    moved_image,
    plain_read,
    poc_body,
    scene,
    with_ppm,
    with_ppt,
    write_jp2,
)

DECODERS = [ImagecodecsDecoder(), RasterioDecoder()]
WHOLE = {"PRECINCTS": ""}  # one precinct a resolution: all that GDAL can write in several tile-parts

#: What GDAL writes: options, and height, width and dtype of the image.
WRITTEN: dict[str, tuple[dict[str, str], tuple[int, int], str]] = {
    "several tiles": ({}, (150, 170), "uint16"),
    "one tile": ({"BLOCKXSIZE": "512", "BLOCKYSIZE": "512"}, (150, 170), "uint16"),
    "one pixel": ({}, (1, 1), "uint16"),
    "one column": ({}, (131, 1), "uint16"),
    "one row over": ({}, (65, 129), "uint16"),
    "tiles of odd sizes": ({"BLOCKXSIZE": "51", "BLOCKYSIZE": "37"}, (149, 167), "uint16"),
    "8 bit": ({}, (150, 170), "uint8"),
    "16 bit": ({"NBITS": "16"}, (150, 170), "uint16"),
    "12 bit, clipped": ({"NBITS": "12"}, (90, 70), "uint16"),
    "tile-parts": (WHOLE | {"TILEPARTS": "RESOLUTIONS"}, (150, 170), "uint16"),
    "tile-parts and TLM": (WHOLE | {"TILEPARTS": "RESOLUTIONS", "TLM": "YES"}, (150, 170), "uint16"),
    "TLM": ({"TLM": "YES"}, (150, 170), "uint16"),
    "PLT": ({"PLT": "YES"}, (150, 170), "uint16"),
    "SOP and EPH": ({"SOP": "YES", "EPH": "YES"}, (150, 170), "uint16"),
    "9/7": ({"REVERSIBLE": "NO", "QUALITY": "60"}, (150, 170), "uint16"),
    "9/7 of one resolution": (WHOLE | {"REVERSIBLE": "NO", "QUALITY": "20", "RESOLUTIONS": "1"}, (150, 170), "uint16"),
    "9/7 in odd tiles": ({"REVERSIBLE": "NO", "BLOCKXSIZE": "51", "BLOCKYSIZE": "37"}, (149, 167), "uint16"),
    "layers": ({"QUALITY": "5,20,100"}, (150, 170), "uint16"),
    "layers as tile-parts": (WHOLE | {"QUALITY": "5,20,100", "TILEPARTS": "LAYERS"}, (150, 170), "uint16"),
    "RLCP": ({"PROGRESSION": "RLCP"}, (150, 170), "uint16"),
    "RPCL": ({"PROGRESSION": "RPCL"}, (150, 170), "uint16"),
    "PCRL": ({"PROGRESSION": "PCRL"}, (150, 170), "uint16"),
    "CPRL": ({"PROGRESSION": "CPRL"}, (150, 170), "uint16"),
    "raw": ({"CODEC": "J2K"}, (150, 170), "uint16"),
    "ESA 10 m": (esa_options(10), (1100, 1290), "uint16"),
    "ESA 20 m": (esa_options(20), (790, 1300), "uint16"),
    "ESA 20 m, 8 bit": (esa_options(20), (790, 650), "uint8"),
    "ESA 60 m": (esa_options(60), (305, 390), "uint16"),
    "ESA 60 m since 2026": (esa_options(60) | {"TLM": "YES"}, (305, 390), "uint16"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("standalone")


@pytest.fixture(scope="module")
def stream(folder: Path) -> Codestream:
    return Codestream.of(write_jp2(folder / "plain.jp2", scene(150, 170)).read_bytes())


@pytest.fixture(scope="module")
def marked(folder: Path) -> Codestream:
    path = write_jp2(folder / "marked.jp2", scene(150, 170), SOP="YES", EPH="YES")
    return Codestream.of(path.read_bytes())


def parts_of(data: bytes, tile: CodestreamTile) -> list[bytes]:
    return [data[offset : offset + length] for offset, length in tile.parts]


@pytest.mark.parametrize("written", WRITTEN)
def test_tiles_of_a_written_file_decode_to_the_plain_read(tmp_path: Path, written: str) -> None:
    options, (height, width), dtype = WRITTEN[written]
    original = scene(height, width, dtype=dtype)
    path = write_jp2(tmp_path / ("a.j2k" if "CODEC" in options else "a.jp2"), original, **options)
    data, plain = path.read_bytes(), plain_read(path)
    index = index_bytes(data)
    assert index.plain_reason is None
    assert (len(index.tiles) == 1) == (written in {"one tile", "one pixel"})
    assert ("TLM" in written or "2026" in written) == (", TLM" in index.layout)
    assert ("9/7" in written) == ("9/7" in index.layout)
    for decoder in DECODERS:
        assert np.array_equal(decode_by_tiles(data, index, decoder), plain)
    if "9/7" not in written and "clipped" not in written:
        assert np.array_equal(plain, original)


def variants(stream: Codestream, marked: Codestream) -> dict[str, bytes]:
    """Put files together that GDAL cannot write; all hold the same image."""
    parts = cut_into_parts(marked, 2)
    return {
        "box without length": boxed(stream.encode(), length="0"),
        "box of 64 bits": boxed(stream.encode(), length="64"),
        "raw": stream.encode(),
        "tile-parts within a resolution": parts.encode(),
        "tile-parts not counted": cut_into_parts(marked, 2, count_them=False).encode(),
        "tile-parts of one packet each": cut_into_parts(marked, 1).encode(),
        "tile-parts interleaved": interleaved(parts).encode(),
        "tile-parts interleaved, TLM": interleaved(parts).with_tlm(per_segment=9).encode(),
        "tiles in reverse order": replace(stream, parts=stream.parts[::-1]).encode(),
        "TLM without tile numbers": stream.with_tlm(tile_bytes=0, long=False).encode(),
        "TLM that ends early": stream.with_segment(
            TLM, replace(stream, parts=stream.parts[:5]).with_tlm().segment(TLM)
        ).encode(),
        "PPT": with_ppt(marked).encode(),
        "PPM": with_ppm(marked).encode(),
        "POC": stream.with_segment(POC, poc_body(2, 4)).encode(),
        "POC in a tile": replace(
            stream,
            parts=tuple(
                replace(p, segments=p.segments + POC + struct.pack(">H", 2 + len(poc_body(1, 4))) + poc_body(1, 4))
                for p in stream.parts
            ),
        ).encode(),
        "open end": stream.encode(open_end=True),
        "unknown segment": stream.with_segment(b"\xff\x70", b"\0\0").encode(),
    }


VARIANTS = (
    "box without length", "box of 64 bits", "raw", "tile-parts within a resolution", "tile-parts not counted",
    "tile-parts of one packet each", "tile-parts interleaved", "tile-parts interleaved, TLM", "tiles in reverse order",
    "TLM without tile numbers", "TLM that ends early", "PPT", "PPM", "POC", "POC in a tile", "open end",
    "unknown segment",
)  # fmt: skip
WHOLE_ONLY = {"PPM", "POC", "open end", "unknown segment"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiles_of_an_odd_file_decode_to_its_image(stream: Codestream, marked: Codestream, variant: str) -> None:
    files = variants(stream, marked)
    assert set(files) == set(VARIANTS)
    data = files[variant]
    index = index_bytes(data)
    assert (index.plain_reason is not None) == (variant in WHOLE_ONLY)
    assert len(index.tiles) == (1 if variant in WHOLE_ONLY else 9)
    # GDAL reads tile after tile, and a PPM wrongly then; the image that was written is the judge.
    for decoder in DECODERS[:1] if variant == "PPM" else DECODERS:
        assert np.array_equal(decode_by_tiles(data, index, decoder), scene(150, 170))


def test_an_image_that_begins_within_its_first_tiles_decodes_to_its_pixels(tmp_path: Path) -> None:
    pixels = scene(330, 290)
    data = moved_image(tmp_path, pixels).encode()
    index = index_bytes(data)
    assert (index.tile_height, index.tile_width) == (128, 128)
    assert [tile.window.width for tile in index.tiles[:3]] == [64, 128, 34]
    assert np.array_equal(decode_by_tiles(data, index), pixels[64:, 64:])
    assert np.array_equal(imagecodecs.jpeg2k_decode(data), pixels[64:, 64:])


def test_an_image_whose_tiles_begin_off_the_origin_decodes_to_its_pixels(stream: Codestream) -> None:
    data = cropped_image(stream, across=3, size=64).encode()
    index = index_bytes(data)
    assert [tile.index for tile in index.tiles] == [0, 1, 2, 3]
    for decoder in DECODERS:
        assert np.array_equal(decode_by_tiles(data, index, decoder), scene(150, 170)[64:, 64:])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, int], dict[str, str]]:
    resolutions = draw(st.integers(1, 6))
    block = st.sampled_from([4, 8, 16, 32])
    sizes = [2 ** draw(st.integers(4, 7)) for _ in range(resolutions)]
    return (draw(st.integers(1, 190)), draw(st.integers(1, 190))), {
        "BLOCKXSIZE": str(draw(st.integers(32, 130))), "BLOCKYSIZE": str(draw(st.integers(32, 130))),
        "CODEBLOCK_WIDTH": str(draw(block)), "CODEBLOCK_HEIGHT": str(draw(block)), "RESOLUTIONS": str(resolutions),
        "PRECINCTS": ",".join(f"{{{size},{size}}}" for size in sizes) if draw(st.booleans()) else "",
        "REVERSIBLE": draw(st.sampled_from(["YES", "NO"])), "PLT": draw(st.sampled_from(["YES", "NO"])),
        "PROGRESSION": draw(st.sampled_from(["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"])),
        "TLM": draw(st.sampled_from(["YES", "NO"])), "QUALITY": draw(st.sampled_from(["100", "10,100"])),
    }  # fmt: skip


@settings(max_examples=40)
@given(layout=layouts())
def test_any_layout_that_gdal_writes_decodes_to_the_plain_read(
    folder: Path, layout: tuple[tuple[int, int], dict[str, str]]
) -> None:
    (height, width), options = layout
    path = write_jp2(folder / "any.jp2", scene(height, width), **options)
    data = path.read_bytes()
    assert np.array_equal(decode_by_tiles(data, index_bytes(data)), plain_read(path))


def test_a_tile_keeps_its_coordinates_and_becomes_number_0(marked: Codestream) -> None:
    data = cut_into_parts(marked, 2).encode()
    index = index_bytes(data)
    tile = index.tiles[5]  # second row, third column
    alone = Codestream.of(standalone_codestream(index, tile, parts_of(data, tile)))
    siz = struct.unpack_from(">8I", alone.segment(b"\xff\x51"), 2)
    assert siz == (170, 128, 128, 64, 64, 64, 128, 64)
    assert {part.tile for part in alone.parts} == {0}
    assert len(alone.parts) == len(tile.parts) > 1
    assert [marker.hex() for marker, _ in alone.segments] == ["ff51", "ff52", "ff5c"]


def test_the_first_tile_part_alone_decodes_to_wrong_pixels_without_an_error(tmp_path: Path) -> None:
    """Why tile-parts are counted: the decoder does not."""
    path = write_jp2(tmp_path / "a.jp2", scene(64, 64), **WHOLE, TILEPARTS="RESOLUTIONS")
    whole = Codestream.of(path.read_bytes())
    uncounted = replace(whole, parts=tuple(replace(part, total=0) for part in whole.parts))
    first = replace(uncounted, parts=uncounted.parts[:1])
    assert not np.array_equal(imagecodecs.jpeg2k_decode(first.encode()), scene(64, 64))
    with pytest.raises(CodestreamError, match="codestream tile 0 has 1 of 4 tile-parts"):
        index_bytes(replace(whole, parts=whole.parts[:1]).encode())


def two_entries(stream: Codestream, change: Callable[[list[list[int]]], None]) -> tuple[bytes, CodestreamIndex]:
    """Return a file with a TLM that is wrong in its middle, where the index does not look, and its index."""
    entries = [[part.tile, len(part.encode())] for part in stream.parts]
    change(entries)
    body = b"\0\x50" + b"".join(struct.pack(">BI", *entry) for entry in entries)
    data = stream.with_segment(TLM, body).encode()
    index = index_bytes(data)
    assert {offset + length for tile in index.tiles for offset, length in tile.parts} == set(
        np.cumsum([length for _, length in entries]) + len(stream.with_segment(TLM, body).header())
    )
    return data, index


def test_a_tlm_that_shifts_a_boundary_is_noticed_at_both_tiles(stream: Codestream) -> None:
    def shift(entries: list[list[int]]) -> None:
        entries[3][1] += 5
        entries[4][1] -= 5

    data, index = two_entries(stream, shift)
    for number in (3, 4):
        tile = index.tiles[number]
        with pytest.raises(CodestreamError, match=r"odd\.jp2: at byte \d+ .* fetch it again"):
            standalone_codestream(index, tile, parts_of(data, tile))
    good = index.tiles[5]
    assert standalone_codestream(index, good, parts_of(data, good))


def test_a_tlm_that_swaps_tiles_is_noticed_at_both_tiles(stream: Codestream) -> None:
    def swap(entries: list[list[int]]) -> None:
        entries[3][0], entries[4][0] = 4, 3

    data, index = two_entries(stream, swap)
    for number, other in ((3, 4), (4, 3)):
        tile = index.tiles[number]
        with pytest.raises(CodestreamError, match=rf"is a tile-part of tile {other} of .* should be of tile {number}"):
            standalone_codestream(index, tile, parts_of(data, tile))


def test_a_tlm_that_gives_a_tile_part_to_another_tile_is_noticed_at_both(marked: Codestream) -> None:
    parts = cut_into_parts(marked, 2)
    last = max(i for i, part in enumerate(parts.parts) if part.tile == 0)

    def give(entries: list[list[int]]) -> None:
        entries[last][0] = 1

    data, index = two_entries(parts, give)
    with pytest.raises(CodestreamError, match=rf"codestream tile 0 has {last} of {last + 1} tile-parts"):
        standalone_codestream(index, index.tiles[0], parts_of(data, index.tiles[0]))
    with pytest.raises(CodestreamError, match="is a tile-part of tile 0 of"):
        standalone_codestream(index, index.tiles[1], parts_of(data, index.tiles[1]))


def test_a_file_that_changes_while_it_is_read_is_noticed(stream: Codestream) -> None:
    data = stream.encode()
    index = index_bytes(data)
    tile = index.tiles[4]
    (part,) = parts_of(data, tile)
    for changed in (part[:-1], part + b"\0", bytes(len(part)), b"", part[:4] + b"\0\5" + part[6:]):
        with pytest.raises(CodestreamError, match=r"odd\.jp2: .*fetch it again"):
            standalone_codestream(index, tile, [changed])


def test_a_tile_may_bring_its_own_coding_parameters_if_they_are_reasonable(stream: Codestream) -> None:
    own = b"\xff\x52" + struct.pack(">H", 2 + len(stream.segment(b"\xff\x52"))) + stream.segment(b"\xff\x52")
    good = replace(stream, parts=tuple(replace(part, segments=own) for part in stream.parts))
    data = good.encode()
    assert np.array_equal(decode_by_tiles(data, index_bytes(data)), scene(150, 170))
    greedy = b"\xff\x52\x00\x0d" + b"\1\0\xff\xff\0" + b"\0\4\4\0\1" + b"\0"
    bad = replace(stream, parts=(replace(stream.parts[0], segments=greedy), *stream.parts[1:])).encode()
    index = index_bytes(bad)
    with pytest.raises(CodestreamError, match="packets in one codestream tile, at most"):
        standalone_codestream(index, index.tiles[0], parts_of(bad, index.tiles[0]))


@pytest.mark.parametrize("segments", [b"\0\0\0\4\0\0", b"\xff\x58\0\1", b"\xff\x58\xff\xff", b"\xff"])
def test_a_tile_header_that_does_not_lead_to_the_data_is_refused(stream: Codestream, segments: bytes) -> None:
    data = replace(stream, parts=(replace(stream.parts[0], segments=segments), *stream.parts[1:])).encode()
    index = index_bytes(data)
    with pytest.raises(CodestreamError, match=r"tile 0 has no marker segment at byte \d+ but"):
        standalone_codestream(index, index.tiles[0], parts_of(data, index.tiles[0]))


def test_the_identity_of_a_tile_is_its_size_and_its_bytes_but_not_its_number(stream: Codestream) -> None:
    data = replace(stream, parts=tuple(replace(stream.parts[0], tile=part.tile) for part in stream.parts)).encode()
    index = index_bytes(data)
    first, same, narrow = index.tiles[0], index.tiles[1], index.tiles[2]
    identity = tile_identity(first, parts_of(data, first))
    assert identity == tile_identity(same, parts_of(data, same))
    assert identity != tile_identity(narrow, parts_of(data, narrow))
    changed = bytearray(parts_of(data, first)[0])
    changed[-1] ^= 1
    assert identity != tile_identity(first, [bytes(changed)])
    turned = replace(first, window=replace(first.window, height=32, width=128))
    assert identity != tile_identity(turned, parts_of(data, first))


@pytest.mark.parametrize("decoder", DECODERS, ids=["imagecodecs", "rasterio"])
def test_a_decoder_names_what_it_cannot_decode(stream: Codestream, decoder: TileDecoder) -> None:
    data = stream.encode()
    index = index_bytes(data)
    whole = standalone_codestream(index, index.tiles[0], parts_of(data, index.tiles[0]))
    damaged = (whole[: len(whole) // 2], whole[:100], whole[:90], b"\xff\x4f", b"", bytes(200))
    for broken in damaged:
        with pytest.raises(
            CodestreamError, match=r"^codestream tile 0 of B02\.jp2 cannot be decoded \(.*fetch it again"
        ):
            decoder.decode(broken, height=64, width=64, name="codestream tile 0 of B02.jp2")
    with pytest.raises(CodestreamError, match=r"decodes to uint16 \[64, 64\], its header says unsigned \[64, 65\]"):
        decoder.decode(whole, height=64, width=65, name="codestream tile 0 of B02.jp2")


def test_a_decoder_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", fails)
    with pytest.raises(CodestreamError, match="no memory for 5 x 6 pixels; use fewer decode threads"):
        ImagecodecsDecoder().decode(b"", height=5, width=6, name="a.jp2")


def test_threads_put_the_warnings_of_the_process_aside_one_after_the_other(
    stream: Codestream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that did so at once would put them back wrongly, for everyone and for good."""
    data = stream.encode()
    index = index_bytes(data)
    before, meeting, met = list(warnings.filters), threading.Barrier(2), []
    opens = MemoryFile.open

    def opens_slowly(self: MemoryFile, *args: object, **kwargs: object) -> object:
        try:
            met.append(meeting.wait(0.2))
        except threading.BrokenBarrierError:
            meeting.reset()
        return opens(self, *args, **kwargs)

    def decode(tile: CodestreamTile) -> NDArray[Any]:
        alone = standalone_codestream(index, tile, parts_of(data, tile))
        return RasterioDecoder().decode(alone, height=tile.window.height, width=tile.window.width, name="x")

    monkeypatch.setattr(MemoryFile, "open", opens_slowly)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(decode, index.tiles[:2]))
    assert np.array_equal(np.hstack(results), scene(150, 170)[:64, :128])
    assert met == []
    assert warnings.filters == before


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_flipped_bytes_end_in_pixels_or_in_words(stream: Codestream, marked: Codestream, data: st.DataObject) -> None:
    flipped = bytearray(variants(stream, marked)[data.draw(st.sampled_from(VARIANTS))])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(flipped) - 1)))
        flipped[place] = data.draw(st.integers(0, 255))
    try:
        index = index_bytes(bytes(flipped))
        if index.height * index.width > 2**22:
            return  # the product's metadata tells its size
        pixels = decode_by_tiles(bytes(flipped), index)
    except CodestreamError as error:
        assert str(error).startswith("odd.jp2")  # noqa: PT017
        return
    assert pixels.shape == (index.height, index.width)
