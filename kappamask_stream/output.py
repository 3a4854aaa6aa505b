"""Where a mask goes, what its files are called, and whether they are already there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rasterio.errors import RasterioError

from kappamask_stream import __version__
from kappamask_stream.cog import MOST_QUICKLOOK_PIXELS, most_bytes, read_quicklook_pixels
from kappamask_stream.destinations.sets import publish_beside_others, standing_item
from kappamask_stream.destinations.types import OutputFile
from kappamask_stream.disk import FILE_BYTES, DiskUse
from kappamask_stream.errors import OutputError
from kappamask_stream.names import mask_name
from kappamask_stream.png import most_png_bytes
from kappamask_stream.quicklook import encode_quicklook
from kappamask_stream.recipe import digest, offsets_text, recipe
from kappamask_stream.threads import in_thread
from kappamask_stream.tile_pictures import TileList, list_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.cog import FoundMask
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination
    from kappamask_stream.extras import MaskJob
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.product import Product

#: Media types of what is published (RFC 2046, RFC 9837's ``profile``, OGC 19-008).
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PNG_TYPE = "image/png"
TEXT_TYPE = "text/plain"
JSON_TYPE = "application/json"

#: What follows a mask's stem in the names of all files that can be made with it, but for the mask itself.
COMPANIONS = ("_quicklook.png", ".png", ".pgw", "_probabilities.tif", "_subtiles.json", ".html", ".json")


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
    overwrite, shared : see `MaskOptions`.
    """

    destination: Destination
    stem: str
    fingerprint: str
    tags: Mapping[str, str] = field(repr=False)
    colours: Mapping[int, tuple[int, ...]] = field(repr=False)
    overwrite: bool = False
    shared: bool = False

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
            **recipe(contract, options),
            **({"resampled": "; ".join(resampled)} if resampled else {}),
        }
        fingerprint = digest(ingredients)
        tags = {
            **{name.upper(): value for name, value in ingredients.items()},
            "PROCESSING_BASELINE": product.baseline,
            "OFFSETS_DN": offsets_text(product, contract, options),
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
            overwrite=options.overwrite,
            shared=options.shared,
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
    def possible(self) -> list[str]:
        """Names of all files that can be made with the mask, and its own."""
        return [self.mask, *(self.stem + companion for companion in COMPANIONS)]

    @property
    def href(self) -> str:
        """Path or URL of the GeoTIFF."""
        return self.destination.href(self.mask)

    def disk_use(self, job: MaskJob) -> DiskUse:
        """Return the most that the mask and its quicklook take; blocks are kept in memory until then."""
        _, mask = most_bytes(job.cog_spec)
        quicklook = most_png_bytes(MOST_QUICKLOOK_PIXELS, MOST_QUICKLOOK_PIXELS, 3)
        return DiskUse(output=mask + quicklook + 3 * FILE_BYTES)

    def mask_file(self, cog: Sequence[bytes]) -> OutputFile:
        """Return the GeoTIFF as it is to be published."""
        return OutputFile(name=self.mask, content=cog, media_type=COG_TYPE, metadata={"fingerprint": self.fingerprint})

    def quicklook_file(self, pixels: NDArray[np.uint8]) -> OutputFile:
        """Draw the quicklook; `pixels` is uint8 ``[height, width]``, class values."""
        picture = encode_quicklook(pixels, self.colours)
        return OutputFile(
            name=self.quicklook, content=[picture], media_type=PNG_TYPE, metadata={"fingerprint": self.fingerprint}
        )

    async def tidy(self, names: Sequence[str] = ()) -> None:
        """Undo what killed runs had begun, and remove what they left: see `Destination.tidy`.

        The mask comes back first, its Item, which lists the others, last.

        Parameters
        ----------
        names : of files that are made beside the possible ones.
        """
        item = f"{self.stem}.json"
        others = [name for name in dict.fromkeys([*self.possible, *names]) if name != item]
        await self.destination.tidy([*others, item])

    async def is_done(self, options: MaskOptions, names: Sequence[str] = ()) -> bool:
        """Tell whether the mask is there already, whole and with this fingerprint, and so are all files of `names`.

        A lost quicklook is drawn again. A cut or damaged copy of this very mask is not done, and is replaced without
        being asked. Files that lie beside this very mask and say that they are another's go: whoever replaced it was
        killed before removing them.

        Raises
        ------
        OutputError
            If something else has the mask's name and `options.overwrite` is False, or it cannot be looked at.
        """
        if self.shared:
            return await self._stands()
        found = await self.destination.inspect(self.mask)
        if found is None:
            return False
        if found.fingerprint == self.fingerprint:
            wanted = list(dict.fromkeys([self.quicklook, *names]))
            await self._remove_foreign([name for name in self.possible[1:] if name not in wanted])
            return found.is_whole and await self._has_all(wanted)
        if options.overwrite:
            return False
        raise self._taken(found)

    async def publish(self, files: Sequence[OutputFile]) -> bool:
        """Publish all files in the order given; False where a mask that is shared was finished by another meanwhile.

        Where a different mask has the name, what was made with it and is not made anew goes when the new files are
        there: the files of one stem belong to one mask.

        Raises
        ------
        OutputError
            See `Destination.publish`; or if something else has come to lie under the mask's name since `is_done`, and
            `overwrite` is False.
        OutputUnavailableError
            If others keep writing a mask that is shared.
        """
        if self.shared:
            return await publish_beside_others(
                self.destination, files, stands=self._stands, stale=lambda: self._worthless(files)
            )
        found = await self.destination.inspect(self.mask)
        if found is not None and found.fingerprint != self.fingerprint and not self.overwrite:
            raise self._taken(found)
        await self.destination.publish(files, stale=await self._stale(found, files))
        return True

    async def _stands(self) -> bool:
        product = self.tags["PRODUCT"]
        return await standing_item(self.destination, f"{self.stem}.json", product) is not None

    async def _worthless(self, files: Sequence[OutputFile]) -> Sequence[str]:
        return await self._stale(await self.destination.inspect(self.mask), files)

    def _taken(self, found: FoundMask) -> OutputError:
        what = "no mask of ours, or damaged (no fingerprint)"
        if found.fingerprint is not None:
            what = f"a mask of another origin (fingerprint {found.fingerprint[:12]}…)"
        return OutputError(
            f"{self.href} is {what}; this run would write fingerprint {self.fingerprint[:12]}…: "
            "give another --output or --overwrite"
        )

    async def _stale(self, found: FoundMask | None, files: Sequence[OutputFile]) -> list[str]:
        """Return names of files that belong to another mask than this one.

        In an order in which they can be taken away, and the process be killed at any time: its Item first, which lists
        the others; the mask last, which tells the next run that there are others. Tiles' own masks that this run has
        written are none of them.
        """
        replaced = found is not None and found.fingerprint != self.fingerprint
        companions = [self.stem + companion for companion in reversed(COMPANIONS)] if replaced else []
        pictures: list[str] = []
        keep: set[str] = set()
        listed = await read_tile_list(self.destination, self.stem)
        if listed is not None and listed.fingerprint != self.fingerprint:
            pictures = [*listed.files, listed.name]
            for file in files:
                if file.name == listed.name and not isinstance(file.content, Path):
                    keep = {file.name, *TileList.read(self.stem, b"".join(file.content)).files}
        stale = [*companions[:1], *pictures, *companions[1:], *([self.mask] if replaced else [])]
        return [name for name in dict.fromkeys(stale) if name not in keep]

    async def _remove_foreign(self, names: Sequence[str]) -> None:
        foreign = await self.destination.foreign(names, fingerprint=self.fingerprint)
        if list_name(self.stem) in foreign:
            listed = await read_tile_list(self.destination, self.stem)
            await self.destination.remove([] if listed is None else listed.files)  # before who knows their names
        await self.destination.remove(foreign)

    async def _has_all(self, wanted: Sequence[str]) -> bool:
        missing = await self.destination.missing(wanted, fingerprint=self.fingerprint)
        if set(missing) - {self.quicklook}:
            return False
        if list_name(self.stem) in wanted:
            listed = await read_tile_list(self.destination, self.stem)
            if listed is None or listed.fingerprint != self.fingerprint:
                return False
        if not missing:
            return True
        mask = await self.destination.read(self.mask)
        try:
            pixels, _ = await in_thread(None, read_quicklook_pixels, mask)
        except RasterioError:
            return False
        await self.destination.publish([await in_thread(None, self.quicklook_file, pixels)])
        return True


async def read_tile_list(destination: Destination, stem: str) -> TileList | None:
    """Return the list of tiles' own masks that lies there; None where there is none.

    Raises
    ------
    OutputError
        If it cannot be read.
    """
    name = list_name(stem)
    if await destination.missing([name]):
        return None
    return TileList.read(stem, await destination.read(name))
