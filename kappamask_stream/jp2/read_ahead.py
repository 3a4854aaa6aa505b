"""What to fetch when the parser of a remote file asks for a few bytes. Sans-I/O.

A request to an object store costs as long as some 100 KB, so headers that lie close together are fetched together:
the boxes and the main header, and the headers of small tile-parts (a tile of nodata has 150 to 300 bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kappamask_stream.jp2.tile_parts import ByteRange

#: ESA's main headers end at byte 2,600, with TLM at up to 5,000.
_HEAD_BYTES = 8192
#: A header this close behind the last one is one of a series.
_NEAR_BYTES = 1024
_LEAST_AHEAD, _MOST_AHEAD = 512, 4096


class ReadAhead:
    """Decides what is fetched beside the bytes asked for, and keeps the last piece fetched.

    Within a series of headers close together as much is fetched ahead as the series is long so far, so what is
    fetched in vain is never more than what it was good for, and 512 bytes. Behind a large tile-part nothing is.

    State: the last piece and where it starts; where the last question ended, and where its series began.

    Parameters
    ----------
    size : bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._start, self._piece = 0, b""
        self._asked_end = self._series = 0

    def fetch(self, start: int, length: int) -> ByteRange | None:
        """Return (offset, length) to fetch so that these bytes can be taken; None if they are here."""
        if not 0 <= start - self._asked_end <= _NEAR_BYTES:
            self._series = start
        self._asked_end = start + length
        if self._start <= start and start + length <= self._start + len(self._piece):
            return None
        if not self._piece:
            ahead = _HEAD_BYTES
        elif start > self._series:
            ahead = min(max(start - self._series, _LEAST_AHEAD), _MOST_AHEAD)
        else:
            ahead = 0
        return start, max(length, min(ahead, self._size - start))

    def keep(self, start: int, piece: bytes) -> None:
        """Keep what was fetched."""
        self._start, self._piece = start, piece

    def take(self, start: int, length: int) -> bytes:
        """Return bytes that are here."""
        at = start - self._start
        return self._piece[at : at + length]
