"""The index of JPEG 2000 files: what it finds, what it refuses, and that no damage gets past it unnoticed."""

import struct
import tracemalloc
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import CodestreamError
from kappamask_stream.grid import Window
from kappamask_stream.jp2 import CodestreamIndex, TileGeometry, index_steps
from tests.unit.jp2_files import (
    COD,
    EOC,
    POC,
    SIGNATURE,
    SIZ,
    SOC,
    TLM,
    Codestream,
    Part,
    box,
    boxed,
    cut_into_parts,
    decode_by_tiles,
    index_bytes,
    interleaved,
    poc_body,
    scene,
    with_ppm,
    write_jp2,
)

HEIGHT, WIDTH = 150, 170
REMEDY = "the file is truncated or corrupt, fetch it again"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codestreams")


@pytest.fixture(scope="module")
def stream(folder: Path) -> Codestream:
    """Nine tiles of one tile-part."""
    return Codestream.of(write_jp2(folder / "plain.jp2", scene(HEIGHT, WIDTH)).read_bytes())


@pytest.fixture(scope="module")
def marked(folder: Path) -> Codestream:
    """The same with packet markers, so that it can be cut into tile-parts and its packet headers be moved."""
    path = write_jp2(folder / "marked.jp2", scene(HEIGHT, WIDTH), SOP="YES", EPH="YES")
    return Codestream.of(path.read_bytes())


@pytest.fixture(scope="module")
def tiny(folder: Path) -> dict[str, bytes]:
    """Files of nine small tiles in every layout that the index tells apart."""
    options = {"BLOCKXSIZE": "32", "BLOCKYSIZE": "32", "SOP": "YES", "EPH": "YES"}
    marked = Codestream.of(write_jp2(folder / "tiny.jp2", scene(66, 70), **options).read_bytes())
    parts = interleaved(cut_into_parts(marked, 2))
    return {
        "boxed": boxed(marked.encode()),
        "boxed without length": boxed(marked.encode(), length="0"),
        "raw": marked.encode(),
        "tile-parts": parts.encode(),
        "uncounted tile-parts": interleaved(cut_into_parts(marked, 2, count_them=False)).encode(),
        "tlm": parts.with_tlm().encode(),
        "boxed tlm": boxed(marked.with_tlm().encode(), length="64"),
        "ppm": with_ppm(marked).encode(),
        "poc": marked.with_segment(POC, poc_body(4)).encode(),
        "open": marked.encode(open_end=True),
        "boxed open": boxed(marked.encode(open_end=True), length="0"),
    }


def reads_of(data: bytes) -> list[tuple[int, int]]:
    reads, steps = [], index_steps("odd.jp2", len(data))
    try:
        wanted = next(steps)
        while True:
            reads.append(wanted)
            wanted = steps.send(data[wanted[0] : sum(wanted)])
    except StopIteration:
        return reads


def test_an_index_tells_size_tiles_and_where_their_bytes_are(stream: Codestream) -> None:
    data = boxed(stream.encode())
    index = index_bytes(data, "T29UNU_B02.jp2")
    assert (index.name, index.height, index.width, index.bit_depth) == ("T29UNU_B02.jp2", HEIGHT, WIDTH, 15)
    assert (index.tile_height, index.tile_width, len(index.tiles), index.plain_reason) == (64, 64, 9, None)
    assert [tile.window.width for tile in index.tiles[:3]] == [64, 64, WIDTH - 128]
    assert index.main_header == stream.header()
    start, length = index.codestream
    assert data[start : start + length] == stream.encode()
    for tile, part in zip(index.tiles, stream.parts, strict=True):
        ((offset, size),) = tile.parts
        assert data[offset : offset + size] == part.encode()
    assert index.layout == (
        "tiles 64x64, 15 bit, code-blocks 16x16, LRCP, 4 resolutions, 5/3 reversible, precincts 32x32, no TLM"
    )


