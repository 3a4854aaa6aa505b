"""Decode one greedy file in a process of its own, and print what that took: ``python -m … CASE``."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2 import ImagecodecsDecoder
from tests.hostile.jp2_corpus import QCD, with_body, written
from tests.unit.jp2_files import COD, POC, Codestream, Part, index_bytes, poc_body

_EMPTY = Part(0, 0, 1, b"", b"\0" * 10)
_SIDE = 3000


def cases(stream: Codestream) -> dict[str, Codestream]:
    """Return images of 3000 x 3000 pixels and some hundred bytes."""
    one = stream.with_siz(x1=_SIDE, y1=_SIDE, tile_w=_SIDE, tile_h=_SIDE)
    tiled = stream.with_siz(x1=_SIDE, y1=_SIDE, tile_w=24, tile_h=24).with_segment(POC, poc_body(4))

    def coded(layers: int, levels: int, block: int, *precincts: int) -> Codestream:
        style, sizes = (1, bytes(precincts)) if precincts else (0, b"")
        cod = bytes([style, 0]) + struct.pack(">H", layers) + bytes([0, levels, block, block, 0, 1]) + sizes
        changed = with_body(with_body(one, COD, cod), QCD, b"\x40" + b"\x80" * (3 * levels + 1))
        return replace(changed, parts=(_EMPTY,))

    fine = bytes([1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0x66, 0x33])
    own = COD + struct.pack(">H", len(fine) + 2) + fine
    return {
        "one tile": replace(one, parts=(_EMPTY,)),
        "code-blocks of 4 x 4": coded(1, 5, 0),
        "precincts of 8 x 8": coded(1, 1, 4, 0x33, 0x44),
        "60 layers of small precincts": coded(60, 1, 4, 0x33, 0x44),
        "32 decompositions": coded(3, 32, 4, *[0xFF] * 32, 0x33),
        "15625 tiles decoded as a whole": replace(
            tiled, parts=tuple(replace(_EMPTY, tile=tile, data=b"\0") for tile in range(15625))
        ),
        "a tile of its own kind": replace(one, parts=(replace(_EMPTY, segments=own),)),
        "a tile of its own kind, decoded as a whole": replace(
            one, parts=(replace(_EMPTY, segments=own),)
        ).with_segment(POC, poc_body(4)),
        "a second part of its own kind": replace(
            one, parts=(replace(_EMPTY, total=2), replace(_EMPTY, number=1, total=2, segments=own))
        ),
    }  # fmt: skip


def main(case: str) -> None:
    """Decode, and say what was announced and what was taken, bytes."""
    with tempfile.TemporaryDirectory() as folder:
        data = cases(Codestream.of(written(Path(folder)).read_bytes()))[case].encode()
    index = index_bytes(data)
    (tile,) = index.tiles
    parts = [data[offset : offset + length] for offset, length in tile.parts]
    said, pixels = "", 2 * index.height * index.width
    before = _resident()
    try:
        index.decode_tile(tile, parts, ImagecodecsDecoder())
    except CodestreamError as error:
        said = str(error)
    print(json.dumps({"said": said, "announced": index.decode_bytes + pixels, "taken": _resident() - before}))


def _resident() -> int:
    """Return the most memory that this process had, bytes: since it began to run this program."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
