"""Before the first pixel: which tiles a mask takes, what of the files that means, where the mask lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.bands import CogIndex, choose_files, fitted, require_place
from kappamask_stream.blend import BlendMosaic
from kappamask_stream.dilation import growths
from kappamask_stream.errors import ProductError
from kappamask_stream.extent import require_size, size_at
from kappamask_stream.frame import MaskFrame
from kappamask_stream.grid import TileGrid, Window
from kappamask_stream.jp2 import CodestreamIndex, DecodePlan, ReducedBand, bands_of, index_bands, wanted_tiles
from kappamask_stream.jp2.account import USUAL_BYTES
from kappamask_stream.mosaic import CropMosaic
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kappamask_stream.aoi import ProductArea
    from kappamask_stream.bands import BandFile, BandIndex
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.dilation import Growth
    from kappamask_stream.grid import Tile
    from kappamask_stream.jp2 import IndexCost, TileGeometry
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.product import Product
    from kappamask_stream.settings import Settings

_MB = 1024 * 1024
#: Of a sample of a picture for the eye; bands have 15, or 16.
_PICTURE_BITS = 8


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What of a product is masked, tile by tile.

    Attributes
    ----------
    grid : over the whole image: an area of interest does not move tiles, so its mask is a part of the whole one.
    frame : of the mask.
    work : what the mosaic shows: the frame, and around it what classes can grow into it from.
    area : of interest; None where all is masked.
    read : tiles that are read and inferred, in the order of the grid.
    unread : tiles that the mosaic shows and that nothing of the mask depends on.
    mosaic : empty, and waits for `read` and `unread`.
    growths : classes that are grown.
    """

    grid: TileGrid
    frame: MaskFrame
    work: MaskFrame
    area: ProductArea | None
    read: tuple[Tile, ...]
    unread: tuple[Tile, ...]
    mosaic: CropMosaic | BlendMosaic
    growths: tuple[Growth, ...]

    @classmethod
    def of(cls, product: Product, contract: ModelContract, options: MaskOptions) -> Layout:
        """Lay the contract's tiles over a product and choose those that the options ask for.

        Raises
        ------
        ProductError
            If the metadata gives no size at the contract's resolution.
        UsageError
            If the area of interest misses the product, or the contract has no such class to grow.
        """
        height, width = mask_size(product, contract)
        grid, gsd_m, area = TileGrid.of(contract, height, width), contract.gsd_m, None
        growing = growths(options.dilate, contract)
        reach = max((growth.reach for growth in growing), default=0)
        window = image = Window(0, 0, height, width)
        if options.aoi is not None:
            area = options.aoi.on_product(
                name=product.name,
                epsg=product.epsg,
                ulx=product.ulx,
                uly=product.uly,
                height=height,
                width=width,
                gsd_m=gsd_m,
            )
            window = area.window
        around = Window(window.row - reach, window.col - reach, window.height + 2 * reach, window.width + 2 * reach)
        work = around.intersection(image)
        mosaic = _mosaic(options, contract, grid, work)
        needed = area if area is None or not reach else area.grown(reach * gsd_m)
        read: list[Tile] = []
        unread: list[Tile] = []
        for tile in grid:
            share = mosaic.share(tile)
            if share is not None:
                (read if needed is None or needed.meets(share) else unread).append(tile)
        return cls(
            grid=grid,
            frame=_frame(product, window, gsd_m),
            work=_frame(product, work, gsd_m),
            area=area,
            read=tuple(read),
            unread=tuple(unread),
            mosaic=mosaic,
            growths=growing,
        )

    def shows(self, tile: Tile) -> bool:
        """Tell whether a tile has a say in the mask itself, not only in what grows into it."""
        share = self.mosaic.share(tile)
        return share is not None and not share.intersection(self.frame.window).is_empty


async def plan_decoding(
    product: Product,
    contract: ModelContract,
    tiles: Iterable[Tile],
    *,
    partly: bool = False,
    cost: IndexCost | None = None,
    most_bytes: int | None = None,
) -> DecodePlan:
    """Index every file of a model's bands and plan what is decoded when.

    Parameters
    ----------
    tiles : of the grid, in the order in which they are cut.
    partly : True looks for the codestream tiles that `tiles` need only; False follows each file to its end, which
        shows that all of it is there.
    cost : what indexing reads is added here.
    most_bytes : that what is kept of all pieces of the files may take (`bookkeeping_bytes`). None: no limit.

    Raises
    ------
    InputError
        If a band is missing, damaged, or of another size than the metadata says, or they are cut into too many pieces.
    """
    tiles = tuple(tiles)
    groups = {(b, g.gsd_m): g for g in contract.inputs for b in g.bands}
    files = choose_files(product, contract, allow_coarser=product.allow_coarser)
    paths = {key: file.path for key, file in files.items()}
    wanted = None
    if partly:
        needed = wanted_tiles([(paths[key], group) for key, group in groups.items()], tiles)
        # A band that is resampled is looked for as a whole: its file's tiles are not those of the grid.
        resampled = {file.path for (_, gsd_m), file in files.items() if file.gsd_m != gsd_m}

        def wanted(path: str, geometry: TileGeometry) -> Iterable[int]:
            if path in resampled:
                return geometry.covering(Window(0, 0, geometry.height, geometry.width))
            return needed(path, geometry)

    opened = await index_bands(product.source, list(paths.values()), wanted=wanted, cost=cost, most_bytes=most_bytes)
    for path, index in opened.items():
        require_place(product.source.label, path, index, epsg=product.epsg, ulx=product.ulx, uly=product.uly)
    indexes = {key: _at(key[1], opened[file.path], file) for key, file in files.items()}
    for (band, gsd_m), path in paths.items():
        require_size(product, path, band, gsd_m, indexes[band, gsd_m])
        _require_depth(product, path, band, opened[path])
    bands = bands_of(contract, indexes, paths)
    return await in_thread(None, DecodePlan.of, bands, tiles)  # 0.1 s for a full product


