"""The report of a mask, as an extra of its job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.destinations import OutputFile, file_facts
from kappamask_stream.disk import DiskUse
from kappamask_stream.extras import Extra
from kappamask_stream.report.confidence import Confidence
from kappamask_stream.report.rendering import most_page_bytes, render_page
from kappamask_stream.report.scene import ScenePicture
from kappamask_stream.stac.vocabulary import COG
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.extras import FinishedMask, MaskJob, TileAnswer

_HTML = "text/html; charset=utf-8"


class ReportExtra(Extra):
    """Writes ``<stem>.html``: one page that needs no other file and no network.

    It comes after the extras whose files it is to list. Holds a picture of the scene (7 MB at most) and counts.
    """

    needs_probabilities = True

    def __init__(self) -> None:
        self._parts: tuple[MaskJob, ScenePicture, Confidence] | None = None
        self._one_at_a_time = asyncio.Lock()

    def file_names(self, job: MaskJob) -> Sequence[str]:
        """Return the name of the page."""
        return (f"{job.stem}.html",)

    def disk_use(self, job: MaskJob) -> DiskUse:  # noqa: ARG002 - the hook's
        """See `Extra.disk_use`."""
        return DiskUse(output=most_page_bytes())

    async def begin(self, job: MaskJob) -> None:
        """Make room for the picture."""
        self._parts = (job, ScenePicture(job.contract, job.frame), Confidence(job.contract, job.frame))

    async def add_tile(self, answer: TileAnswer) -> None:
        """Sample the tile's pixels and count its probabilities."""
        job, scene, confidence = self._begun()
        if answer.labels is None and not answer.tensors:
            return
        async with self._one_at_a_time:
            await in_thread(job.workers, _take, scene, confidence, answer)

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:
        """Return the page."""
        job, scene, confidence = self._begun()
        files = [OutputFile(name=f"{job.stem}.tif", content=mask.cog, media_type=COG), *mask.files]
        facts = [await file_facts(file, job.workers) for file in files]
        page = await in_thread(job.workers, render_page, job, mask, scene, confidence, facts)
        metadata = {"fingerprint": job.tags["FINGERPRINT"]}
        return [OutputFile(name=f"{job.stem}.html", content=[page], media_type=_HTML, metadata=metadata)]

    async def aclose(self) -> None:
        """Give the picture's memory back."""
        self._parts = None

    def _begun(self) -> tuple[MaskJob, ScenePicture, Confidence]:
        if self._parts is None:
            raise RuntimeError("a report was given tiles before it was begun")
        return self._parts


def _take(scene: ScenePicture, confidence: Confidence, answer: TileAnswer) -> None:
    scene.add(answer)
    confidence.add(answer)
