"""Where a mask goes, what it is called, and whether it is already there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rasterio.errors import RasterioError

from kappamask_stream import __version__
from kappamask_stream.atomic import output_error, remove_stale, write_atomically
from kappamask_stream.cog import inspect_mask, read_quicklook_pixels
from kappamask_stream.errors import OutputError
from kappamask_stream.names import mask_name
from kappamask_stream.quicklook import encode_quicklook

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
            # How many instances a server runs, and its batches, are the operator's business: the mask is the same.
            "contract_sha256": replace(contract, max_batch=1, instances=1).sha256(),
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
        """Tell whether the mask is there already, whole and with this fingerprint; a lost quicklook is drawn again.

        A cut or damaged copy of this very mask is not done, and is replaced without being asked.

        Raises
        ------
        OutputError
            If something else has the name and `options.overwrite` is False, or it cannot be looked at.
        """
        try:
            if not self.mask.exists() or self.mask.is_dir():  # `prepare` speaks of a folder
                return False
            found = inspect_mask(self.mask)
        except OSError as error:
            raise OutputError(f"cannot look for {self.mask}: {error.strerror}") from error
        if found.fingerprint == self.fingerprint:
            return found.is_whole and self._has_quicklook()
        if options.overwrite:
            return False
        what = "no mask of ours, or damaged (no fingerprint)"
        if found.fingerprint is not None:
            what = f"a mask of another origin (fingerprint {found.fingerprint[:12]}…)"
        raise OutputError(
            f"{self.mask} is {what}; this run would write fingerprint {self.fingerprint[:12]}…: "
            "give another --output or --overwrite"
        )

    def _has_quicklook(self) -> bool:
        """Draw the quicklook from the mask's overview where it is gone; False if the mask does not allow it."""
        if self.quicklook.is_file():
            return True
        try:
            pixels, colours = read_quicklook_pixels(self.mask)
        except RasterioError:
            return False
        write_atomically([(self.quicklook, [encode_quicklook(pixels, colours)])])
        return True

    def prepare(self) -> None:
        """Make the product's folder and try it, so that a wrong place is found before any work is done.

        Temporary files of processes that were killed are removed.

        Raises
        ------
        OutputError
            If the folder cannot be made or written to, or a folder has the name of a file.
        """
        folder = self.mask.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Asking for permissions is not enough: a file system may be read-only, a quota may have ended.
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise output_error(folder, error) from error
        for path in (self.mask, self.quicklook):
            if path.is_dir():
                raise output_error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
            remove_stale(path)

    def discard_folder(self) -> None:
        """Remove the product's folder where nothing was written to it."""
        with suppress(OSError):
            self.mask.parent.rmdir()
