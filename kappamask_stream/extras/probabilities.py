"""What the network was sure of: a Cloud Optimized GeoTIFF with one band per class."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.cog import CogSpec, CogStream, SpilledBlocks, most_bytes
from kappamask_stream.disk import FILE_BYTES, DiskUse
from kappamask_stream.errors import InferenceError, UsageError
from kappamask_stream.extras.files import file_of
from kappamask_stream.extras.probability_mosaic import ProbabilityMosaic
from kappamask_stream.extras.scratch import ScratchFolder
from kappamask_stream.extras.types import Extra
from kappamask_stream.mosaic import Block
from kappamask_stream.output import COG_TYPE
from kappamask_stream.overviews import average
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.destinations import OutputFile
    from kappamask_stream.extras.types import FinishedMask, MaskJob, TileAnswer


class ProbabilitiesExtra(Extra):
    """Writes ``<stem>_probabilities.tif``: uint8, 255 is 1.0, a band per class in the contract's order.

    Tiles are joined as the mask's are (see `ProbabilityMosaic`). Exactly where the mask has no data (beyond the swath,
    outside the area of interest, pixels of the class that stands for no data) all bands are 0; the file declares no
    nodata value, as 0 is a probability too. They are the network's own: a dilation does not change them. Overviews are
    means over the pixels with data.

    Compressed blocks go to a scratch file as they are finished; at the end the GeoTIFF is written beside it, block by
    block, and handed over as a file. Both together take up to twice the size of the result (about 200 MB for a full
    mask of six classes).

    Parameters
    ----------
    scratch : folder for both; None: the system's for temporary files (``TMPDIR``).
    """

    needs_probabilities = True

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch
        self._stack = AsyncExitStack()
        self._job: MaskJob | None = None
        self._joining = asyncio.Lock()
        # Blocks of either kind that wait for the other: the mask's says where there is no data.
        self._waiting: dict[tuple[int, int], Block] = {}

    def file_names(self, job: MaskJob) -> Sequence[str]:
        """Return the name of the GeoTIFF."""
        return (f"{job.stem}_probabilities.tif",)

    def disk_use(self, job: MaskJob) -> DiskUse:
        """See `Extra.disk_use`: all blocks and, beside them, the GeoTIFF that is made of them."""
        blocks, file = most_bytes(_spec(job))
        return DiskUse(
            scratch=blocks + file + 4 * FILE_BYTES, handed_over=file + FILE_BYTES, scratch_folder=self._scratch
        )

    async def begin(self, job: MaskJob) -> None:
        """Make the scratch files.

        Raises
        ------
        UsageError
            If the model has no probabilities to give.
        OutputError
            If a scratch file cannot be made.
        """
        contract, frame = job.contract, job.frame
        if not contract.probability_classes:
            raise UsageError(f"{contract.name} gives no probabilities: leave --probabilities out")
        self._mosaic = ProbabilityMosaic(
            job.grid, frame.window, classes=len(contract.probability_classes), kind=job.options.mosaic
        )
        scratch = ScratchFolder(self._scratch)
        self._stack.push_async_callback(in_thread, None, scratch.remove)
        folder = await in_thread(None, scratch.make)
        self._path = folder / "probabilities.tif"
        blocks = SpilledBlocks(folder)
        self._stack.callback(blocks.close)
        await in_thread(None, blocks.open)
        self._cog = await self._stack.enter_async_context(
            CogStream(_spec(job), job.workers, store=blocks, halve=average)
        )
        self._job = job

    async def add_tile(self, answer: TileAnswer) -> None:
        """Put a tile into the mosaic.

        Raises
        ------
        InferenceError
            If the server gave no probabilities for it.
        """
        job = self._begun()
        if answer.labels is not None and answer.probabilities is None:
            raise InferenceError(f"{job.contract.name} gave no probabilities: --probabilities needs them")
        async with self._joining:
            blocks = await in_thread(job.workers, self._mosaic.add, answer.tile, answer.probabilities, answer.missing)
        for block in blocks:
            await self._pair(block)

    async def add_block(self, block: Block) -> None:
        """Take a block of the mask."""
        await self._pair(block)

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:  # noqa: ARG002 - the hook's
        """Write the GeoTIFF and return it.

        Raises
        ------
        OutputError
            If it cannot be written, or would be too large.
        """
        job = self._begun()
        await self._cog.finish_into(self._path)
        return [file_of(job, f"{job.stem}_probabilities.tif", self._path, COG_TYPE)]

    async def aclose(self) -> None:
        """Remove the scratch files."""
        await self._stack.aclose()

    async def _pair(self, block: Block) -> None:
        """Hand a block of probabilities over when the mask's block of the same place is there, too."""
        job, key = self._begun(), (block.row, block.col)
        other = self._waiting.pop(key, None)
        if other is None:
            self._waiting[key] = block
            return
        labels, probabilities = sorted((block, other), key=lambda one: one.pixels.ndim)
        await self._cog.add(await in_thread(job.workers, _shown, probabilities, labels, job.contract.nodata_class))

    def _begun(self) -> MaskJob:
        if self._job is None:
            raise RuntimeError("used before begin")
        return self._job


def _shown(probabilities: Block, labels: Block, nodata: int) -> Block:
    """Return probabilities that are 0 where the mask has no data."""
    hidden = labels.pixels == nodata
    if not hidden.any():
        return probabilities
    return Block(row=labels.row, col=labels.col, pixels=np.where(hidden, np.uint8(0), probabilities.pixels))


def _spec(job: MaskJob) -> CogSpec:
    names = {c.value: c.name for c in job.contract.classes}
    return CogSpec(
        height=job.frame.height,
        width=job.frame.width,
        ulx=job.frame.ulx,
        uly=job.frame.uly,
        gsd_m=job.frame.gsd_m,
        epsg=job.frame.epsg,
        nodata=None,
        classes=(),
        tags={**job.tags, "PROBABILITY_OF_255": "1.0", "NO_DATA": "0 in all bands"},
        compression=job.options.compression,
        bands=tuple(names[value] for value in job.contract.probability_classes),
    )