def _require_depth(product: Product, path: str, band: str, index: BandIndex) -> None:
    """Refuse reflectances of 8 bits: a picture of the band, not the band."""
    bits = index.bits if isinstance(index, CogIndex) else None
    if isinstance(index, CodestreamIndex):
        bits = index.bit_depth
    if bits is not None and bits <= _PICTURE_BITS and band.startswith("B"):
        raise ProductError(
            f"{path} of {product.name} has samples of {bits} bits, reflectances have 15: it is a picture of {band} and "
            "not the band, fetch the product again"
        )


def _at(gsd_m: int, index: BandIndex, file: BandFile) -> BandIndex:
    """Return a file's index at the contract's resolution, made of it in the way that the contract says."""
    return ReducedBand(index) if file.is_reduced else fitted(index, file, gsd_m)


def mask_size(product: Product, contract: ModelContract) -> tuple[int, int]:
    """Return rows and columns of the whole mask: the product's size at the contract's resolution.

    Raises
    ------
    ProductError
        If the metadata gives no size for it, or one that no Sentinel-2 tile has.
    """
    if contract.gsd_m not in product.sizes:
        raise ProductError(
            f"the metadata of {product.name} gives sizes for {sorted(product.sizes)} m, "
            f"the model {contract.name} makes masks of {contract.gsd_m} m"
        )
    return size_at(product, contract.gsd_m)


def bookkeeping_bytes(settings: Settings) -> int:
    """Return the bytes that may be kept of the pieces of one product's files: its share of the budget.

    They are taken before the budget is waited for, by as many products as are in work at once.
    """
    return settings.memory_budget_bytes // settings.products_at_once


def reservation(plan: DecodePlan, settings: Settings) -> int:
    """Return the bytes that a product's decoded pixels, and what is kept of their pieces, may take.

    All of them if they fit into its share of the budget.

    What a product needs at least it gets, even beyond its share: then it waits until the others leave that much.

    Raises
    ------
    ProductError
        If that is beyond the whole budget because of how one of its files is laid out: with ESA's, which do not count a
        decoder's own memory, it would be for the settings to be changed, and other products fail as well.
    """
    if plan.required_bytes > settings.memory_budget_bytes and (layout := _greedy_layout(plan)) is not None:
        needed = -(-plan.required_bytes // _MB)
        raise ProductError(
            f"{layout} that decoding needs {needed} MB, the budget is {settings.memory_budget_mb} MB: fetch the "
            f"product again, or raise the budget (--memory-budget-mb {needed}) where the file is meant to be so"
        )
    share = settings.memory_budget_bytes // settings.products_at_once
    return max(plan.required_bytes, min(plan.kept_bytes + sum(unit.nbytes for unit in plan.units), share))


def _greedy_layout(plan: DecodePlan) -> str | None:
    """Say which file is laid out as no product's are, and how; None where they take no more than is usual."""
    largest = max(plan.units, key=lambda unit: unit.work_bytes, default=None)
    if largest is not None and largest.work_bytes:
        return f"{plan.bands[largest.band].index.name} is laid out in pieces so large"
    if plan.kept_bytes > USUAL_BYTES:
        finest = max((band.index for band in plan.bands), key=lambda index: len(index.tiles))
        return f"{finest.name} is laid out in {len(finest.tiles)} pieces, so many"
    return None


def _frame(product: Product, window: Window, gsd_m: int) -> MaskFrame:
    return MaskFrame(
        window=window,
        ulx=product.ulx + window.col * gsd_m,
        uly=product.uly - window.row * gsd_m,
        gsd_m=gsd_m,
        epsg=product.epsg,
    )


def _mosaic(options: MaskOptions, contract: ModelContract, grid: TileGrid, window: Window) -> CropMosaic | BlendMosaic:
    if options.mosaic == "blend":
        return BlendMosaic(grid, class_values=contract.probability_classes, nodata=contract.nodata_class, frame=window)
    return CropMosaic(grid, nodata=contract.nodata_class, frame=window)
