"""Which weights are published, and how a file of HDF5 says its own length."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kappamask_stream.models import ModelChoice
from kappamask_stream.settings_masking import PUBLISHED_WEIGHTS
from kappamask_stream.weights import PUBLISHED, WeightsCache, of_model
from kappamask_stream.weights.download import _own_end, shown_url

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 2**64 - 1


def superblock(version: int, end: int) -> bytes:
    """Write the superblock as the HDF5 format specification (II.A) lays it out, with addresses of 8 bytes."""
    if version < 2:
        head = SIGNATURE + bytes([version, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
        head += struct.pack("<HH", 32, 0) if version == 1 else b""
        return (head + struct.pack("<QQQQ", 0, NOWHERE, end, NOWHERE)).ljust(96, b"\0")
    head = SIGNATURE + bytes([version, 8, 8, 0])
    return (head + struct.pack("<QQQQI", 0, NOWHERE, end, 48, 0)).ljust(96, b"\0")


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_the_end_that_a_file_says_it_has_is_read_from_every_superblock(version: int) -> None:
    assert _own_end(superblock(version, 123_456_789)[:64]) == 123_456_789


def test_an_end_of_an_unknown_superblock_decides_nothing() -> None:
    assert _own_end(superblock(4, 10)[:64]) is None
    short_addresses = bytearray(superblock(0, 10)[:64])
    short_addresses[13] = 4
    assert _own_end(bytes(short_addresses)) is None


def test_what_is_shorter_than_any_file_is_never_whole() -> None:
    assert _own_end(superblock(0, 10)[:63]) == 64


@pytest.mark.shared
def test_real_files_say_their_own_length(shared_dir: Path) -> None:
    found = sorted((shared_dir / "data" / "kappamask").glob("*.hdf5"))
    assert len(found) == 2
    for path in found:
        with path.open("rb") as file:
            assert _own_end(file.read(64)) == path.stat().st_size


def test_every_kappamask_that_a_user_can_choose_has_published_weights() -> None:
    chosen = {
        ModelChoice(architecture=architecture, precision=precision).served_name(level)
        for architecture in ("DeepLabv3Plus", "Unet")
        for precision in (None, "f32", "bf16", "fp16")
        for level in ("L1C", "L2A")
    }
    assert len(chosen) == 12
    for name in chosen:
        published = of_model(name)
        assert published is not None
        assert name in {published.model, f"{published.model}_bf16", f"{published.model}_fp16"}
        assert published.model == f"kappamask_{published.file_name.removesuffix('.hdf5')}"
    assert len(PUBLISHED) == 4
    for name in ("csmask_l2a", "null_l2a", "kappamask_l2a_mine", "my_kappamask_l2a_unet", ""):
        assert of_model(name) is None


def test_sums_of_an_earlier_revision_are_known_of_three() -> None:
    known = [published.earlier_sha256 for published in PUBLISHED.values() if published.earlier_sha256]
    assert len({*known}) == 3
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in known)
    assert PUBLISHED_WEIGHTS.endswith("/model_weights/2022-09-13/")


def test_the_cache_is_the_users_own_unless_another_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    published = PUBLISHED["kappamask_l1c_unet"]
    own = WeightsCache.at(None)
    assert own.path(published) == tmp_path / "kappamask-stream" / "weights" / "l1c_unet.hdf5"
    assert own.fetched("kappamask_l1c_unet") is None
    monkeypatch.chdir(tmp_path)
    assert WeightsCache.at(Path("elsewhere")).path(published) == tmp_path / "elsewhere" / "l1c_unet.hdf5"


def test_a_url_is_shown_without_user_and_password() -> None:
    assert shown_url("http://user:pass@host:8080/a/b.hdf5") == "http://host:8080/a/b.hdf5"
    assert shown_url("https://host/a") == "https://host/a"
    assert "pass" not in shown_url("http://user:pass@[half/a")
