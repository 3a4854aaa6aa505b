"""The catalogue entry of a mask, as an extra of its job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.destinations import OutputFile, file_facts
from kappamask_stream.disk import FILE_BYTES, TEXT_BYTES, DiskUse
from kappamask_stream.extras import Extra
from kappamask_stream.stac.companions import companions_there
from kappamask_stream.stac.item import mask_item
from kappamask_stream.stac.model import model_file
from kappamask_stream.stac.vocabulary import COG, GEOJSON, encode
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.extras import FinishedMask, MaskJob


class StacExtra(Extra):
    """Writes ``<stem>.json``, the STAC Item of a mask.

    It must be the last of a job's extras, as it lists the files of all others, and those of earlier runs.
    """

    stands_for_mask = True

    def __init__(self) -> None:
        self._job: MaskJob | None = None

    def file_names(self, job: MaskJob) -> Sequence[str]:
        """Return the name of the Item."""
        return (f"{job.stem}.json",)

    def disk_use(self, job: MaskJob) -> DiskUse:  # noqa: ARG002 - the hook's
        """See `Extra.disk_use`."""
        return DiskUse(output=TEXT_BYTES + FILE_BYTES)

    async def begin(self, job: MaskJob) -> None:
        """Refuse a model whose name cannot be linked to before any work is done."""
        model_file(job.contract)
        self._job = job

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:
        """Return the Item."""
        job = self._job
        if job is None:
            raise RuntimeError("finish before begin")
        files = [OutputFile(name=f"{job.stem}.tif", content=mask.cog, media_type=COG), *mask.files]
        facts = [await file_facts(file, job.workers) for file in files]
        there = await companions_there(job, [file.name for file in files])
        item = await in_thread(job.workers, mask_item, job, mask.classes, [*facts, *there.known], there.unread)
        metadata = {"fingerprint": job.tags["FINGERPRINT"]}
        return [OutputFile(name=f"{job.stem}.json", content=[encode(item)], media_type=GEOJSON, metadata=metadata)]
