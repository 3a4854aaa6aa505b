"""What products in work may write to this machine's file systems: a process-wide budget, and the room that there is.

How much a product writes at most is known before any tile is sent: from its grid and what is asked for, as if nothing
could be compressed. It waits where others in work have that much reserved, and is refused where that cannot help.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import OutputError
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_MB = 1024 * 1024
#: What a file takes beyond its bytes, or a folder: the rest of a file system's block, an entry, a hidden name.
FILE_BYTES = 8192
#: Masks and probabilities compress to a twentieth of the bound at best: with less room than that there is no hope, with
#: more the disk itself has the last word.
_LIKELY = 20
#: A page, an Item, a list of a few files: texts whose length no grid decides. Areas of interest have at most 5,000
#: vertices in them.
TEXT_BYTES = 1 << 20


def most_compressed(size: int) -> int:
    """Return the most bytes that DEFLATE (with zlib's or PNG's frame around it) or Zstandard make of so many.

    Source: the bounds of zlib's ``deflateBound``, libdeflate's ``libdeflate_zlib_compress_bound`` and Zstandard's
    ``ZSTD_COMPRESSBOUND``, the largest of which is the last, n + n / 256 and 64 bytes; PNG adds 12 in 8192.
    """
    return size + size // 256 + 1024


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """Most bytes that a part of a product's work has on file systems at one time.

    Attributes
    ----------
    output : of files that are published.
    scratch : of files that are gone with the product.
    handed_over : those of `scratch` that are published in the end: moved, or copied to another file system.
    scratch_folder : where scratch files lie; None: the system's folder for temporary files (``TMPDIR``).
    """

    output: int = 0
    scratch: int = 0
    handed_over: int = 0
    scratch_folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Bytes on one file system: its number, a folder on it, and how another one is chosen."""

    device: int
    folder: Path
    nbytes: int
    elsewhere: str


class DiskBudget:
    """Bytes that products in work may have written at once, on all file systems together.

    First come, first served: a small product does not overtake a large one that waits. What outputs of products that
    are done take is not counted; the free space is looked at.

    Parameters
    ----------
    total : bytes.
    free : tells the bytes that are free on a folder's file system; None where it does not say.

    State: `_held`, what products in work have reserved; `_released`, set when one of them ends.
    """

    def __init__(self, total: int, *, free: Callable[[Path], int | None] | None = None) -> None:
        self.total = total
        self._free = free or free_bytes
        self._held: list[tuple[_Place, ...]] = []
        self._turn, self._released = asyncio.Lock(), asyncio.Event()

    def __repr__(self) -> str:
        return f"<DiskBudget {self.reserved}/{self.total} bytes reserved by {len(self._held)} products>"

    @property
    def reserved(self) -> int:
        """Bytes that products in work may write."""
        return sum(place.nbytes for places in self._held for place in places)

    @asynccontextmanager
    async def reserve(self, uses: Sequence[DiskUse], output: Path | None, *, what: str) -> AsyncIterator[None]:
        """Hold what a product writes at most for the duration of the block, waiting for others in work if need be.

        Parameters
        ----------
        uses : of all parts of its work.
        output : folder that its files are published to, which is there; None: they take no room on this machine.
        what : the product, for messages.

        Raises
        ------
        OutputError
            At once if the budget could never hold it; if there is too little room on a file system and nobody in work
            who would give some back. Names both numbers and the remedy.
        """
        places = await in_thread(None, _places, uses, output)
        needed = sum(place.nbytes for place in places)
        if not needed:
            yield
            return
        if needed > self.total:
            raise OutputError(
                f"{what} may write {_mb(needed)} MB of files and scratch files ({_shares(places)}), the budget is "
                f"{self.total // _MB} MB: ask for fewer files of it (--probabilities are the largest), or raise the "
                f"budget (KAPPAMASK_DISK_BUDGET_MB={_mb(needed)})"
            )
        async with self._turn:
            while True:
                self._released.clear()
                if await in_thread(None, self._has_room, places, tuple(self._held), what):
                    break
                await self._released.wait()
            self._held.append(places)
        try:
            yield
        finally:
            self._held.remove(places)
            self._released.set()

    def _has_room(self, places: Sequence[_Place], held: Sequence[Sequence[_Place]], what: str) -> bool:
        """Tell whether a product may begin beside those that hold bytes now; raises where no waiting helps."""
        others = [place for taken in held for place in taken]
        if sum(place.nbytes for place in (*others, *places)) > self.total:
            return False
        has_room = True
        for place in places:
            free = self._free(place.folder)
            taken = sum(other.nbytes for other in others if other.device == place.device)
            if free is None or (place.nbytes + taken) // _LIKELY <= free:
                continue
            if not taken:
                raise OutputError(
                    f"{what} may write {_mb(place.nbytes)} MB to the file system of {place.folder}, some "
                    f"{_mb(place.nbytes // _LIKELY)} MB at least, {free // _MB} MB are free there: make room, "
                    f"{place.elsewhere}, or ask for fewer files of it (--probabilities are the largest)"
                )
            has_room = False
        return has_room


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that are free on a folder's file system; None where it does not say."""
    try:
        said = shutil.disk_usage(folder)
    except OSError:
        return None
    return said.free if said.total else None  # some file systems of networks say 0 of 0


def _places(uses: Sequence[DiskUse], output: Path | None) -> tuple[_Place, ...]:
    """Add what is written to each file system: to the one of scratch files first."""
    elsewhere = {
        True: "name another folder for temporary files with TMPDIR",
        False: "give another folder with --output",
    }
    found: dict[int, _Place] = {}

    def add(folder: Path, nbytes: int, *, is_scratch: bool) -> None:
        device = _device(folder)
        known = found.get(device)
        found[device] = _Place(
            device=device,
            folder=folder if known is None else known.folder,
            nbytes=nbytes + (0 if known is None else known.nbytes),
            elsewhere=elsewhere[is_scratch] if known is None else known.elsewhere,
        )

    target = None if output is None else _device(output)
    for use in uses:
        folder = use.scratch_folder or Path(tempfile.gettempdir())
        if use.scratch:
            add(folder, use.scratch, is_scratch=True)
        if output is not None:
            # A file that is moved within a file system takes no more room.
            add(output, use.output + (use.handed_over if _device(folder) != target else 0), is_scratch=False)
    return tuple(found.values())


def _device(folder: Path) -> int:
    """Return the number of a folder's file system; of one that cannot be looked at one that none has."""
    try:
        return folder.stat().st_dev
    except OSError:
        return -1


def _shares(places: Sequence[_Place]) -> str:
    return ", ".join(f"{_mb(place.nbytes)} MB at {place.folder}" for place in places)


def _mb(nbytes: int) -> int:
    return -(-nbytes // _MB)
