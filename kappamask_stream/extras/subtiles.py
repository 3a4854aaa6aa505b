"""Each tile's own mask, as km_predict's ``prediction`` folder has it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.extras.files import file_of
from kappamask_stream.extras.grey_png import encode_grey, require_known_classes, world_file
from kappamask_stream.extras.types import Extra
from kappamask_stream.output import JSON_TYPE, PNG_TYPE, TEXT_TYPE
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.destinations import OutputFile
    from kappamask_stream.extras.types import FinishedMask, MaskJob, TileAnswer
    from kappamask_stream.grid import Tile

#: Tiles being published at once: each takes two files' writing, or two requests.
_AT_ONCE = 4


class SubtilesExtra(Extra):
    """Publishes ``tile_<column>_<row>/prediction.png`` the moment a tile is answered, and at the end a list of them.

    The folders and files have the names, sizes and grey codes of km_predict's (its sub-tiler cm_vsm counts columns
    first): a whole tile with its margins and the zeros beyond the image, before mosaic, area of interest and dilation.
    A tile without data is all MISSING, which is what km_predict's networks answer there. Beside each picture lies a
    world file, which km_predict has not; its pictures of probabilities are not written: ``--probabilities`` has them
    in one file.

    Pictures that are published stay where the run fails later. ``<stem>_subtiles.json`` is published with the mask: it
    says that all tiles of this very mask are there.
    """

    def __init__(self) -> None:
        self._job: MaskJob | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._published: dict[tuple[int, int], str] = {}

    def file_names(self, job: MaskJob) -> Sequence[str]:
        """Return the name of the list."""
        return (f"{job.stem}_subtiles.json",)

    async def begin(self, job: MaskJob) -> None:
        """See `require_known_classes`."""
        require_known_classes(job.contract, "--subtiles")
        self._job = job

    async def add_tile(self, answer: TileAnswer) -> None:
        """Publish a tile."""
        job = self._begun()
        tile, folder = answer.tile, tile_folder(answer.tile)
        labels = answer.labels
        if labels is None:
            labels = np.full((tile.window.height, tile.window.width), job.contract.nodata_class, np.uint8)
        gsd_m = job.contract.gsd_m
        # The frame's corner is that of its window: a tile may begin left of and above it.
        ulx = job.frame.ulx + (tile.window.col - job.frame.window.col) * gsd_m
        uly = job.frame.uly - (tile.window.row - job.frame.window.row) * gsd_m
        async with self._slots:
            picture = await in_thread(job.workers, encode_grey, labels)
            await job.destination.publish(
                [
                    file_of(job, f"{folder}/prediction.pgw", [world_file(ulx, uly, gsd_m)], TEXT_TYPE),
                    file_of(job, f"{folder}/prediction.png", [picture], PNG_TYPE),
                ]
            )
        self._published[tile.row, tile.col] = f"{folder}/prediction.png"

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:  # noqa: ARG002 - the hook's
        """Return the list, in the order of the grid."""
        job = self._begun()
        document = {
            "fingerprint": job.tags["FINGERPRINT"],
            "tiles": [
                {"row": row, "column": col, "file": name} for (row, col), name in sorted(self._published.items())
            ],
        }
        content = json.dumps(document, indent=1).encode() + b"\n"
        return [file_of(job, f"{job.stem}_subtiles.json", [content], JSON_TYPE)]

    def _begun(self) -> MaskJob:
        if self._job is None:
            raise RuntimeError("used before begin")
        return self._job


def tile_folder(tile: Tile) -> str:
    """Name a tile's folder as cm_vsm does, the column first."""
    return f"tile_{tile.col}_{tile.row}"
