"""Where a mask goes, what it is called, and whether it is already there."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kappamask_stream import __version__
from kappamask_stream.cog import read_fingerprint
from kappamask_stream.errors import OutputError
from kappamask_stream.names import mask_name

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.product import Product

Radiometry = Literal["corrected", "km_predict"]
MosaicKind = Literal["crop", "blend"]


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What a user chooses about the mask itself.

    Attributes
    ----------
    radiometry : ``corrected`` applies the offsets of the metadata; ``km_predict`` repeats km_predict's arithmetic.
    mosaic : ``crop`` keeps each tile's core; ``blend`` weighs the probabilities of overlapping tiles.
    compression : of the GeoTIFF's blocks.
    overwrite : True replaces a different mask under the same name.
    """

    radiometry: Radiometry = "corrected"
    mosaic: MosaicKind = "crop"
    compression: Literal["deflate", "zstd"] = "deflate"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """The files of one mask.

    Attributes
    ----------
    mask, quicklook : paths of the GeoTIFF and the PNG.
    fingerprint : SHA-256 over everything that decides the mask's pixels.
    tags : provenance for the GeoTIFF's metadata.
    """

    mask: Path
    quicklook: Path
    fingerprint: str
    tags: dict[str, str]

    @classmethod
    def of(cls, product: Product, contract: ModelContract, options: MaskOptions, folder: Path) -> OutputPlan:
        """Name the files ``folder/<product>/<level>_<tile>_<sensing>_<suffix>_<gsd>m.tif|png``."""
        stem = mask_name(product, contract.suffix, contract.gsd_m)
        ingredients = {
            "product": product.name,
            "product_metadata_sha256": product.metadata_sha256,
            "model": contract.name,
            "weights_sha256": contract.weights_sha256,
            "contract_sha256": contract.sha256(),
            "radiometry": options.radiometry,
            "mosaic": options.mosaic,
        }
        fingerprint = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
        tags = {
            **{name.upper(): value for name, value in ingredients.items()},
            "PROCESSING_BASELINE": product.baseline,
            "FINGERPRINT": fingerprint,
            "WEIGHTS_SOURCE": contract.weights_source,
            "TIFFTAG_SOFTWARE": f"kappamask-stream {__version__}",
        }
        target = folder / product.name
        return cls(mask=target / f"{stem}.tif", quicklook=target / f"{stem}.png", fingerprint=fingerprint, tags=tags)

    def is_done(self, options: MaskOptions) -> bool:
        """Tell whether the mask is there already, valid and with this fingerprint.

        Raises
        ------
        OutputError
            If another mask has the name and `options.overwrite` is False.
        """
        if not self.mask.exists():
            return False
        found = read_fingerprint(self.mask)
        if found == self.fingerprint:
            return True
        if options.overwrite:
            return False
        what = f"a mask of another origin (fingerprint {found[:12]}…)" if found else "a file that is no mask of ours"
        raise OutputError(
            f"{self.mask} is {what}; this run would write fingerprint {self.fingerprint[:12]}…: "
            "give another --output or --overwrite"
        )

    def prepare(self) -> None:
        """Make the product's folder now, so that a wrong place is found before any work is done.

        Raises
        ------
        OutputError
            If the folder cannot be made or written to.
        """
        folder = self.mask.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the output folder {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write to the output folder {folder}: permission denied")

    def discard_folder(self) -> None:
        """Remove the product's folder where nothing was written to it."""
        with suppress(OSError):
            self.mask.parent.rmdir()
