"""Decode damaged tiles in a process of its own, under a limit of its address space: ``python -m … SEED COUNT``.

Prints one JSON object: how many were refused by the index, how many by the decoder, how many gave pixels, the most CPU
time that one took, and the most that decoding took beside what had been taken before. A crash of native code ends the process.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2 import ImagecodecsDecoder
from kappamask_stream.result import peak_rss_bytes
from tests.unit.jp2_files import (
    POC,
    Codestream,
    cut_into_parts,
    esa_options,
    index_bytes,
    interleaved,
    poc_body,
    scene,
    with_ppm,
    with_ppt,
    write_jp2,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "B02.jp2"
#: More than all of it takes by itself; a decoder that believed a lie of a gigabyte would not get it.
_MOST_ADDRESSES = 1 << 30
_MOST_PIXELS = 2**20
_LAYOUTS: tuple[dict[str, str], ...] = (
    {"PLT": "YES"},
    {"REVERSIBLE": "NO", "QUALITY": "60"},
    {"QUALITY": "5,20,100"},
    {"PROGRESSION": "RLCP"},
    {"PROGRESSION": "RPCL", "PLT": "YES"},
    {"PROGRESSION": "PCRL"},
    {"PROGRESSION": "CPRL"},
)


def files(folder: Path) -> list[bytes]:
    """Return valid files of every layout."""

    def written(**options: str) -> bytes:
        return write_jp2(folder / "band.jp2", scene(90, 100), **options).read_bytes()

    stream = Codestream.of(written(BLOCKXSIZE="32", BLOCKYSIZE="32"))
    marked = Codestream.of(written(SOP="YES", EPH="YES"))
    parts = interleaved(cut_into_parts(marked, 2))
    odd = (stream, marked, with_ppm(marked), with_ppt(marked), parts, stream.with_segment(POC, poc_body(2, 4)))
    return [
        *(each.encode() for each in odd),
        stream.encode(open_end=True),
        *(written(**options) for options in _LAYOUTS),
        written(**esa_options(60)),
    ]


def _flip(data: bytearray, first: int, draw: random.Random) -> None:
    data[draw.randrange(first, len(data))] ^= 1 << draw.randrange(8)


def _zero(data: bytearray, first: int, draw: random.Random) -> None:
    start = draw.randrange(first, len(data))
    end = min(start + draw.randrange(1, 300), len(data))
    data[start:end] = bytes(end - start)


def _noise(data: bytearray, first: int, draw: random.Random) -> None:
    start = draw.randrange(first, len(data))
    end = min(start + draw.randrange(1, 300), len(data))
    data[start:end] = draw.randbytes(end - start)


def _shuffle(data: bytearray, first: int, draw: random.Random) -> None:
    here, there, length = draw.randrange(first, len(data) - 64), draw.randrange(first, len(data) - 64), 64
    data[here : here + length], data[there : there + length] = data[there : there + length], data[here : here + length]


_DAMAGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (_flip, _zero, _noise, _shuffle)


def damaged(valid: bytes, draw: random.Random) -> bytes:
    """Damage the packets of a file, or in one of four cases its headers too."""
    data = bytearray(valid)
    first = valid.index(b"\xff\x93") + 2 if draw.randrange(4) else valid.index(b"\xff\x4f\xff\x51")
    for _ in range(draw.randrange(1, 6)):
        draw.choice(_DAMAGES)(data, first, draw)
    return bytes(data)


def main(seed: int, count: int) -> None:
    """Decode so many damaged files, and say what came of them."""
    with tempfile.TemporaryDirectory() as folder:
        valid = files(Path(folder))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
    before = peak_rss_bytes()
    assert before is not None
    told = {"refused": 0, "undecodable": 0, "decoded": 0, "slowest_s": 0.0}
    for number in range(seed, seed + count):
        draw = random.Random(number)
        data = damaged(draw.choice(valid), draw)
        begin = time.process_time()
        told[_decode(data)] += 1
        told["slowest_s"] = max(told["slowest_s"], time.process_time() - begin)
    told["grown_mb"] = ((peak_rss_bytes() or 0) - before) >> 20
    print(json.dumps(told))


def _decode(data: bytes) -> str:
    """Decode all tiles of a file; tells how far that went."""
    try:
        index = index_bytes(data, _NAME)
    except CodestreamError:
        return "refused"
    if index.height * index.width > _MOST_PIXELS:
        return "refused"  # a product's metadata says its size
    outcome = "decoded"
    for tile in index.tiles:
        said = _NAME
        try:
            parts = [data[offset : offset + length] for offset, length in tile.parts]
            pixels = index.decode_tile(tile, parts, ImagecodecsDecoder())
        except CodestreamError as error:
            said, outcome = str(error), "undecodable"
        else:
            assert (pixels.shape, pixels.dtype) == ((tile.window.height, tile.window.width), np.uint16)
        assert _NAME in said, said
        assert "no memory" not in said, said
        if index.plain_reason is None and outcome == "undecodable" and said != _NAME:
            assert f"tile {tile.index}" in said, said
    return outcome


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
