"""Weights on this machine: each file beside a record of what it was at first, and nothing else is ever used.

l2a_unet.hdf5              the file
l2a_unet.hdf5.json         its record: sha256, bytes, url, etag
l2a_unet.hdf5.part(.json)  the beginning of a file that is being fetched, and of which version (see `part`)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.atomic import output_error
from kappamask_stream.errors import InputError
from kappamask_stream.server.environment import cache_home
from kappamask_stream.weights.catalogue import of_model

if TYPE_CHECKING:
    from kappamask_stream.errors import OutputError
    from kappamask_stream.weights.catalogue import PublishedWeights

_SHA256 = re.compile(r"[0-9a-f]{64}")
MODE = 0o644  # read by the server's build, whoever it runs as


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a file was when it was first used or fetched.

    Attributes
    ----------
    sha256 : hexadecimal.
    bytes : length.
    url : where it came from; None for a file that somebody put into the cache.
    etag : the server's name for this version; None where it gave none.
    """

    sha256: str
    bytes: int
    url: str | None = None
    etag: str | None = None


@dataclass(frozen=True, kw_only=True)
class WeightsCache:
    """A folder of weights.

    Attributes
    ----------
    folder : made when the first file is fetched.
    """

    folder: Path

    @classmethod
    def at(cls, folder: Path | None) -> WeightsCache:
        """Return the cache in a folder, or the user's own."""
        return cls(folder=(folder or cache_home() / "weights").absolute())

    def path(self, published: PublishedWeights) -> Path:
        """Name the file of published weights, whether it is there or not."""
        return self.folder / published.file_name

    def record_path(self, published: PublishedWeights) -> Path:
        """Name the file's record."""
        return self.folder / f"{published.file_name}.json"

    def fetched(self, model: str) -> Path | None:
        """Return the file for a model, unverified; None where it is not there or the model has none."""
        published = of_model(model)
        if published is None or not self.path(published).is_file():
            return None
        return self.path(published)

    def verified(self, model: str) -> Path | None:
        """Return the file for a model after comparing it with its record; a file without one is recorded.

        Reads the whole file (about 0.1 s).

        Raises
        ------
        InputError
            If the file is not what it was, or it or its record cannot be read: naming both sums and the remedy.
        OutputError
            If a first record cannot be written.
        """
        published = of_model(model)
        if published is None or self.fetched(model) is None:
            return None
        path, known = self.path(published), self.record(published)
        found = file_sha256(path)
        if known is None:
            known = self.write_first_record(published, Record(sha256=found, bytes=path.stat().st_size))
        if found != known.sha256:
            raise InputError(
                f"{path} has the sha256 {found}, its record says {known.sha256}: it has changed since it was fetched; "
                f"`kappamask-stream models fetch {published.model}` fetches it again, --weights FILE takes another"
            )
        return path

    def record(self, published: PublishedWeights) -> Record | None:
        """Read a file's record; None where there is none.

        Raises
        ------
        InputError
            If it is unreadable: it is never taken for missing.
        """
        path = self.record_path(published)
        try:
            return _parsed(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{path}, the record of what {published.file_name} was, cannot be read: {error}; "
                f"`kappamask-stream models fetch {published.model} --replace` makes both anew"
            ) from error

    def write_record(self, published: PublishedWeights, record: Record) -> None:
        """Write a file's record, whole or not at all.

        Raises
        ------
        OutputError
            Naming the file and the remedy.
        """
        write_json(self.record_path(published), asdict(record))

    def write_first_record(self, published: PublishedWeights, record: Record) -> Record:
        """Record a file unless another process has just done so; returns the record that is there.

        Raises
        ------
        InputError
            If another process' record cannot be read.
        OutputError
            Naming the file and the remedy.
        """
        return record if write_json(self.record_path(published), asdict(record), new=True) else self._there(published)

    def _there(self, published: PublishedWeights) -> Record:
        found = self.record(published)
        if found is None:  # and removed again
            raise InputError(f"{self.record_path(published)} comes and goes: is it being removed? Try again")
        return found


def _parsed(data: bytes) -> Record:
    document = json.loads(data)
    sha256 = document["sha256"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is no sha256")
    return Record(sha256=sha256, bytes=int(document["bytes"]), url=document.get("url"), etag=document.get("etag"))


def file_sha256(path: Path) -> str:
    """Return a file's digest.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: --weights FILE takes another file") from error


def write_json(path: Path, document: dict[str, Any], *, new: bool = False) -> bool:
    """Write a small file beside the weights, whole or not at all.

    Parameters
    ----------
    new : leave a file alone that is there already, and return False.

    Raises
    ------
    OutputError
        Naming the file and the remedy.
    """
    try:
        # Not in one step with the renaming, which some file systems do not offer: hashing takes longer than this gap.
        if new and path.exists():
            return False
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                json.dump(document, file, indent=1)
                file.flush()
                os.fchmod(file.fileno(), MODE)
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise cache_error(path, error) from error
    return True


def cache_error(path: Path, error: OSError, needed: int | None = None) -> OutputError:
    """Say why a file of the cache cannot be written, and where another cache is named."""
    return output_error(path, error, needed, elsewhere="name another folder with KAPPAMASK_WEIGHTS_DIR")