def test_the_walk_reads_heads_only_and_a_tlm_saves_the_walk(stream: Codestream) -> None:
    walked, listed = reads_of(stream.encode()), reads_of(stream.with_tlm().encode())
    assert len(walked) == 2 + 9 + 1  # signature, header, nine SOT, EOC
    assert sum(length for _, length in walked) < 12 + 4096 + 10 * 12
    assert len(listed) == 4  # signature, header, last SOT, EOC


def same_place(index: CodestreamIndex, other: CodestreamIndex, moved: int) -> bool:
    """True if the tile-parts are the same, `moved` bytes further."""
    return [[(o + moved, n) for o, n in t.parts] for t in index.tiles] == [list(t.parts) for t in other.tiles]


@pytest.mark.parametrize("tile_bytes", [0, 1, 2])
@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("per_segment", [10_000, 4])
def test_a_tlm_of_any_form_says_what_the_walk_finds(
    stream: Codestream, *, tile_bytes: int, long: bool, per_segment: int
) -> None:
    listed = stream.with_tlm(tile_bytes=tile_bytes, long=long, per_segment=per_segment)
    moved = len(listed.header()) - len(stream.header())
    assert same_place(index_bytes(stream.encode()), index_bytes(listed.encode()), moved)
    assert len(reads_of(listed.encode())) == 4


def test_tlm_segments_count_in_the_order_of_their_numbers(marked: Codestream) -> None:
    parts = interleaved(cut_into_parts(marked, 3))
    listed = parts.with_tlm(per_segment=7, start=100)
    shuffled = replace(listed, segments=tuple(sorted(listed.segments, key=lambda s: (s[0] == TLM, -s[1][0]))))
    moved = len(shuffled.header()) - len(parts.header())
    assert same_place(index_bytes(parts.encode()), index_bytes(shuffled.encode()), moved)
    assert len(reads_of(shuffled.encode())) == 4


def wrong_tlms(stream: Codestream) -> dict[str, list[bytes]]:
    """Bodies of TLM segments that are not those of the codestream."""
    entries = [(part.tile, len(part.encode())) for part in stream.parts]

    def body(entries: list[tuple[int, int]], *, number: int = 0, style: int = 0x50) -> bytes:
        return bytes([number, style]) + b"".join(struct.pack(">BI", *entry) for entry in entries)

    return {
        "last entry missing": [body(entries[:-1])],
        "first entry missing": [body(entries[1:])],
        "an entry of a tile that is not there": [body([*entries[:-1], (9, entries[-1][1])])],
        "an entry twice": [body([*entries, entries[-1]])],
        "last length too small": [body([*entries[:-1], (8, entries[-1][1] - 3)])],
        "last length too large": [body([*entries[:-1], (8, entries[-1][1] + 7)])],
        "beyond the file": [body([*entries[:-1], (8, 2**32 - 1)])],
        "a length of nothing": [body([(0, 0), *entries])],
        "a segment number twice": [body(entries[:4]), body(entries[4:])],
        "an unknown entry size": [body(entries, style=0x70)],
        "half an entry": [body(entries)[:-2]],
        "no style": [b"\0"],
        "no entries": [b"\0\x50"],
        "tiles out of order, the last wrong": [body([*entries[:7], (8, entries[7][1]), (7, entries[8][1])])],
    }


WRONG_TLMS = (
    "last entry missing", "first entry missing", "an entry of a tile that is not there", "an entry twice",
    "last length too small", "last length too large", "beyond the file", "a length of nothing",
    "a segment number twice", "an unknown entry size", "half an entry", "no style", "no entries",
    "tiles out of order, the last wrong",
)  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_TLMS)
def test_a_wrong_tlm_is_passed_over_for_the_walk(stream: Codestream, wrong: str) -> None:
    listed, bodies = stream, wrong_tlms(stream)
    assert set(bodies) == set(WRONG_TLMS)
    for body in bodies[wrong]:
        listed = listed.with_segment(TLM, body)
    moved = len(listed.header()) - len(stream.header())
    assert same_place(index_bytes(stream.encode()), index_bytes(listed.encode()), moved)
    assert len(reads_of(listed.encode())) >= 2 + 9 + 1


