"""Where a mask goes, what its files are called, and whether they are already there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rasterio.errors import RasterioError

from kappamask_stream import __version__
from kappamask_stream.cog import read_quicklook_pixels
from kappamask_stream.destinations.types import OutputFile
from kappamask_stream.errors import OutputError
from kappamask_stream.names import mask_name
from kappamask_stream.quicklook import encode_quicklook
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.aoi import AreaOfInterest
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination
    from kappamask_stream.product import Product

Radiometry = Literal["corrected", "km_predict"]
MosaicKind = Literal["crop", "blend"]

#: Media types of what is published (RFC 2046, RFC 9837's ``profile``, OGC 19-008).
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PNG_TYPE = "image/png"
TEXT_TYPE = "text/plain"
JSON_TYPE = "application/json"

#: What follows a mask's stem in the names of all files that can be made with it, but for the mask itself.
COMPANIONS = ("_quicklook.png", ".png", ".pgw", "_probabilities.tif", "_subtiles.json", ".html", ".json")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What a user chooses about the mask itself.

    Attributes
    ----------
    radiometry : ``corrected`` applies the offsets of the metadata; ``km_predict`` repeats km_predict's arithmetic.
    mosaic : ``crop`` keeps each tile's core; ``blend`` weighs the probabilities of overlapping tiles.
    compression : of the GeoTIFF's blocks.
    overwrite : True replaces a different mask under the same name.
    dilate : (class name, metres) by which classes are grown over others, in this order.
    aoi : area of interest; None masks the whole product.
    """

    radiometry: Radiometry = "corrected"
    mosaic: MosaicKind = "crop"
    compression: Literal["deflate", "zstd"] = "deflate"
    overwrite: bool = False
    dilate: tuple[tuple[str, float], ...] = ()
    aoi: AreaOfInterest | None = None


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """The files of one mask.

    Attributes
    ----------
    destination : receives them.
    stem : their names without extension, ``L2A_T29UNU_20221005T115411_KZ_10m``.
    fingerprint : SHA-256 over everything that decides the mask's pixels.
    tags : provenance for the GeoTIFF's metadata.
    colours : 8-bit red, green, blue per class value.
    """

    destination: Destination
    stem: str
    fingerprint: str
    tags: Mapping[str, str] = field(repr=False)
    colours: Mapping[int, tuple[int, ...]] = field(repr=False)

    @classmethod
    def of(
        cls,
        product: Product,
        contract: ModelContract,
        options: MaskOptions,
        destination: Destination,
        *,
        resampled: Sequence[str] = (),
    ) -> OutputPlan:
        """Name the files and compute the fingerprint; `resampled` says which bands are not as the model asks."""
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
        # Only where they are set: the fingerprint of a plain mask stays what it was before there were these.
        if options.dilate:
            ingredients["dilate"] = ",".join(f"{name}={metres:g}" for name, metres in options.dilate)
        if options.aoi is not None:
            ingredients["aoi"] = options.aoi.identity
        if resampled:
            ingredients["resampled"] = "; ".join(resampled)
        fingerprint = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
        tags = {
            **{name.upper(): value for name, value in ingredients.items()},
            "PROCESSING_BASELINE": product.baseline,
            "FINGERPRINT": fingerprint,
            "WEIGHTS_SOURCE": contract.weights_source,
            "TIFFTAG_SOFTWARE": f"kappamask-stream {__version__}",
        }
        return cls(
            destination=destination,
            stem=mask_name(product, contract.suffix, contract.gsd_m),
            fingerprint=fingerprint,
            tags=tags,
            colours={c.value: c.colour for c in contract.classes},
        )

    @property
    def mask(self) -> str:
        """Name of the GeoTIFF."""
        return f"{self.stem}.tif"

    @property
    def quicklook(self) -> str:
        """Name of the picture for people."""
        return f"{self.stem}_quicklook.png"

    @property
    def href(self) -> str:
        """Path or URL of the GeoTIFF."""
        return self.destination.href(self.mask)

    def mask_file(self, cog: Sequence[bytes]) -> OutputFile:
        """Return the GeoTIFF as it is to be published."""
        return OutputFile(name=self.mask, content=cog, media_type=COG_TYPE, metadata={"fingerprint": self.fingerprint})

    def quicklook_file(self, pixels: NDArray[np.uint8]) -> OutputFile:
        """Draw the quicklook; `pixels` is uint8 ``[height, width]``, class values."""
        picture = encode_quicklook(pixels, self.colours)
        return OutputFile(
            name=self.quicklook, content=[picture], media_type=PNG_TYPE, metadata={"fingerprint": self.fingerprint}
        )

    async def is_done(self, options: MaskOptions, names: Sequence[str] = ()) -> bool:
        """Tell whether the mask is there already, whole and with this fingerprint, and so are all files of `names`.

        A lost quicklook is drawn again. A cut or damaged copy of this very mask is not done, and is replaced without
        being asked.

        Raises
        ------
        OutputError
            If something else has the mask's name and `options.overwrite` is False, or it cannot be looked at.
        """
        found = await self.destination.inspect(self.mask)
        if found is None:
            return False
        if found.fingerprint == self.fingerprint:
            return found.is_whole and await self._has_all(names)
        if options.overwrite:
            return False
        what = "no mask of ours, or damaged (no fingerprint)"
        if found.fingerprint is not None:
            what = f"a mask of another origin (fingerprint {found.fingerprint[:12]}…)"
        raise OutputError(
            f"{self.href} is {what}; this run would write fingerprint {self.fingerprint[:12]}…: "
            "give another --output or --overwrite"
        )

    async def publish(self, files: Sequence[OutputFile]) -> None:
        """Publish all files in the order given.

        Where a different mask has the name, what was made with it and is not made anew is removed first: the files of
        one stem belong to one mask.

        Raises
        ------
        OutputError
            See `Destination.publish`.
        """
        found = await self.destination.inspect(self.mask)
        if found is not None and found.fingerprint != self.fingerprint:
            given = {file.name for file in files}
            others = [self.stem + companion for companion in COMPANIONS]
            await self.destination.remove([name for name in others if name not in given])
        await self.destination.publish(files)

    async def _has_all(self, names: Sequence[str]) -> bool:
        missing = await self.destination.missing(list(dict.fromkeys([self.quicklook, *names])))
        if missing != [self.quicklook]:
            return not missing
        mask = await self.destination.read(self.mask)
        try:
            pixels, _ = await in_thread(None, read_quicklook_pixels, mask)
        except RasterioError:
            return False
        await self.destination.publish([await in_thread(None, self.quicklook_file, pixels)])
        return True
