"""The file's bytes: a valid Cloud Optimized GeoTIFF that says what the mask is and GDAL reads back equal."""

import hashlib
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Compression
from rio_cogeo.cogeo import cog_validate

from kappamask_stream.cog import CogSpec, FoundMask, inspect_head, inspect_mask, read_quicklook_pixels
from kappamask_stream.cog.stream import compress
from kappamask_stream.cog.tiff import Level, assemble
from kappamask_stream.contract import MaskClass
from kappamask_stream.errors import OutputError
from tests.unit import naive_masks

NODATA = 5
COLOURS = [(0, 0, 0), (12, 200, 34), (90, 90, 90), (180, 220, 255), (255, 255, 255), (255, 0, 255)]
NAMES = ["UNDEFINED", "CLEAR", "CLOUD_SHADOW", "SEMI_TRANSPARENT_CLOUD", "CLOUD", "MISSING <no data & more>"]
TAGS = {"PRODUCT": "S2A_X", "FINGERPRINT": "ab" * 32, "MODEL": 'a "model" <&> größer', "TIFFTAG_SOFTWARE": "us 1.0"}


def spec_of(height: int, width: int, compression: str = "deflate", block_size: int = 512) -> CogSpec:
    return CogSpec(
        height=height,
        width=width,
        ulx=499980.0,
        uly=5900040.0,
        gsd_m=20,
        epsg=32729,
        nodata=NODATA,
        classes=tuple(MaskClass(value=v, name=NAMES[v], colour=COLOURS[v]) for v in range(6)),
        tags=TAGS,
        compression=compression,  # type: ignore[arg-type]
        block_size=block_size,
    )


def levels_of(mask: np.ndarray, spec: CogSpec) -> list[Level]:
    """Mask and naive overviews, cut and compressed."""
    images = [mask, *naive_masks.pyramid(mask, NODATA, spec.block_size)]
    return [
        Level(
            height=image.shape[0],
            width=image.shape[1],
            blocks=[
                compress(b.pixels, spec.compression) for b in naive_masks.blocks(image, NODATA, spec.block_size)
            ],
        )
        for image in images
    ]  # fmt: skip


def write(path: Path, mask: np.ndarray, compression: str = "deflate") -> bytes:
    spec = spec_of(*mask.shape, compression)
    content = b"".join(assemble(spec, levels_of(mask, spec)))
    path.write_bytes(content)
    return content


def ifds(content: bytes) -> list[dict[int, int]]:
    """Offsets of each directory's entries by tag, and under 0 the directory's own; read without our code."""
    (at,) = struct.unpack_from("<I", content, 4)
    found = []
    while at:
        (count,) = struct.unpack_from("<H", content, at)
        entries = [struct.unpack_from("<HHI", content, at + 2 + 12 * n) for n in range(count)]
        found.append({0: at} | {entry[0]: at + 2 + 12 * n for n, entry in enumerate(entries)})
        tags = [entry[0] for entry in entries]
        assert tags == sorted(set(tags)), "TIFF wants its tags ascending, each once"
        (at,) = struct.unpack_from("<I", content, at + 2 + 12 * count)
    return found


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (15, 700), (511, 511), (512, 512), (513, 513), (1024, 1024), (1, 1830), (1830, 1830), (2745, 1100)],
)
def test_any_size_is_a_strictly_valid_cog_that_gdal_reads_back_equal(
    height: int, width: int, compression: str, tmp_path: Path
) -> None:
    mask = naive_masks.blobs(height, width, seed=height + width)
    path = tmp_path / "mask.tif"
    write(path, mask, compression)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    overviews = naive_masks.pyramid(mask, NODATA, 512)
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), mask)
        assert found.compression == Compression[compression]
        assert found.block_shapes == [(512, 512)]
        assert len(found.overviews(1)) == len(overviews)
    for number, overview in enumerate(overviews):
        with rasterio.open(path, overview_level=number) as found:
            np.testing.assert_array_equal(found.read(1), overview)