def test_a_tlm_is_not_trusted_where_tile_parts_are_not_counted(marked: Codestream) -> None:
    counted = cut_into_parts(marked, 3).with_tlm()
    uncounted = cut_into_parts(marked, 3, count_them=False).with_tlm()
    assert len(reads_of(counted.encode())) == 4
    assert len(reads_of(uncounted.encode())) > len(uncounted.parts)


def cut_index(data: bytes, *wanted: int) -> tuple[CodestreamIndex, int]:
    """Index some tiles of a file; returns also how many reads that took."""
    steps, reads = index_steps("odd.jp2", len(data), lambda _: wanted), 1
    try:
        asked = next(steps)
        while True:
            asked = steps.send(data[asked[0] : sum(asked)])
            reads += 1
    except StopIteration as finished:
        return finished.value, reads


def found_in(index: CodestreamIndex) -> list[int]:
    return [tile.index for tile in index.tiles if tile.parts]


@pytest.mark.parametrize("wanted", [(), (0,), (4, 2), (8,), (3, 3, 99)])
def test_a_walk_ends_with_the_last_tile_that_is_wanted(stream: Codestream, wanted: tuple[int, ...]) -> None:
    data = stream.encode()
    whole, (index, reads) = index_bytes(data), cut_index(data, *wanted)
    last = 8 if 99 in wanted else max(wanted, default=-1)
    assert reads == 2 + last + 1 + (99 in wanted)
    assert found_in(index) == list(range(last + 1))
    assert index.tiles[: last + 1] == whole.tiles[: last + 1]
    assert [tile.window for tile in index.tiles] == [tile.window for tile in whole.tiles]
    assert index.plain_reason is None


def test_tiles_are_wanted_by_the_geometry_of_the_image(stream: Codestream) -> None:
    given: list[TileGeometry] = []
    steps = index_steps("odd.jp2", len(stream.encode()), lambda geometry: given.append(geometry) or ())  # type: ignore[func-returns-value]
    with pytest.raises(StopIteration):
        feed(steps, stream.encode())
    (geometry,) = given
    assert (geometry.height, geometry.width, geometry.tile_height, geometry.tile_width) == (HEIGHT, WIDTH, 64, 64)
    assert geometry.covering(Window(60, 64, 10, 64)) == [1, 4]
    assert geometry.covering(Window(0, 0, 10**6, 10**6)) == list(range(9))


def feed(steps: Generator[tuple[int, int], bytes, CodestreamIndex], data: bytes) -> None:
    asked = next(steps)
    while True:
        asked = steps.send(data[asked[0] : sum(asked)])


def test_a_tile_is_complete_when_all_its_parts_are_found(marked: Codestream) -> None:
    parts = interleaved(cut_into_parts(marked, 3))
    last = max(i for i, part in enumerate(parts.parts) if part.tile == 4)
    index, reads = cut_index(parts.encode(), 4)
    whole = index_bytes(parts.encode())
    assert index.tiles[4] == whole.tiles[4]
    assert reads == 2 + last + 1
    for tile, same in zip(index.tiles, whole.tiles, strict=True):
        assert tile.parts in ((), same.parts), "parts of a tile that is not complete"
    assert found_in(index) != list(range(9))


def test_tiles_that_do_not_count_their_parts_are_looked_for_up_to_the_end(marked: Codestream) -> None:
    uncounted = interleaved(cut_into_parts(marked, 3, count_them=False)).encode()
    index, reads = cut_index(uncounted, 0)
    assert index == index_bytes(uncounted)
    assert reads == len(reads_of(uncounted))
    with pytest.raises(CodestreamError, match="no end marker"):
        cut_index(uncounted[:-2], 0)


