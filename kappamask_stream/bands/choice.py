"""Which file each band of a model is read from, where a product has it at another resolution. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kappamask_stream.bands.cog import CogIndex
from kappamask_stream.bands.resampled import AveragedIndex, ReplicatedIndex
from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.bands.types import BandIndex
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.sources import Source


class HasBands(Protocol):
    """What is asked of a `Product`."""

    @property
    def source(self) -> Source: ...  # noqa: D102 - as `Product`

    @property
    def files(self) -> Mapping[tuple[str, int], str]: ...  # noqa: D102

    @property
    def listing(self) -> Mapping[str, int]: ...  # noqa: D102

    def band_path(self, band: str, gsd_m: int) -> str: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class BandFile:
    """The file that a band of a model is read from.

    Attributes
    ----------
    path : in the product's source.
    gsd_m : of the file, metres; where it is not the contract's, the band is resampled.
    is_reduced : True where the contract asks for the file at half its resolution (`BandGroup.file_gsd_m`).
    """

    path: str
    gsd_m: int
    is_reduced: bool = False


def choose_files(product: HasBands, contract: ModelContract, *, allow_coarser: bool) -> dict[tuple[str, int], BandFile]:
    """Return (band, ground sampling distance of the contract) -> the file to read.

    A band that the contract wants of finer files at half resolution is read from those and no others. Elsewhere, one
    that the product has only finer is averaged. One that it has only coarser is replicated where that is
    allowed: the network then sees blocks where it was trained on detail.

    Raises
    ------
    ProductError
        If a band is missing, or is there only coarser and that is not allowed; says both resolutions.
    """
    chosen = {}
    for group in contract.inputs:
        for band in group.bands:
            if group.file_gsd_m is None:
                file = _choose(product, contract, band, group.gsd_m, allow_coarser)
            else:
                path = product.band_path(band, group.file_gsd_m)
                file = BandFile(path=path, gsd_m=group.file_gsd_m, is_reduced=True)
            chosen[band, group.gsd_m] = file
    return chosen


def _choose(product: HasBands, contract: ModelContract, band: str, gsd_m: int, allow_coarser: bool) -> BandFile:  # noqa: FBT001 - private
    there = {gsd: path for (name, gsd), path in product.files.items() if name == band and path in product.listing}
    if gsd_m in there:
        return BandFile(path=there[gsd_m], gsd_m=gsd_m)
    # What the metadata lists and is not there was lost: nothing is put in its place without being asked to.
    is_lost = (band, gsd_m) in product.files
    finer = [gsd for gsd in there if gsd < gsd_m and gsd_m % gsd == 0]
    if finer and not is_lost:
        return BandFile(path=there[max(finer)], gsd_m=max(finer))
    coarser = [gsd for gsd in there if gsd > gsd_m and gsd % gsd_m == 0]
    if not coarser or (is_lost and not allow_coarser):
        return BandFile(path=product.band_path(band, gsd_m), gsd_m=gsd_m)  # raises
    if not allow_coarser:
        raise ProductError(
            f"{product.source.label} has {band} at {min(coarser)} m only, {contract.name} needs it at {gsd_m} m: "
            "take the product from a source that has it finer, or give --allow-coarser, which replicates its pixels"
        )
    return BandFile(path=there[min(coarser)], gsd_m=min(coarser))


def require_place(where: str, path: str, index: BandIndex, *, epsg: int, ulx: float, uly: float) -> None:
    """Refuse a file of another place; a file that does not say where it lies (JPEG 2000 here) is not asked.

    Parameters
    ----------
    where : the product, for the message.
    epsg, ulx, uly : projection and upper-left corner, metres, as the product's metadata says them.

    Raises
    ------
    ProductError
        If the file lies elsewhere.
    """
    found = index.georeference if isinstance(index, CogIndex) else None
    if found is not None and (found.ulx, found.uly, found.epsg or epsg) != (ulx, uly, epsg):
        raise ProductError(
            f"{where}: {path} lies at {found.ulx:g}, {found.uly:g} (EPSG {found.epsg}), the metadata says "
            f"{ulx:g}, {uly:g} (EPSG {epsg}): they are of two products"
        )


def fitted(index: BandIndex, band_file: BandFile, gsd_m: int) -> BandIndex:
    """Return a file's index at the contract's resolution.

    Raises
    ------
    ProductError
        If the file's pieces do not hold whole pixels of that resolution.
    """
    if band_file.gsd_m > gsd_m:
        return ReplicatedIndex(index, band_file.gsd_m // gsd_m)
    if band_file.gsd_m < gsd_m:
        return AveragedIndex(index, gsd_m // band_file.gsd_m)
    return index


def provenance(files: Mapping[tuple[str, int], BandFile]) -> tuple[str, ...]:
    """Say for people, and for the mask's tags, which bands are not what the file holds; empty where all are."""
    return tuple(_said(band, gsd_m, file) for (band, gsd_m), file in files.items() if file.gsd_m != gsd_m)


def _said(band: str, gsd_m: int, file: BandFile) -> str:
    if file.is_reduced:
        return f"{band} is read at half the resolution of its {file.gsd_m} m file, as the model asks"
    return f"{band} is read at {file.gsd_m} m and {'replicated' if file.gsd_m > gsd_m else 'averaged'} to {gsd_m} m"