def test_georeference_nodata_colours_names_and_provenance_survive(tmp_path: Path) -> None:
    write(tmp_path / "mask.tif", naive_masks.blobs(700, 600, seed=1))
    with rasterio.open(tmp_path / "mask.tif") as found:
        assert found.crs.to_epsg() == 32729
        assert found.transform == Affine(20, 0, 499980, 0, -20, 5900040)
        assert (found.count, found.dtypes, found.nodata) == (1, ("uint8",), NODATA)
        assert found.colorinterp == (ColorInterp.palette,)
        colours = found.colormap(1)
        assert [colours[v][:3] for v in range(6)] == COLOURS
        # GDAL shows the nodata value as transparent, and so does what draws with it.
        assert [colours[v][3] for v in range(6)] == [255, 255, 255, 255, 255, 0]
        assert all(colours[v][:3] == (0, 0, 0) for v in range(6, 256))
        assert found.descriptions == ("cloud mask",)
        tags = found.tags()
        assert tags["AREA_OR_POINT"] == "Area"
        assert {name: tags[name] for name in TAGS} == TAGS
        assert [tags[f"CLASS_{v}"] for v in range(6)] == NAMES
        assert found.tags(ns="IMAGE_STRUCTURE") == {"LAYOUT": "COG", "COMPRESSION": "DEFLATE", "INTERLEAVE": "BAND"}
    assert not list(tmp_path.glob("*.aux.xml"))


def test_colours_use_all_16_bits_that_tiff_gives_them(tmp_path: Path) -> None:
    content = write(tmp_path / "mask.tif", naive_masks.blobs(20, 20, seed=1))
    colour_map = 320
    kind, count, at = struct.unpack_from("<HII", content, ifds(content)[0][colour_map] + 2)
    values = struct.unpack_from("<768H", content, at)
    assert (kind, count) == (3, 768)
    assert [values[4], values[256 + 1], values[512 + 3]] == [65535, 200 * 257, 65535]


@pytest.mark.parametrize("size", [300, 512, 1830])
def test_layout_is_directories_first_then_blocks_from_coarse_to_fine(size: int, tmp_path: Path) -> None:
    content = write(tmp_path / "mask.tif", naive_masks.blobs(size, size, seed=2))
    found = ifds(content)
    starts = [entries[0] for entries in found]
    assert starts == sorted(starts)
    assert all(start % 2 == 0 for start in starts)
    # As GDAL's validator computes it: the first directory follows the structural metadata, to an even byte.
    head = content[8 : 8 + 43]
    assert head.startswith(b"GDAL_STRUCTURAL_METADATA_SIZE=")
    length = int(head[30:36])
    assert content[51 : 51 + length].endswith(b"KNOWN_INCOMPATIBLE_EDITION=NO\n ")
    assert starts[0] == (51 + length + 1) // 2 * 2 <= 300
    with rasterio.open(tmp_path / "mask.tif") as mask:
        firsts = [
            int(mask.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level))
            for level in [None, *range(len(found) - 1)]
        ]
        last = (size - 1) // 512
        end = int(mask.get_tag_item(f"BLOCK_OFFSET_{last}_{last}", "TIFF", bidx=1)) + int(
            mask.get_tag_item(f"BLOCK_SIZE_{last}_{last}", "TIFF", bidx=1)
        )
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[-1] > starts[-1]
    assert content[end : end + 4] == content[end - 4 : end]
    assert end + 4 == len(content)


def test_same_mask_same_bytes_and_neither_clock_nor_host_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = naive_masks.blobs(600, 600, seed=3)
    first = write(tmp_path / "a.tif", mask)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert write(tmp_path / "b.tif", mask) == first
    date_time, host_computer, artist = 306, 316, 315
    assert not {date_time, host_computer, artist} & set().union(*ifds(first))
    assert str(datetime.now(UTC).year).encode() not in first[:2000]


def test_a_file_too_large_for_32_bit_offsets_is_refused() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return 2**31

    block = Large()
    level = Level(height=1024, width=512, blocks=[block, block])
    with pytest.raises(OutputError, match=r"would have 4294\d+ bytes, a GeoTIFF of this kind holds 4294967295"):
        assemble(spec_of(1024, 512), [level, Level(height=512, width=256, blocks=[b""])])