def test_a_tlm_serves_whatever_is_wanted(stream: Codestream) -> None:
    data = stream.with_tlm().encode()
    index, reads = cut_index(data, 3)
    assert (index, reads) == (index_bytes(data), 4)


@pytest.mark.parametrize("variant", ["ppm", "poc", "open", "boxed open"])
def test_what_is_decoded_whole_is_checked_whole(tiny: dict[str, bytes], variant: str) -> None:
    assert cut_index(tiny[variant], 0)[0] == index_bytes(tiny[variant]) or variant.endswith("open")
    if variant in {"ppm", "poc"}:
        with pytest.raises(CodestreamError, match=REMEDY):
            cut_index(tiny[variant][:-5], 0)
    else:
        assert cut_index(tiny[variant], 8)[0] == index_bytes(tiny[variant])


def test_damage_before_the_last_wanted_tile_is_found_and_behind_it_left_alone(stream: Codestream) -> None:
    twice = replace(stream, parts=(*stream.parts[:3], stream.parts[2], *stream.parts[3:]))
    assert found_in(cut_index(twice.encode(), 2)[0]) == [0, 1, 2]
    with pytest.raises(CodestreamError, match="tile-part 1 of codestream tile 2 calls itself 0"):
        cut_index(twice.encode(), 99)
    missing = replace(stream, parts=stream.parts[:4] + stream.parts[5:])
    with pytest.raises(CodestreamError, match="codestream tile 4 is missing"):
        cut_index(missing.encode(), 4)


@given(data=st.data())
def test_flipped_bytes_in_a_cut_index_end_in_an_index_or_in_words(tiny: dict[str, bytes], data: st.DataObject) -> None:
    flipped = bytearray(tiny[data.draw(st.sampled_from(VARIANTS))])
    for _ in range(data.draw(st.integers(0, 3))):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] = data.draw(st.integers(0, 255))
    wanted = data.draw(st.sets(st.integers(0, 10)))
    try:
        index, _ = cut_index(bytes(flipped), *wanted)
    except CodestreamError as error:
        assert str(error).startswith("odd.jp2: ")  # noqa: PT017
        return
    assert sum(tile.window.height * tile.window.width for tile in index.tiles) == index.height * index.width
    if index.plain_reason is None:
        assert {tile.index for tile in index.tiles if not tile.parts}.isdisjoint(wanted)


@pytest.mark.parametrize("length", ["32", "64", "0"])
def test_the_codestream_is_found_behind_any_boxes(stream: Codestream, length: str) -> None:
    raw = stream.encode()
    data = boxed(raw, length=length)
    more = data[:12] + box(b"xml ", b"<a/>") + struct.pack(">I4sQ", 1, b"uuid", 40) + bytes(24) + data[12:]
    for file in (data, more):
        start, size = index_bytes(file).codestream
        assert file[start : start + size] == raw


