"""Fetching published weights into the cache: once, whole, recorded; a later difference is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kappamask_stream.errors import InputError, OutputError, UsageError
from kappamask_stream.threads import in_thread
from kappamask_stream.weights.cache import Record, file_sha256
from kappamask_stream.weights.catalogue import of_model
from kappamask_stream.weights.download import Patience, download, shown_url
from kappamask_stream.weights.part import held_part, is_being_fetched, part_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.weights.cache import WeightsCache
    from kappamask_stream.weights.catalogue import PublishedWeights
    from kappamask_stream.weights.download import OnProgress
    from kappamask_stream.weights.part import PartFile


def _silent(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of one file.

    Attributes
    ----------
    path : in the cache.
    record : what it is.
    status : ``fetched``, or ``there`` already.
    warning : where its sum is not the one known of an earlier revision.
    """

    path: Path
    record: Record
    status: Literal["fetched", "there"]
    warning: str | None = None


async def fetch(
    published: PublishedWeights,
    cache: WeightsCache,
    base_url: str,
    *,
    replace: bool = False,
    on_progress: OnProgress = _silent,
    say: Callable[[str], None] = _silent,
    patience: Patience | None = None,
) -> Fetched:
    """Have published weights in the cache; nothing is downloaded where the file is there and as recorded.

    A file that differs from its record is fetched again. Cancelling keeps what has arrived, for the next call.

    Parameters
    ----------
    base_url : folder of the files, ``http://`` or ``https://``.
    replace : fetch anew whatever is there, and take it even if it differs from the record.
    on_progress : told bytes done and in all, on the event loop.
    say : told in words what is out of the ordinary.

    Raises
    ------
    InputError
        If the file cannot be had, is no whole HDF5 file, or is another one than was recorded.
    OutputError
        If the cache cannot be written.
    """
    url, path = f"{base_url.rstrip('/')}/{published.file_name}", cache.path(published)
    async with held_part(path, say) as part:
        known = None if replace else cache.record(published)
        if not replace and (there := await _if_sound(published, cache, known, say)) is not None:
            return there
        pin = await download(url, part, on_progress, patience or Patience())
        found = await part.sha256()
        if known is not None and found != known.sha256:
            part.discard()
            raise InputError(
                f"{shown_url(url)} has the sha256 {found}, {cache.record_path(published)} says {known.sha256}: it is "
                f"another file than before, and was not taken; `kappamask-stream models fetch {published.model} "
                "--replace` takes it"
            )
        record = Record(sha256=found, bytes=part.size, url=pin.url, etag=pin.etag)
        await in_thread(None, _keep, part, cache, published, record)
        return Fetched(path=path, record=record, status="fetched", warning=_warning(published, record))


def remove_fetched(model: str, cache: WeightsCache) -> list[Path]:
    """Remove a model's fetched weights, their record and what an interrupted fetch has left; returns what there was.

    Raises
    ------
    UsageError
        If they are being fetched now.
    OutputError
        If a file cannot be removed.
    """
    published = of_model(model)
    if published is None:
        return []
    path = cache.path(published)
    if is_being_fetched(path):
        raise UsageError(f"{path} is being fetched by another process: end it first, or let it end")
    removed = []
    for found in (path, cache.record_path(published), *part_files(path)):
        try:
            found.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"cannot remove {found}: {error.strerror}") from error
        removed.append(found)
    return removed


async def _if_sound(
    published: PublishedWeights, cache: WeightsCache, known: Record | None, say: Callable[[str], None]
) -> Fetched | None:
    """Return what is there; None where nothing is, or something else than was recorded."""
    path = cache.path(published)
    if not path.is_file():
        return None
    found = await in_thread(None, file_sha256, path)
    if known is None:
        known = Record(sha256=found, bytes=path.stat().st_size)
        known = await in_thread(None, cache.write_first_record, published, known)
    if found != known.sha256:
        say(f"{path} has the sha256 {found}, its record says {known.sha256}: fetching it again")
        return None
    return Fetched(path=path, record=known, status="there", warning=_warning(published, known))


def _keep(part: PartFile, cache: WeightsCache, published: PublishedWeights, record: Record) -> None:
    """Give the file its name, then its record.

    Killed in between, a file without a record is recorded when it is first used; one whose record is another's is
    refused, until it is fetched again.
    """
    part.publish()
    cache.write_record(published, record)


def _warning(published: PublishedWeights, record: Record) -> str | None:
    if published.earlier_sha256 in (None, record.sha256):
        return None
    return (
        f"{published.file_name} has the sha256 {record.sha256}, an earlier revision had {published.earlier_sha256}: "
        "the publisher may have changed the file since; it is used as it is"
    )
