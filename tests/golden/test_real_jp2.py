"""The JPEG 2000 layer on real files: ESA's own, and a crop that another writer made in an odd layout."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kappamask_stream.contract import BandGroup
from kappamask_stream.errors import CodestreamError
from kappamask_stream.grid import TileGrid, source_window
from kappamask_stream.jp2 import BandInput, DecodePlan, TileStream, index_bands
from kappamask_stream.sources import DirectorySource
from tests.unit.jp2_files import decode_by_tiles, index_bytes, plain_read

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def data_dir(shared_dir: Path) -> Path:
    return shared_dir / "data"


#: What a glob below the data finds, how many files that are, and their layout.
GROUPS = {
    "bands and maps of 60 m": (
        "product_60m/*/GRANULE/*/IMG_DATA/R60m/*_[ABSW]??_60m.jp2", 14,
        ("tiles 192x192", "code-blocks 4x4", "precincts 64x64", "5/3 reversible", "no TLM"),
    ),
    "AOT of 10 m": (
        "product_60m/*/GRANULE/*/IMG_DATA/R10m/*_AOT_10m.jp2", 1,
        ("tiles 1024x1024", "code-blocks 64x64", "precincts 256x256", "5/3 reversible", "no TLM"),
    ),
    "AOT and SCL of 20 m": (
        "product_60m/*/GRANULE/*/IMG_DATA/R20m/*.jp2", 2,
        ("tiles 640x640", "code-blocks 8x8", "precincts 128x128", "5/3 reversible", "no TLM"),
    ),
    "L1C in tiles of 64": (
        "l1c_t33uuu/IMG_DATA/*.jp2", 13,
        ("tiles 64x64", "1 resolutions", "precincts 512x512", "9/7 irreversible"),
    ),
    "masks of 60 m": ("product_60m/*/GRANULE/*/QI_DATA/MSK_*PRB_60m.jp2", 2, ("tiles 192x192", "8 bit")),
    "masks of 20 m": ("product_60m/*/GRANULE/*/QI_DATA/MSK_*PRB_20m.jp2", 2, ("tiles 640x640", "8 bit")),
    "detector footprints": ("product_60m/*/GRANULE/*/QI_DATA/MSK_DETFOO_*.jp2", 13, ("8 bit", "5/3 reversible")),
}  # fmt: skip
REFUSED = (
    ("product_60m/*/GRANULE/*/IMG_DATA/R60m/*_TCI_60m.jp2", 1, 3),
    ("product_60m/*/GRANULE/*/QI_DATA/*_PVI.jp2", 1, 3),
    ("product_60m/*/GRANULE/*/QI_DATA/MSK_CLASSI_B00.jp2", 1, 3),
    ("product_60m/*/GRANULE/*/QI_DATA/MSK_QUALIT_*.jp2", 13, 8),
)


@pytest.mark.parametrize("group", GROUPS)
def test_codestream_tiles_of_real_files_decode_to_the_plain_read(data_dir: Path, group: str) -> None:
    pattern, count, words = GROUPS[group]
    paths = sorted(data_dir.glob(pattern))
    assert len(paths) == count

    def check(path: Path) -> str | None:
        data = path.read_bytes()
        index = index_bytes(data, path.name)
        told = index.plain_reason is None and all(word in index.layout for word in words)
        return None if told and np.array_equal(decode_by_tiles(data, index), plain_read(path)) else path.name

    with ThreadPoolExecutor(2) as threads:
        assert [name for name in threads.map(check, paths) if name] == []


def test_files_of_several_components_are_refused_in_words(data_dir: Path) -> None:
    for pattern, count, components in REFUSED:
        paths = sorted(data_dir.glob(pattern))
        assert len(paths) == count
        for path in paths:
            with pytest.raises(
                CodestreamError, match=rf"^{path.name}: {components} components, a Sentinel-2 band has 1"
            ):
                index_bytes(path.read_bytes(), path.name)


def test_no_real_file_is_left_out(data_dir: Path) -> None:
    known = {path for pattern, *_ in (*GROUPS.values(), *REFUSED) for path in data_dir.glob(pattern)}
    assert known == set(data_dir.rglob("*.jp2"))


CSMASK = (BandGroup(gsd_m=60, bands=("B02", "B03", "B04", "B8A", "B11", "B12"), tile=256, stride=204),)
KAPPAMASK = (
    BandGroup(gsd_m=10, bands=("AOT",), tile=512, stride=480),
    BandGroup(gsd_m=20, bands=("SCL",), tile=256, stride=240),
    BandGroup(gsd_m=60, bands=("B01", "B09"), tile=85, stride=80),
)


def band_paths(data_dir: Path, groups: tuple[BandGroup, ...]) -> tuple[Path, list[tuple[str, BandGroup, int]]]:
    """Return the product's folder, and per band its path in there, its group and its channel."""
    (safe,) = data_dir.glob("product_60m/*.SAFE")
    paths = []
    for group in groups:
        for channel, band in enumerate(group.bands):
            (path,) = safe.glob(f"GRANULE/*/IMG_DATA/R{group.gsd_m}m/*_{band}_{group.gsd_m}m.jp2")
            paths.append((str(path.relative_to(safe)), group, channel))
    return safe, paths


@pytest.mark.parametrize(
    ("groups", "grid"),
    [(CSMASK, TileGrid(1830, 1830, 256, 26)), (KAPPAMASK, TileGrid(10980, 10980, 512, 16))],
    ids=["csmask on 60 m", "KappaMask"],
)
async def test_tiles_of_a_real_product_equal_the_plain_read(
    data_dir: Path, groups: tuple[BandGroup, ...], grid: TileGrid
) -> None:
    safe, paths = band_paths(data_dir, groups)
    source = DirectorySource(safe)
    indexes = await index_bands(source, [path for path, _, _ in paths])
    bands = [BandInput(path=path, index=indexes[path], group=g, channel=channel) for path, g, channel in paths]
    plain = [plain_read(safe / band.path) for band in bands]
    plan, seen, empty = DecodePlan.of(bands, grid), 0, 0
    with ThreadPoolExecutor(2) as threads:
        async with TileStream(source, plan, executor=threads, workers=2) as stream:
            async for pixels in stream:
                assert pixels.tile.index == seen
                seen += 1
                empty += pixels.is_empty
                for band, image in zip(bands, plain, strict=True):
                    window = source_window(pixels.tile, band.group)
                    inside = image[window.row : window.row_end, window.col : window.col_end]
                    expected = np.zeros((window.height, window.width), np.uint16)
                    expected[: inside.shape[0], : inside.shape[1]] = inside
                    tensor = None if pixels.is_empty else pixels.tensors[band.group.tensor][band.channel]
                    assert not expected.any() if tensor is None else np.array_equal(tensor, expected)
    stats = stream.stats
    assert seen == len(grid)
    assert 0 < empty < seen
    assert stats.codestream_tiles_decoded_twice == 0
    assert stats.codestream_tiles_decoded + stats.codestream_tiles_empty == len(plan.units)
    assert stats.codestream_tiles_empty > len(plan.units) // 10
    assert stats.bytes_read == sum(length for unit in plan.units for _, length in unit.tile.parts)
    assert stats.peak_held_bytes <= plan.required_bytes