def test_what_follows_the_codestream_box_is_left_alone(stream: Codestream) -> None:
    data = boxed(stream.encode()) + box(b"xml ", b"<a/>")
    assert (decode_by_tiles(data, index_bytes(data)) == scene(HEIGHT, WIDTH)).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"odd\.jp2: 0 bytes are no JPEG 2000 file"),
        (b"\xff\x4f\xff\x51", "4 bytes are no JPEG 2000 file"),
        (b"II*\0" + bytes(40), "it starts with 49492a00"),
        (SIGNATURE, "no codestream .* up to byte 12 of 12"),
        (SIGNATURE + b"\0\0\0\x08free" * 1500, r"no codestream .* up to byte 8012 of 12012"),
        (SIGNATURE + box(b"ftyp", b"jp2 "), "no codestream .* up to byte 24 of 24"),
        (SIGNATURE + struct.pack(">I4s", 5, b"jp2h") + bytes(30), "box b'jp2h' at byte 12 says 5 bytes, .* 38 left"),
        (SIGNATURE + struct.pack(">I4s", 900, b"jp2h"), "box b'jp2h' at byte 12 says 900 bytes, .* 8 left"),
        (SIGNATURE + struct.pack(">I4sQ", 1, b"jp2c", 2**63), "says 9223372036854775808 bytes, .* 16 left"),
        (SIGNATURE + struct.pack(">I4sQ", 1, b"jp2c", 15), "says 15 bytes"),
        (SIGNATURE + struct.pack(">I4s", 1, b"jp2c"), "says 0 bytes, .* 8 left"),
        (SIGNATURE + box(b"jp2c", b""), "codestream at byte 20 should start with ff4f, there is "),
        (SIGNATURE + box(b"jp2c", b"\xff\xd8\xff\xe0"), "should start with ff4f, there is ffd8"),
        (SOC + bytes(20), "at byte 2 is no marker segment but 0000 0000"),
        (SOC + SIZ + b"\0\1" + bytes(20), "at byte 2 is no marker segment but ff51 0001"),
        (SOC + b"\xff\xd9" + b"\0\4" + bytes(20), "at byte 2 is no marker segment but ffd9 0004"),
        (SOC + b"\xff\x64\x10\x00" + bytes(5000), "at byte 4100 is no marker segment but 0000 0000"),
        (SOC + b"\xff\x64\xff\xff" + bytes(65533) + b"\xff\x64", "the main header does not end within 65541 bytes"),
    ],
)
def test_what_is_no_codestream_is_said(data: bytes, message: str) -> None:
    with pytest.raises(CodestreamError, match=message) as caught:
        index_bytes(data)
    assert str(caught.value).startswith("odd.jp2: ")
    assert str(caught.value).endswith(REMEDY)


def test_a_main_header_without_end_is_given_up(stream: Codestream) -> None:
    endless = SOC + (b"\xff\x64\xff\xff" + bytes(65533)) * 100
    with pytest.raises(CodestreamError, match=r"the main header does not end within 41943\d\d bytes"):
        index_bytes(endless)


def test_the_reason_for_the_plain_decoder_is_told(stream: Codestream, marked: Codestream) -> None:
    reasons = {
        "(PPM)": with_ppm(marked).encode(),
        "(POC)": stream.with_segment(POC, poc_body(2, 4)).encode(),
        "(Psot = 0)": stream.encode(open_end=True),
        "marker segment ff77": stream.with_segment(b"\xff\x77", b"\0\1").encode(),
    }
    for reason, data in reasons.items():
        index = index_bytes(data)
        assert index.plain_reason is not None
        assert reason in index.plain_reason
        assert index.layout.endswith(f"decoded whole: {index.plain_reason}")
        (whole,) = index.tiles
        assert whole.parts == ((0, len(data)),) == (index.codestream,)
        assert (whole.window.height, whole.window.width) == (HEIGHT, WIDTH)


def test_idle_segments_are_no_reason_for_the_plain_decoder(stream: Codestream) -> None:
    idle = stream.with_segment(b"\xff\x64", b"\0\1made for a test").with_segment(b"\xff\x63", bytes(4))
    assert index_bytes(idle.encode()).plain_reason is None


VARIANTS = (
    "boxed", "boxed without length", "raw", "tile-parts", "uncounted tile-parts", "tlm", "boxed tlm", "ppm", "poc",
    "open", "boxed open",
)  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_cut_at_any_byte_is_refused_by_its_index(tiny: dict[str, bytes], variant: str) -> None:
    assert set(tiny) == set(VARIANTS)
    data = tiny[variant]
    assert (decode_by_tiles(data, index_bytes(data)) == scene(66, 70)).all()
    for end in range(len(data)):
        with pytest.raises(CodestreamError) as caught:
            index_bytes(data[:end])
        assert str(caught.value).startswith("odd.jp2: ")
        assert str(caught.value).endswith(REMEDY)


