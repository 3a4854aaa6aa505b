"""Each tile's own mask, as km_predict's ``prediction`` folder has it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.disk import FILE_BYTES, DiskUse
from kappamask_stream.extras.files import file_of
from kappamask_stream.extras.grey_png import encode_grey, require_known_classes, world_file
from kappamask_stream.extras.types import Extra
from kappamask_stream.output import JSON_TYPE, PNG_TYPE, TEXT_TYPE, read_tile_list
from kappamask_stream.png import most_png_bytes
from kappamask_stream.threads import in_thread
from kappamask_stream.tile_pictures import TileList, picture_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.destinations import OutputFile
    from kappamask_stream.extras.types import FinishedMask, MaskJob, TileAnswer

#: Tiles being published at once: each takes two files' writing, or two requests.
_AT_ONCE = 4


class SubtilesExtra(Extra):
    """Publishes ``tile_<column>_<row>/prediction.png`` the moment a tile is answered, and at the end a list of them.

    KappaMask's have the folders, names, sizes and grey codes of km_predict's (its sub-tiler cm_vsm counts columns
    first); those of other models lie in a folder of their own, ``<stem>_tiles``. Each is a whole tile with its margins
    and the zeros beyond the image, before mosaic, area of interest and dilation. A tile without data is all MISSING,
    which is what km_predict's networks answer there. Beside each picture lies a world file, which km_predict has not;
    its pictures of probabilities are not written: ``--probabilities`` has them in one file.

    Pictures that are published stay where the run fails later. ``<stem>_subtiles.json`` is published with the mask: it
    says that all tiles of this very mask are there. Meanwhile it is nobody's, and names all tiles that may be there.
    """

    def __init__(self) -> None:
        self._job: MaskJob | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._first, self._begun_writing = asyncio.Lock(), False

    def file_names(self, job: MaskJob) -> Sequence[str]:
        """Return the names of the list and of all pictures and world files."""
        listed = _list_of(job)
        return (listed.name, *listed.files)

    def disk_use(self, job: MaskJob) -> DiskUse:
        """See `Extra.disk_use`: each tile's picture, world file and folder; the list, and the one that it replaces."""
        listed, size = _list_of(job), job.grid.tile_size
        tiles = len(listed.tiles) * (most_png_bytes(size, size) + 3 * FILE_BYTES)
        return DiskUse(output=tiles + 2 * (len(listed.encode()) + FILE_BYTES))

    async def begin(self, job: MaskJob) -> None:
        """See `require_known_classes`."""
        require_known_classes(job.contract, "--subtiles")
        self._job = job

    async def add_tile(self, answer: TileAnswer) -> None:
        """Publish a tile."""
        job = self._begun()
        tile = answer.tile
        name, place = (picture_name(job.stem, tile.row, tile.col, ending) for ending in ("png", "pgw"))
        labels = answer.labels
        if labels is None:
            labels = np.full((tile.window.height, tile.window.width), job.contract.nodata_class, np.uint8)
        gsd_m = job.contract.gsd_m
        # The frame's corner is that of its window: a tile may begin left of and above it.
        ulx = job.frame.ulx + (tile.window.col - job.frame.window.col) * gsd_m
        uly = job.frame.uly - (tile.window.row - job.frame.window.row) * gsd_m
        async with self._first:
            if not self._begun_writing:
                await self._withdraw_list(job)
                self._begun_writing = True
        async with self._slots:
            picture = await in_thread(job.workers, encode_grey, labels)
            await job.destination.publish(
                [
                    file_of(job, place, [world_file(ulx, uly, gsd_m)], TEXT_TYPE),
                    file_of(job, name, [picture], PNG_TYPE),
                ]
            )

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:  # noqa: ARG002 - the hook's
        """Return the list, in the order of the grid."""
        job = self._begun()
        return [_file(job, _list_of(job))]

    async def _withdraw_list(self, job: MaskJob) -> None:
        """Say, before the first picture, that there may be pictures of several masks, unless all are this mask's."""
        own, there = _list_of(job), await read_tile_list(job.destination, job.stem)
        if there is not None and there.fingerprint == own.fingerprint:
            return
        tiles = {*own.tiles, *(there.tiles if there is not None else ())}
        await job.destination.publish([_file(job, replace(own, fingerprint=None, tiles=tuple(sorted(tiles))))])

    def _begun(self) -> MaskJob:
        if self._job is None:
            raise RuntimeError("used before begin")
        return self._job


def _list_of(job: MaskJob) -> TileList:
    """List the tiles that decide pixels of the mask: those that `add_tile` sees."""
    blends = job.options.mosaic == "blend"
    seen = [t for t in job.grid if not (t.window if blends else t.core).intersection(job.frame.window).is_empty]
    tiles = tuple((tile.row, tile.col) for tile in seen)
    return TileList(stem=job.stem, fingerprint=job.tags["FINGERPRINT"], tiles=tiles)


def _file(job: MaskJob, listed: TileList) -> OutputFile:
    return file_of(job, listed.name, [listed.encode()], JSON_TYPE)
