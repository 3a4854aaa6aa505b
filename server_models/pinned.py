"""Shared memory that belongs to somebody else, made known to the GPU's driver: copies from it need no detour."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: Looking for a mapping takes milliseconds: after so many in vain, nothing is looked for.
_MISSES = 3


class PinnedRegions:
    """Regions of /dev/shm that are pinned in this process.

    State: the address ranges that are pinned, or were tried; how many arrays lay in none that can be. Triton's region
    may move when it grows: the new one is pinned at the first array that lies in it.
    """

    def __init__(self) -> None:
        self._ranges: dict[tuple[int, int], bool] = {}
        self._misses = 0

    def __repr__(self) -> str:
        pinned = sum(end - start for (start, end), done in self._ranges.items() if done)
        return f"<PinnedRegions {pinned} bytes>"

    def cover(self, array: NDArray[Any]) -> bool:
        """Pin the mapping that an array lies in; False where that is not possible: copies are slower then."""
        address = array.ctypes.data
        for (start, end), done in self._ranges.items():
            if start <= address < end:
                return done
        if self._misses >= _MISSES:
            return False
        start, end = _mapping(address)
        if start == end:
            self._misses += 1
            return False
        for old in [r for r in self._ranges if r[0] < end and start < r[1]]:
            self._unpin(old)
        done = _call("cudaHostRegister", start, end - start, 0)
        self._ranges[start, end] = done
        return done

    def close(self) -> None:
        """Unpin all."""
        for each in list(self._ranges):
            self._unpin(each)

    def _unpin(self, region: tuple[int, int]) -> None:
        if self._ranges.pop(region):
            _call("cudaHostUnregister", region[0])


def _mapping(address: int) -> tuple[int, int]:
    """Return start and end of the mapping of /dev/shm that holds an address; (address, address) where none does."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, name = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        if start <= address < end and name.startswith("/dev/shm/"):  # noqa: S108 - that is where it is
            return start, end
    return address, address


def _call(function: str, *arguments: int) -> bool:
    with contextlib.suppress(RuntimeError):
        runtime = torch.cuda.cudart()
        return int(getattr(runtime, function)(*arguments)) == 0
    return False