def test_a_missing_tile_is_named(stream: Codestream) -> None:
    less = replace(stream, parts=stream.parts[:4] + stream.parts[5:])
    for data in (less.encode(), less.with_tlm().encode(), boxed(less.encode(open_end=True))):
        with pytest.raises(CodestreamError, match="codestream tile 4 is missing, 8 of 9 tiles are there"):
            index_bytes(data)
    with pytest.raises(CodestreamError, match="codestream tile 4 is missing"):
        index_bytes(less.with_segment(POC, poc_body(4)).encode())


def test_a_missing_tile_part_is_named(marked: Codestream) -> None:
    parts = cut_into_parts(marked, 3)
    last = max(i for i, part in enumerate(parts.parts) if part.tile == 0)
    less = replace(parts, parts=parts.parts[:last] + parts.parts[last + 1 :])
    for data in (less.encode(), less.with_tlm().encode()):
        with pytest.raises(CodestreamError, match=rf"codestream tile 0 has {last} of {last + 1} tile-parts"):
            index_bytes(data) if data == less.encode() else decode_by_tiles(data, index_bytes(data))
    middle = replace(parts, parts=parts.parts[:1] + parts.parts[2:])
    with pytest.raises(CodestreamError, match="tile-part 1 of codestream tile 0 calls itself 2"):
        index_bytes(middle.encode())


@pytest.mark.parametrize(
    ("part", "psot", "message"),
    [
        (Part(9, 0, 1, b"", b"x"), None, r"the tile-part at byte \d+ is of tile 9, there are 9 tiles"),
        (Part(65535, 0, 1, b"", b"x"), None, "is of tile 65535, there are 9 tiles"),
        (Part(2, 0, 1, b"", b"x"), 13, r"of tile 2 at byte \d+ says 13 bytes, the codestream has 17 left"),
        (Part(2, 0, 1, b"", b"x"), 18, "says 18 bytes, the codestream has 17 left"),
        (Part(2, 0, 1, b"", b"x"), 2**32 - 1, "says 4294967295 bytes"),
        (Part(8, 0, 1, b"", b"x"), None, "tile-part 1 of codestream tile 8 calls itself 0"),
    ],
)
def test_a_tile_part_that_cannot_be_is_refused(stream: Codestream, part: Part, psot: int | None, message: str) -> None:
    with pytest.raises(CodestreamError, match=message):
        index_bytes(stream.encode(eoc=b"") + part.encode(psot=psot) + EOC)


def test_what_stands_between_tile_parts_is_refused(stream: Codestream) -> None:
    with pytest.raises(CodestreamError, match=r"at byte \d+ a tile-part \(SOT\) should start, there is 00000000"):
        index_bytes(stream.encode(eoc=bytes(16)))


def test_an_open_tile_part_must_end_with_the_end_marker(stream: Codestream) -> None:
    data = stream.encode(open_end=True, eoc=b"")
    with pytest.raises(CodestreamError, match=rf"no end marker \(EOC\) before byte {len(data)}"):
        index_bytes(data)


def test_a_codestream_of_endless_tile_parts_is_given_up(stream: Codestream) -> None:
    tiles = stream.with_siz(x1=2048, y1=2048)
    parts = b"".join(Part(tile, number, 0, b"", b"").encode() for number in range(64) for tile in range(1024))
    with pytest.raises(CodestreamError, match="there are more than 65536 tile-parts"):
        index_bytes(tiles.header() + parts + Part(0, 0, 0, b"", b"").encode() + EOC)


def siz_bytes(stream: Codestream, at: int, value: int) -> Codestream:
    body = bytearray(stream.segment(SIZ))
    body[at] = value
    return replace(stream, segments=tuple((m, bytes(body) if m == SIZ else b) for m, b in stream.segments))


