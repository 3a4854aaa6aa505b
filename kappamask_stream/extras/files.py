"""Files that belong to a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.destinations import OutputFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.extras.types import MaskJob


def file_of(job: MaskJob, name: str, content: Sequence[bytes] | Path, media_type: str) -> OutputFile:
    """Return a file to be published that carries the mask's fingerprint where the destination keeps metadata."""
    fingerprint = job.tags["FINGERPRINT"]
    return OutputFile(name=name, content=content, media_type=media_type, metadata={"fingerprint": fingerprint})
