"""Tiles for a check: built-in ones that fit any contract, and files of users that may be anything."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream.errors import InputError
from server_models.check_tiles import MAX_TILES, CheckTiles, builtin_tiles, load_tiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

CONTRACTS = ("csmask_contract", "l1c_csmask_contract", "kappamask_contract")


@pytest.fixture(params=CONTRACTS)
def contract(request: pytest.FixtureRequest) -> ModelContract:
    found: ModelContract = request.getfixturevalue(request.param)
    return found


def test_built_in_tiles_fit_the_contract_and_are_always_the_same(contract: ModelContract) -> None:
    made = builtin_tiles(contract, 3)
    assert len(made) == 3
    assert made.labels is None
    for group in contract.inputs:
        pixels = made.tensors[group.tensor]
        assert (pixels.dtype, pixels.shape) == (np.uint16, (3, len(group.bands), group.tile, group.tile))
        assert not np.array_equal(pixels[1], pixels[2])
    for name in ("OFFSET", "SCALE"):
        assert (made.tensors[name].dtype, made.tensors[name].shape) == (np.float32, (3, len(contract.channels)))
    again = builtin_tiles(contract, 3)
    assert all(np.array_equal(array, again.tensors[name]) for name, array in made.tensors.items())
    assert all(
        np.array_equal(array[:2], builtin_tiles(contract, 2).tensors[name]) for name, array in made.tensors.items()
    )


def test_built_in_tiles_show_bright_and_dark_as_reflectance(contract: ModelContract) -> None:
    made = builtin_tiles(contract, 4)
    for group in contract.inputs:
        for at, band in enumerate(group.bands):
            channel = contract.channels.index(band)
            offset, scale = (made.tensors[name][0, channel] for name in ("OFFSET", "SCALE"))
            seen = np.maximum(made.tensors[group.tensor][1:, at] + offset, 0) * scale * contract.divisors[channel]
            if contract.dn_unit == "full_scale":
                seen = seen * 65535 / (10000 if band.startswith("B") else 1000)
            if band.startswith("B"):
                assert (offset, band) == (-1000, band)
                assert np.quantile(seen, 0.02) < 0.12
                assert 0.15 < np.quantile(seen, 0.98) < 0.9, band
            else:
                assert (offset, band) == (0, band)
                assert 0.04 < seen.min() < seen.max() < 3.01


def test_a_corner_of_the_first_built_in_tile_has_no_data(contract: ModelContract) -> None:
    made = builtin_tiles(contract, 2)
    for group in contract.inputs:
        first, second = made.tensors[group.tensor]
        assert not first[:, : group.tile // 8, : group.tile // 5].any()
        assert first[:, group.tile // 8 + 1 :].all()
        assert second.all()


def test_batches_hold_every_tile_at_changing_positions(csmask_contract: ModelContract) -> None:
    made = builtin_tiles(csmask_contract, 3)
    seen: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for size in range(2, 9):
        chosen, tensors = made.batch(size)
        assert len(chosen) == size
        assert set(chosen) == set(range(3)) or size == 2
        for position, tile in enumerate(chosen):
            seen[tile].add(position)
            for name, array in tensors.items():
                assert np.array_equal(array[position], made.tensors[name][tile])
    assert all(len(positions) >= 7 for positions in seen.values())


# Files


def arrays(contract: ModelContract, count: int = 2) -> dict[str, Any]:
    found: dict[str, Any] = {
        g.tensor: np.full((count, len(g.bands), g.tile, g.tile), 2000, np.uint16) for g in contract.inputs
    }
    channels = len(contract.channels)
    return found | {
        "OFFSET": np.full((count, channels), -1000, np.float32),
        "SCALE": np.full((count, channels), 1e-4, np.float32),
        "LABELS": np.full((count, contract.tile_size, contract.tile_size), 1, np.uint8),
    }


def test_what_is_saved_is_loaded(contract: ModelContract, tmp_path: Path) -> None:
    made = builtin_tiles(contract, 2)
    for labels in (None, np.full((2, contract.tile_size, contract.tile_size), 1, np.uint8)):
        path = tmp_path / "tiles.npz"
        CheckTiles(tensors=made.tensors, labels=labels, source="x").save(path)
        loaded = load_tiles(path, contract)
        assert loaded.source == "tiles of tiles.npz"
        assert all(np.array_equal(array, made.tensors[name]) for name, array in loaded.tensors.items())
        assert set(loaded.tensors) == set(made.tensors)
        assert np.array_equal(loaded.labels, labels) if labels is not None else loaded.labels is None


def test_compressed_archives_are_taken_too(csmask_contract: ModelContract, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "tiles.npz", **arrays(csmask_contract))
    assert len(load_tiles(tmp_path / "tiles.npz", csmask_contract)) == 2


def changed(**change: Callable[[NDArray[Any]], Any] | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change_arrays(given: dict[str, Any]) -> dict[str, Any]:
        kept = {name: array for name, array in given.items() if change.get(name, 1) is not None}
        return kept | {name: edit(given.get(name)) for name, edit in change.items() if edit is not None}

    return change_arrays


WRONG = {
    r"lacks DN_20M: test_l2a takes DN_20M uint16 \[n, 6, 256, 256\], OFFSET": changed(DN_20M=None),
    r"lacks OFFSET, SCALE": changed(OFFSET=None, SCALE=None),
    r"DN_20M is uint16 \[2, 6, 255, 256\], not uint16 \[n, 6, 256, 256\]": changed(DN_20M=lambda a: a[:, :, 1:]),
    r"DN_20M is int32": changed(DN_20M=lambda a: a[:, :, :128].repeat(2, axis=2).astype(np.int32)[:, :, :256]),
    r"SCALE is float64 \[2, 6\], not float32 \[n, 6\]": changed(SCALE=lambda a: a.astype(np.float64)),
    r"DN_20M is uint16 \[\]": changed(DN_20M=lambda a: a[0, 0, 0, 0]),
    r"LABELS is int64": changed(LABELS=lambda a: a.astype(np.int64)),
    r"holds LABEL, which is not asked for; it may hold DN_20M .* LABELS uint8 \[n, 256, 256\] \(optional\)": changed(
        LABEL=lambda _: np.ones(2)
    ),
    r"same number of tiles, at least one, of everything: .*'OFFSET': 1": changed(OFFSET=lambda a: a[:1]),
    r"at least one, of everything": changed(
        DN_20M=lambda a: a[:0], OFFSET=lambda a: a[:0], SCALE=lambda a: a[:0], LABELS=lambda a: a[:0]
    ),
    r"OFFSET or SCALE holds values that are not finite": changed(SCALE=lambda a: a * np.float32(np.nan)),
    r"LABELS holds \[9, 200\], which are no classes of test_l2a \(255 is for": changed(
        LABELS=lambda a: np.where(np.arange(256) < 9, 9, 200).astype(np.uint8) * a
    ),
    r"SCALE is object \[2, 6\], not float32": changed(
        SCALE=lambda a: np.array([[Trap()] * 6] * 2, object)
    ),
    rf"OFFSET is 200 tiles, at most {MAX_TILES} are checked": changed(OFFSET=lambda a: np.tile(a, (100, 1))),
    r"LABELS knows the class of 0\.0% of the pixels of tile 1, at least 10% of each are needed": changed(
        LABELS=lambda a: np.where(np.arange(2)[:, None, None] == 1, 255, 1).astype(np.uint8) * np.ones_like(a)
    ),
}  # fmt: skip


class Trap:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("something was unpickled",)


@pytest.mark.parametrize("said", WRONG)
def test_a_file_that_does_not_fit_the_contract_is_refused_in_words(
    csmask_contract: ModelContract, tmp_path: Path, said: str
) -> None:
    path = tmp_path / "tiles.npz"
    np.savez(path, **WRONG[said](arrays(csmask_contract)))
    with pytest.raises(InputError, match=said) as caught:
        load_tiles(path, csmask_contract)
    assert str(path) in str(caught.value)


def test_more_tiles_than_are_taken(csmask_contract: ModelContract, tmp_path: Path) -> None:
    tiny = arrays(csmask_contract, 1)
    many = {name: np.broadcast_to(array, (MAX_TILES + 1, *array.shape[1:])) for name, array in tiny.items()}
    np.savez_compressed(tmp_path / "tiles.npz", **{name: many[name] for name in ("DN_20M", "OFFSET", "SCALE")})
    with pytest.raises(InputError, match=f"DN_20M is {MAX_TILES + 1} tiles, at most {MAX_TILES} are checked"):
        load_tiles(tmp_path / "tiles.npz", csmask_contract)


def forged(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_a_header_that_promises_more_than_there_is_allocates_nothing(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    for shape, said in (
        ("(68719476736, 6)", "is 68719476736 tiles, at most"),
        ("(64, 6)", "is cut short: 8 of 1536 bytes"),
        ("(-1, 6)", "is -1 tiles, at most"),
        ("(True, 6)", "is True tiles, at most"),
    ):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)
        with pytest.raises(InputError, match=f"OFFSET {said}"):
            load_tiles(forged(tmp_path / "tiles.npz", {"OFFSET.npy": data}), csmask_contract)


def test_a_header_that_is_no_header(csmask_contract: ModelContract, tmp_path: Path) -> None:
    header = "{[]: 1}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)
    with pytest.raises(InputError, match="is no NumPy archive of plain arrays"):
        load_tiles(forged(tmp_path / "tiles.npz", {"OFFSET.npy": data}), csmask_contract)


def test_one_name_twice_is_refused(csmask_contract: ModelContract, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((1, 6), np.float32))
    path = forged(tmp_path / "tiles.npz", {"OFFSET": buffer.getvalue(), "OFFSET.npy": buffer.getvalue()})
    with pytest.raises(InputError, match="holds OFFSET twice"):
        load_tiles(path, csmask_contract)


@pytest.mark.parametrize("kind", ["text", "npy", "pickle", "cut short", "absent", "folder"])
def test_what_is_no_archive_is_refused_in_words(csmask_contract: ModelContract, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tiles.npz"
    if kind == "text":
        path.write_text("no archive")
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif kind == "cut short":
        np.savez(path, **arrays(csmask_contract))
        path.write_bytes(path.read_bytes()[:-100_000])
    elif kind == "folder":
        path.mkdir()
    said = f"cannot read {path}" if kind in {"absent", "folder"} else f"{path} is no NumPy archive"
    with pytest.raises(InputError) as caught:
        load_tiles(path, csmask_contract)
    assert said in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_a_damaged_array_is_refused_in_words(
    csmask_contract: ModelContract, tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "tiles.npz"
    save(path, **arrays(csmask_contract))
    data = bytearray(path.read_bytes())
    at = 90 if save is np.savez_compressed else 1000  # where compressed data say how they are compressed; pixels
    data[at : at + 100] = bytes(255 - byte for byte in data[at : at + 100])
    path.write_bytes(data)
    with pytest.raises(InputError, match="is no NumPy archive of plain arrays"):
        load_tiles(path, csmask_contract)


def test_an_entry_that_is_no_array(csmask_contract: ModelContract, tmp_path: Path) -> None:
    path = tmp_path / "tiles.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("OFFSET", b"bytes")
    with pytest.raises(InputError, match="is no NumPy archive of plain arrays"):
        load_tiles(path, csmask_contract)
