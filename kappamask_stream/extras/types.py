"""What else a run can make of a product while it is masked: each extra sees every tile and hands over files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.cog import CogSpec
from kappamask_stream.disk import DiskUse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination, OutputFile
    from kappamask_stream.frame import MaskFrame
    from kappamask_stream.grid import Tile, TileGrid
    from kappamask_stream.inference import BatchSizes
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.mosaic import Block
    from kappamask_stream.product import Product
    from kappamask_stream.result import Timeline


@dataclass(frozen=True, kw_only=True)
class MaskJob:
    """What is masked, as all parts of the job see it.

    Attributes
    ----------
    product, contract, options : what is masked, by which model, as the user asked.
    frame : the mask's place; its window is a part of the grid's image where there is an area of interest.
    grid : tiles over the whole image.
    stem : file names without extension, ``L2A_T29UNU_20221005T115411_KZ_10m``.
    tags : provenance, as in the mask's metadata.
    destination : receives the files.
    workers : threads for what would hold the event loop.
    """

    product: Product
    contract: ModelContract
    options: MaskOptions
    frame: MaskFrame
    grid: TileGrid
    stem: str
    tags: Mapping[str, str] = field(repr=False)
    destination: Destination
    workers: Executor = field(repr=False)

    @property
    def cog_spec(self) -> CogSpec:
        """What the mask's GeoTIFF says about itself."""
        return CogSpec(
            height=self.frame.height,
            width=self.frame.width,
            ulx=self.frame.ulx,
            uly=self.frame.uly,
            gsd_m=self.frame.gsd_m,
            epsg=self.frame.epsg,
            nodata=self.contract.nodata_class,
            classes=self.contract.classes,
            tags=self.tags,
            compression=self.options.compression,
        )


@dataclass(frozen=True, kw_only=True)
class TileAnswer:
    """One tile of the grid and what is known of it; arrays are shared and must not be changed.

    Attributes
    ----------
    tile : its place.
    tensors : per input tensor, uint16 ``[bands, height, width]`` DN; empty without data, and where nothing was read.
    labels : uint8 ``[tile, tile]`` class values with nodata applied; None where the tile holds no data.
    probabilities : uint8 ``[classes, tile, tile]``, 255 is 1.0; None where not asked for or no data.
    missing : bool ``[tile, tile]``, True where there is no data; None: data everywhere, or not told apart.
    """

    tile: Tile
    tensors: Mapping[str, NDArray[np.uint16]] = field(default_factory=dict, repr=False)
    labels: NDArray[np.uint8] | None = field(default=None, repr=False)
    probabilities: NDArray[np.uint8] | None = field(default=None, repr=False)
    missing: NDArray[np.bool_] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class FinishedMask:
    """A mask whose pixels are all decided, before its files get their names.

    Attributes
    ----------
    cog : the GeoTIFF in pieces.
    quicklook_pixels : uint8 ``[height, width]`` class values of at most about 1100 pixels a side.
    classes : share of the pixels of the area of interest (or all) per class name.
    timeline : when each stage was busy.
    tiles, tiles_inferred, tiles_empty, bytes_read, retries, batch_sizes : as in `result.ProductResult`.
    files : what will be published beside the GeoTIFF, so far; extras that come later see those of earlier ones.
    """

    cog: Sequence[bytes] = field(repr=False)
    quicklook_pixels: NDArray[np.uint8] = field(repr=False)
    classes: Mapping[str, float]
    timeline: Timeline
    tiles: int
    tiles_inferred: int
    tiles_empty: int
    bytes_read: int
    retries: int
    batch_sizes: BatchSizes | None = None
    files: Sequence[OutputFile] = ()


class Extra:
    """Hooks of a job, all of which do nothing here. One instance serves one product.

    Attributes
    ----------
    needs_probabilities : True asks the server for PROBABILITIES of every tile.
    stands_for_mask : True publishes its files after the mask: who finds them knows that the mask is there.
    """

    needs_probabilities = False
    stands_for_mask = False

    def file_names(self, job: MaskJob) -> Sequence[str]:  # noqa: ARG002 - a hook
        """Return the names of all files that `finish` will hand over: a run is only done where they are there."""
        return ()

    def disk_use(self, job: MaskJob) -> DiskUse:  # noqa: ARG002 - a hook
        """Return the most that it has on file systems at one time, whatever the network answers."""
        return DiskUse()

    async def begin(self, job: MaskJob) -> None:
        """Get ready; called once, before any tile."""

    async def add_tile(self, answer: TileAnswer) -> None:
        """See a tile's answer, in any order; tiles that meet the frame only, each once, several at a time."""

    async def add_block(self, block: Block) -> None:
        """See a finished block of the mask (as in the GeoTIFF)."""

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:  # noqa: ARG002 - a hook
        """Return the files to be published; called once, after the last tile."""
        return ()

    async def aclose(self) -> None:
        """Give back what is held (scratch files); called on success, failure and cancellation alike."""
