"""What is kept of every piece of a product's files beside pixels, counted before it is made. Pure.

A piece (a codestream tile, or a block of a TIFF) may be of 15 bytes in its file and takes a hundred times as many as
soon as it is known: ESA's layouts have some hundred, for 2 MB; a hostile header may announce 32,768 for every band.
"""

from __future__ import annotations

from kappamask_stream.errors import ProductError

#: Measured with CPython 3.11: 370 in the index, 160 more while it is made or 200 once the band is resampled.
_BYTES_PER_PIECE = 600
#: Of each tile-part beyond a piece's first: 96 measured.
_BYTES_PER_PART = 150
#: Of each piece that is decoded: 280 in the plan, and from afar 720 for its run and the futures of bytes and pixels.
_BYTES_PER_UNIT = 1000
#: That much is never refused, whatever the budget: ESA's layouts take 2 MB, COGs of blocks of 512 pixels 6.
USUAL_BYTES = 16 * 1024 * 1024
_MB = 1024 * 1024


def kept_bytes(*, pieces: int, parts: int, units: int) -> int:
    """Return the bytes that a product's index, its decode plan and the stream's book-keeping take at most.

    Parameters
    ----------
    pieces : of all files, with those that are not needed.
    parts : tile-parts of all of them.
    units : pieces that are decoded.
    """
    return pieces * _BYTES_PER_PIECE + max(0, parts - pieces) * _BYTES_PER_PART + units * _BYTES_PER_UNIT


class PieceAccount:
    """Counts what a product's files are cut into while they are indexed, and refuses what would take too much.

    State: pieces, parts and units so far.

    Parameters
    ----------
    most_bytes : that book-keeping may take, if that is more than is usual (`USUAL_BYTES`); None: no limit.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most_bytes = None if most_bytes is None else max(most_bytes, USUAL_BYTES)
        self._pieces = self._parts = self._units = 0

    def __repr__(self) -> str:
        return f"<PieceAccount {self._pieces} pieces, {self.nbytes}/{self._most_bytes} bytes>"

    @property
    def nbytes(self) -> int:
        """Bytes that all that was counted takes."""
        return kept_bytes(pieces=self._pieces, parts=self._parts, units=self._units)

    def add(self, name: str, *, pieces: int = 0, parts: int = 0, units: int = 0) -> None:
        """Count what is about to be made of a file.

        Raises
        ------
        ProductError
            If the product's book-keeping takes more than it may.
        """
        self._pieces += pieces
        self._parts += parts
        self._units += units
        if self._most_bytes is not None and self.nbytes > self._most_bytes:
            raise ProductError(
                f"{name}: with it the product's bands are laid out in {self._pieces} pieces or more, of which "
                f"{-(-self.nbytes // _MB)} MB are to be kept beside pixels, its share of the memory budget is "
                f"{self._most_bytes // _MB} MB: fetch the product again, or raise --memory-budget-mb (or lower "
                "--concurrency) where the file is meant to be so"
            )
