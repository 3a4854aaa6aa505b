"""Files of a mask that earlier runs have made: its new Item lists them, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.destinations import OutputFile, file_facts
from kappamask_stream.output import COG_TYPE, COMPANIONS, JSON_TYPE, PNG_TYPE, TEXT_TYPE

if TYPE_CHECKING:
    from collections.abc import Collection

    from kappamask_stream.destinations import FileFacts
    from kappamask_stream.extras import MaskJob

_ITEM = ".json"
#: Up to 200 MB: not read for a checksum.
_LARGE = "_probabilities.tif"
_REPORT = ".html"
_MEDIA_TYPES = {
    "png": PNG_TYPE,
    "pgw": TEXT_TYPE,
    "json": JSON_TYPE,
    "tif": COG_TYPE,
    "html": "text/html; charset=utf-8",
}


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What lies beside a mask.

    Attributes
    ----------
    known : files that were read.
    unread : name -> media type of those whose size and checksum are not told.
    """

    known: list[FileFacts] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)


async def companions_there(job: MaskJob, made: Collection[str]) -> Companions:
    """Find files of this very mask that this run does not make.

    Parameters
    ----------
    made : names of the files that it makes.

    Raises
    ------
    OutputError
        If they cannot be looked at.
    """
    found, there = Companions(), await job.destination.inspect(f"{job.stem}.tif")
    if there is None or there.fingerprint != job.tags["FINGERPRINT"]:
        return found
    names = [job.stem + end for end in COMPANIONS if end != _ITEM]
    names = [name for name in names if name not in made]
    missing = set(await job.destination.missing(names, fingerprint=there.fingerprint))
    for name in names:
        if name in missing:
            continue
        media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
        if name.endswith((_LARGE, _REPORT)):
            found.unread[name] = media_type
            continue
        content = [await job.destination.read(name)]
        found.known.append(await file_facts(OutputFile(name=name, content=content, media_type=media_type), job.workers))
    return found
