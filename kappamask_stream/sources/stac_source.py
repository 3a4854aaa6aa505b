"""The assets of a STAC Item as a product's files, wherever each of them lies."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from kappamask_stream.errors import ProductError
from kappamask_stream.names import checked_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from kappamask_stream.sources.blob import Blob
    from kappamask_stream.sources.stac_bands import BandAsset, Format, StacItem

#: Questions for the size of a file at once.
_ASKED_AT_ONCE = 16


class StacItemSource:
    """The bands of one format, and ESA's metadata where it is linked, under paths such as ``B02_10m.tif``.

    Parameters
    ----------
    item, form, bands : what the Item says; the bands are those that are listed.
    blobs : path -> the file, of the bands and of ``MTD_MSIL2A.xml`` and ``MTD_TL.xml``.

    State: sizes, once they are asked for.
    """

    def __init__(
        self,
        item: StacItem,
        form: Format,
        bands: Mapping[tuple[str, int], BandAsset],
        blobs: Mapping[str, Blob],
    ) -> None:
        self.label = item.where
        self.coalesce_bytes = max((blob.coalesce_bytes for blob in blobs.values()), default=0)
        self.item, self.form, self.bands = item, form, bands
        self._blobs = blobs
        self._files: Mapping[str, int] | None = None
        self._listing = asyncio.Lock()
        #: Path -> why the file is not listed.
        self._missing: dict[str, str] = {}

    def __repr__(self) -> str:
        listed = "not listed" if self._files is None else f"{len(self._files)} files"
        return f"<StacItemSource {self.label}, {self.form}, {listed}>"

    async def files(self) -> Mapping[str, int]:
        """See `Source.files`; assets that are not there are left out."""
        async with self._listing:
            if self._files is None:
                self._files = MappingProxyType(await self._sizes())
            return self._files

    async def read(self, path: str, start: int, length: int) -> bytes:
        """See `Source.read`."""
        return await self._blob(path).read(start, length)

    async def stream(self, path: str, start: int, length: int) -> AsyncGenerator[bytes]:
        """See `Source.stream`."""
        async with aclosing(cast("AsyncGenerator[bytes]", self._blob(path).stream(start, length))) as pieces:
            async for piece in pieces:
                yield piece

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """See `Source.read_all`."""
        blob = self._blob(path)
        size = await blob.size()
        if size > limit:
            raise ProductError(f"{blob.label} has {size} bytes, at most {limit} are read: it is not what its name says")
        return await blob.read(0, size)

    async def aclose(self) -> None:
        """See `Source.aclose`: connections are their stores'."""
        for blob in self._blobs.values():
            await blob.aclose()

    def _blob(self, path: str) -> Blob:
        inside = checked_path(path, said_by=f"asked of {self.label}")
        blob = self._blobs.get(inside)
        if blob is None or inside in self._missing:
            why = self._missing.get(inside, "the Item links no such file")
            raise ProductError(f"{self.label} has no {inside}: {why}")
        return blob

    async def _sizes(self) -> dict[str, int]:
        """Return path -> size: as the Item says, else as the files' servers do."""
        said = {path_of(asset): asset.nbytes for asset in self.bands.values()}
        limit = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def one(path: str, blob: Blob) -> tuple[str, int | None]:
            async with limit:
                try:
                    return path, said.get(path) or await blob.size()
                except ProductError as error:  # missed only if the model needs it
                    self._missing[path] = str(error)
                    return path, None

        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(one(path, blob)) for path, blob in self._blobs.items()]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        found = dict(task.result() for task in asked)
        return {path: size for path, size in found.items() if size is not None}


def path_of(asset: BandAsset) -> str:
    """Return the path that an asset has in its source."""
    return f"{asset.band}_{asset.gsd_m}m.{'tif' if asset.format == 'cog' else 'jp2'}"