@pytest.mark.parametrize("size", [100, 1300])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_a_whole_mask_is_told_from_a_cut_or_damaged_one(size: int, compression: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    content = write(path, naive_masks.blobs(size, size, seed=4), compression)
    ours = TAGS["FINGERPRINT"]
    assert inspect_mask(path) == FoundMask(fingerprint=ours, is_whole=True)
    path.write_bytes(content[:-1])
    assert inspect_mask(path) == FoundMask(fingerprint=ours, is_whole=False)
    path.write_bytes(content[:-40] + bytes(40))
    assert inspect_mask(path) == FoundMask(fingerprint=ours, is_whole=False)
    with rasterio.open(path) as mask:
        full = int(mask.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    middle = (full + len(content)) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert inspect_mask(path) == FoundMask(fingerprint=ours, is_whole=False)
    for cut in (0, 4, 60, 200):
        path.write_bytes(content[:cut])
        assert inspect_mask(path) == FoundMask(fingerprint=None, is_whole=False)


def test_files_of_other_origin_are_no_masks_of_ours(tmp_path: Path) -> None:
    nothing = FoundMask(fingerprint=None, is_whole=False)
    picture, text = tmp_path / "other.png", tmp_path / "other.tif"
    with rasterio.open(picture, "w", driver="PNG", width=8, height=8, count=1, dtype="uint8") as file:
        file.write(np.ones((1, 8, 8), np.uint8))
    text.write_text("a cloud mask, honestly")
    assert [inspect_mask(picture), inspect_mask(text)] == [nothing, nothing]
    with rasterio.open(text, "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8", sparse_ok=True) as file:
        file.update_tags(FINGERPRINT="cd" * 32)
    assert inspect_mask(text).is_whole is False


def test_a_mask_whose_tags_were_edited_in_place_is_still_whole(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write(path, naive_masks.blobs(700, 700, seed=5))
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(REVIEWED="yes")
    assert inspect_mask(path) == FoundMask(fingerprint=TAGS["FINGERPRINT"], is_whole=True)


@pytest.mark.parametrize(("size", "shown"), [(40, 40), (1100, 1100), (1101, 551), (5000, 625)])
def test_the_quicklook_of_a_finished_mask_shows_the_first_level_that_fits_a_screen(
    size: int, shown: int, tmp_path: Path
) -> None:
    mask = naive_masks.blobs(size, 30, seed=6)
    write(tmp_path / "mask.tif", mask)
    pixels, colours = read_quicklook_pixels(tmp_path / "mask.tif")
    expected = next(i for i in [mask, *naive_masks.pyramid(mask, NODATA, 16)] if i.shape[0] == shown)
    np.testing.assert_array_equal(pixels, expected)
    assert [colours[v][:3] for v in range(6)] == COLOURS


@pytest.mark.parametrize(
    ("size", "compression", "digest"),
    [
        (40, "deflate", "d46516aa3c5c3288fcf784d7c11223020b387fc3a4917a2415d0b95e753bcdd3"),
        (1300, "zstd", "1a4351d58447d0a9a02577a4f33d3d02678c9978a1a4c9451e5a775030deeab3"),
    ],
)
def test_a_masks_bytes_are_those_of_the_first_release(size: int, compression: str, digest: str) -> None:
    levels = []
    for length in [
        size,
        *(image.shape[0] for image in naive_masks.pyramid(np.ones((size, size), np.uint8), NODATA, 512)),
    ]:
        blocks = [bytes([number]) * (number + 5) for number in range((-(-length // 512)) ** 2)]
        levels.append(Level(height=length, width=length, blocks=blocks))
    assert hashlib.sha256(b"".join(assemble(spec_of(size, size, compression), levels))).hexdigest() == digest


@pytest.mark.parametrize("size", [100, 1300])
def test_a_masks_first_bytes_and_size_tell_what_it_is(size: int, tmp_path: Path) -> None:
    content = write(tmp_path / "mask.tif", naive_masks.blobs(size, size, seed=4))
    ours = TAGS["FINGERPRINT"]
    assert inspect_mask(content) == FoundMask(fingerprint=ours, is_whole=True)
    start = content[:16384]
    assert inspect_head(start, len(content)) == FoundMask(fingerprint=ours, is_whole=True)
    for other in (len(content) - 1, len(content) + 1):
        assert inspect_head(start, other) == FoundMask(fingerprint=ours, is_whole=False)
    for foreign in (b"", b"my notes", content[:200]):
        assert inspect_head(foreign, len(content)) == FoundMask(fingerprint=None, is_whole=False)
    pixels, _ = read_quicklook_pixels(content)
    np.testing.assert_array_equal(pixels, read_quicklook_pixels(tmp_path / "mask.tif")[0])
