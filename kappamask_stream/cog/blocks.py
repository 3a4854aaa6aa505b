"""Where compressed blocks wait for the file to be written: in memory, or in a scratch file."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from kappamask_stream.atomic import output_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import IO

    from kappamask_stream.errors import OutputError

T = TypeVar("T")

#: Level (0: the image), row and column.
Key = tuple[int, int, int]
#: First byte and length.
_Place = tuple[int, int]


class BlockStore(Protocol):
    """Keeps what a block was compressed to, one piece per band; `put` is called from threads, several at a time."""

    def put(self, key: Key, bands: Sequence[bytes]) -> None:
        """Keep a block."""
        ...

    def count(self, level: int) -> int:
        """Return the number of blocks kept of a level."""
        ...

    def in_order(self, level: int) -> Sequence[bytes]:
        """Return a level's blocks in raster order, band after band."""
        ...


class MemoryBlocks:
    """Keeps a mask's blocks: a few MB."""

    def __init__(self) -> None:
        self._kept: dict[Key, Sequence[bytes]] = {}

    def put(self, key: Key, bands: Sequence[bytes]) -> None:
        """See `BlockStore.put`."""
        self._kept[key] = bands

    def count(self, level: int) -> int:
        """See `BlockStore.count`."""
        return sum(key[0] == level for key in self._kept)

    def in_order(self, level: int) -> Sequence[bytes]:
        """See `BlockStore.in_order`."""
        return _in_order(self._kept, level)


class SpilledBlocks:
    """Keeps blocks in a nameless file, which is gone when it is closed or the process ends.

    Parameters
    ----------
    folder : for the file, which `open` makes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._kept: dict[Key, list[_Place]] = {}
        self._end = 0
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the file; apart from the constructor, so that its owner can close it whatever ends a thread's work.

        Raises
        ------
        OutputError
            If it cannot be made there.
        """
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise scratch_error(self._folder, error) from error

    def put(self, key: Key, bands: Sequence[bytes]) -> None:
        """See `BlockStore.put`.

        Raises
        ------
        OutputError
            If the scratch file has no room.
        """
        with self._lock:
            start, self._end = self._end, self._end + sum(map(len, bands))
        places = []
        for band in bands:
            places.append((start, len(band)))
            self._write(band, start)
            start += len(band)
        self._kept[key] = places

    def count(self, level: int) -> int:
        """See `BlockStore.count`."""
        return sum(key[0] == level for key in self._kept)

    def in_order(self, level: int) -> Sequence[bytes]:
        """See `BlockStore.in_order`; blocks are read when they are asked for."""
        return _Spilled(self._number(), _in_order(self._kept, level))

    def close(self) -> None:
        """Give the file back, if there is one."""
        if self._file is not None:
            self._file.close()

    def _number(self) -> int:
        if self._file is None:
            raise RuntimeError("used before open")
        return self._file.fileno()

    def _write(self, content: bytes, at: int) -> None:
        view, number = memoryview(content), self._number()
        try:
            while view:
                written = os.pwrite(number, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise scratch_error(self._folder, error) from error


def scratch_error(folder: Path, error: OSError) -> OutputError:
    """Say why a scratch file could not be made or written, and how it gets another place."""
    return output_error(folder, error, elsewhere="name another folder for temporary files with TMPDIR")


class _Spilled(Sequence[bytes]):
    def __init__(self, file: int, places: Sequence[_Place]) -> None:
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return _Spilled(self._file, self._places[index])
        start, length = self._places[index]
        return os.pread(self._file, length, start)


def _in_order(kept: Mapping[Key, Sequence[T]], level: int) -> list[T]:
    keys = sorted(key for key in kept if key[0] == level)
    bands = len(kept[keys[0]]) if keys else 0
    return [kept[key][band] for band in range(bands) for key in keys]