def cod_of(stream: Codestream, body: bytes) -> Codestream:
    return replace(stream, segments=tuple((m, body if m == COD else b) for m, b in stream.segments))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x1": 0}, "image 0,0..0,150 and tiles of 64 x 64 do not fit together"),
        ({"tile_w": 0}, "tiles of 0 x 64 do not fit"),
        ({"x0": 64}, "image 64,0..170,150 and tiles"),
        ({"tile_x0": 5}, "do not fit together"),
        ({"x1": 2**31, "y1": 2, "tile_w": 2**31}, "announces 4294967296 pixels, at most 2147483648"),
        ({"x1": 4096, "y1": 4096, "tile_w": 8, "tile_h": 8}, "announces 262144 codestream tiles, at most 32768"),
        ({"x1": 46000, "y1": 46000, "tile_w": 46000, "tile_h": 46000}, "announces 2116000000 pixels to be decoded"),
        ({"x1": 2**32 - 1, "y1": 2**32 - 1}, "announces 18446744065119617025 pixels"),
        ({"x1": 300}, "codestream tile 9 is missing, 9 of 15 tiles are there"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(stream: Codestream, fields: dict[str, int], message: str) -> None:
    with pytest.raises(CodestreamError, match=message) as caught:
        index_bytes(stream.with_siz(**fields).encode())
    # A file that is only laid out in another way is not said to be broken.
    assert str(caught.value).endswith("this layout is not read" if "announces" in message else REMEDY)


def test_tiles_of_64_pixels_of_a_10_m_band_are_read(stream: Codestream) -> None:
    count = (-(-10980 // 64)) ** 2
    tiles = stream.with_siz(x1=10980, y1=10980, tile_w=64, tile_h=64)
    data = replace(tiles, parts=tuple(Part(tile, 0, 1, b"", b"\0") for tile in range(count))).encode()
    tracemalloc.start()
    try:
        index = index_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(index.tiles) == count == 29584
    assert index.plain_reason is None
    assert peak < 32 << 20


def test_what_no_band_is_stored_as_is_refused(stream: Codestream) -> None:
    for at, value, message in (
        (35, 3, "odd.jp2: 3 components, a Sentinel-2 band has 1: give a single-band file"),
        (36, 0x8E, "samples of 15 bits, signed"),
        (36, 16, "samples of 17 bits, unsigned; a Sentinel-2 band has 8 to 16"),
        (37, 2, "samples stand 2 x 1 pixels apart"),
    ):
        with pytest.raises(CodestreamError, match=message):
            index_bytes(siz_bytes(stream, at, value).encode())


def test_segments_that_every_codestream_has_are_missed(stream: Codestream) -> None:
    for marker, name in ((SIZ, "SIZ"), (COD, "COD"), (b"\xff\x5c", "QCD")):
        with pytest.raises(CodestreamError, match=f"the main header has 0 {name} segments, it needs 1"):
            index_bytes(stream.without(marker).encode())
    twice = stream.with_segment(COD, stream.segment(COD))
    with pytest.raises(CodestreamError, match="has 2 COD segments"):
        index_bytes(twice.encode())


@pytest.mark.parametrize(
    ("cod", "message"),
    [
        # Scod, progression, layers, transform; levels, code-block, style, wavelet; precincts
        (b"\1\0\0\1\0" + b"\0\4\4\0\1" + b"\0", "code-blocks and precincts in one codestream tile, at most 2097152"),
        (b"\1\0\0\1\0" + b"\1\4\4\0\1" + b"\x11\x11", "code-blocks and precincts in one codestream tile"),
        (b"\0\0\0\1\0" + b"\0\0\0\0\1", "code-blocks and precincts in one codestream tile"),
        (b"\1\0\xff\xff\0" + b"\0\4\4\0\1" + b"\x77", "packets in one codestream tile, at most 16777216"),
        (b"\0\0\0\1\0" + b"\x21\4\4\0\1", "for 33 decompositions"),
        (b"\1\0\0\1\0" + b"\4\4\4\0\1" + b"\x77", "coding parameters of 11 bytes, 15 are needed"),
        (b"\0\0\0\1", "coding parameters of 4 bytes, 10 are needed"),
        (b"", "coding parameters of 0 bytes"),
    ],
)
def test_coding_parameters_that_would_take_the_memory_are_refused(stream: Codestream, cod: bytes, message: str) -> None:
    large = stream.with_siz(x1=8192, y1=8192, tile_w=8192, tile_h=8192)
    with pytest.raises(CodestreamError, match=message) as caught:
        index_bytes(cod_of(large, cod).encode())
    assert str(caught.value).endswith("this layout is not read" if "in one codestream tile" in message else REMEDY)


def test_the_coding_of_a_component_counts_too(stream: Codestream) -> None:
    large = stream.with_siz(x1=8192, y1=8192, tile_w=8192, tile_h=8192)
    coc = b"\0\1" + b"\0\4\4\0\1" + b"\0"
    with pytest.raises(CodestreamError, match="code-blocks and precincts"):
        index_bytes(large.with_segment(b"\xff\x53", coc).encode())


def test_a_plain_file_is_decoded_at_once_and_limited_as_such(stream: Codestream) -> None:
    wide = stream.with_segment(POC, poc_body(4)).with_siz(x1=20_000, y1=20_000, tile_w=10_000, tile_h=10_000)
    parts = tuple(replace(stream.parts[0], tile=i) for i in range(4))
    with pytest.raises(CodestreamError, match="400000000 pixels to be decoded at once, at most 268435456"):
        index_bytes(replace(wide, parts=parts).encode())
    tiled = replace(wide.without(POC), parts=parts)
    assert len(index_bytes(tiled.encode()).tiles) == 4


def test_decoding_costs_what_the_largest_piece_costs(stream: Codestream) -> None:
    tiled = index_bytes(stream.encode()).decode_bytes
    whole = index_bytes(stream.encode(open_end=True)).decode_bytes
    assert tiled >= 64 * 64 * 4
    assert whole - tiled == HEIGHT * WIDTH * 4 + 9 * 10 * 1024


def test_a_source_that_answers_short_is_noticed(stream: Codestream) -> None:
    data = stream.encode()
    steps = index_steps("B02.jp2", len(data))
    next(steps)
    steps.send(data[:12])
    with pytest.raises(CodestreamError, match=r"B02\.jp2: 100 of 4096 bytes are there from byte 0 on"):
        steps.send(data[:100])


@given(data=st.data())
def test_flipped_bytes_end_in_an_index_or_in_words(tiny: dict[str, bytes], data: st.DataObject) -> None:
    whole = tiny[data.draw(st.sampled_from(VARIANTS))]
    flipped = bytearray(whole)
    places = st.one_of(st.integers(0, 300), st.integers(0, len(whole) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        flipped[data.draw(places)] = data.draw(st.integers(0, 255))
    try:
        index = index_bytes(bytes(flipped))
    except CodestreamError as error:
        assert str(error).startswith("odd.jp2: ")  # noqa: PT017
        return
    assert sum(tile.window.height * tile.window.width for tile in index.tiles) == index.height * index.width
    for tile in index.tiles:
        assert tile.parts
        assert all(0 <= offset < offset + length <= len(whole) for offset, length in tile.parts)


@given(
    junk=st.binary(max_size=400), start=st.sampled_from([b"", SIGNATURE, SOC, SIGNATURE + b"\0\0\0\0jp2c" + SOC + SIZ])
)
def test_any_bytes_end_in_words(junk: bytes, start: bytes) -> None:
    with pytest.raises(CodestreamError, match=r"^odd\.jp2: "):
        index_bytes(start + junk)
