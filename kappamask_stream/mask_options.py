"""What a user chooses about a mask: everything that its pixels and its file depend on, but for product and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from kappamask_stream.aoi import AreaOfInterest

Radiometry = Literal["corrected", "km_predict"]
MosaicKind = Literal["crop", "blend"]
Compression = Literal["deflate", "zstd"]


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What a user chooses about the mask itself.

    Attributes
    ----------
    radiometry : ``corrected`` applies the offsets of the metadata; ``km_predict`` repeats km_predict's arithmetic.
    mosaic : ``crop`` keeps each tile's core; ``blend`` weighs the probabilities of overlapping tiles.
    compression : of the GeoTIFF's blocks.
    overwrite : True replaces a different mask under the same name.
    shared : True: other processes may write the same mask at the same time, from a source of their own. A mask of the
        product that stands with its STAC Item is left alone, whatever its fingerprint; anything else is replaced.
        Needs an Item among the files, and a folder that nothing else is written to.
    dilate : (class name, metres) by which classes are grown over others, in this order.
    aoi : area of interest; None masks the whole product.
    """

    radiometry: Radiometry = "corrected"
    mosaic: MosaicKind = "crop"
    compression: Compression = "deflate"
    overwrite: bool = False
    shared: bool = False
    dilate: tuple[tuple[str, float], ...] = ()
    aoi: AreaOfInterest | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises
        ------
        UsageError
            Naming what is allowed.
        """
        words = {"radiometry": Radiometry, "mosaic": MosaicKind, "compression": Compression}
        for name, allowed in words.items():
            if getattr(self, name) not in get_args(allowed):
                raise UsageError(f"{name} is {getattr(self, name)!r}: allowed is {' or '.join(get_args(allowed))}")
