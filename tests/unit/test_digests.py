"""Sizes and checksums, however the content is cut into pieces."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.destinations import OutputFile, digests, file_facts

if TYPE_CHECKING:
    from pathlib import Path


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 16))
async def test_pieces_of_any_size(pieces: list[bytes], chunk: int) -> None:
    whole = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "_CHUNK", chunk)
        cut = [b"".join(parts) for parts in digests._chunks(pieces)]
        facts = await file_facts(OutputFile(name="a", content=pieces, media_type="x/y"), None)
    assert b"".join(cut) == whole
    assert all(len(part) == chunk for part in cut[:-1])
    assert (facts.size, facts.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert facts.multihash == f"1220{facts.sha256}"


async def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_CHUNK", 7)
    path = tmp_path / "scratch"
    path.write_bytes(b"more than seven bytes")
    facts = await file_facts(OutputFile(name="a", content=path, media_type="x/y"), None)
    assert (facts.size, facts.sha256) == (21, hashlib.sha256(b"more than seven bytes").hexdigest())
