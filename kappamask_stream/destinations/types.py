"""Where the files of one product go, wherever that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kappamask_stream.cog import FoundMask


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """One file to be published.

    Attributes
    ----------
    name : relative to the product's folder; may hold folders (``tile_0_0/prediction.png``).
    content : its bytes in pieces, or a finished scratch file, which is moved or uploaded.
    media_type : e.g. ``image/tiff; application=geotiff; profile=cloud-optimized``.
    metadata : kept with the object on stores that can (``fingerprint``, …); directories have no place for it.
    """

    name: str
    content: Sequence[bytes] | Path = field(repr=False)
    media_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Destination(Protocol):
    """One product's folder: a directory, or a prefix of an object store.

    Attributes
    ----------
    label : what people call the place, a path or a URL.
    disk_folder : folder of this machine that the files lie in; None: they take no room here.
    """

    label: str
    disk_folder: Path | None

    def href(self, name: str) -> str:
        """Return the path or URL of a file of this folder, as results and messages give it."""
        ...

    async def inspect(self, name: str) -> FoundMask | None:
        """Return what a mask that is there says about its origin; None where nothing is there.

        Raises
        ------
        OutputError
            If it cannot be looked at.
        """
        ...

    async def missing(self, names: Sequence[str], *, fingerprint: str | None = None) -> list[str]:
        """Return those of `names` that are not there.

        Parameters
        ----------
        fingerprint : of the mask that they must belong to: a file whose metadata name another one counts as missing.
            What has no metadata (all files of directories, objects that somebody copied) counts as there.
        """
        ...

    async def foreign(self, names: Sequence[str], *, fingerprint: str) -> list[str]:
        """Return those of `names` that are there and whose metadata name another mask; none where there are none.

        Raises
        ------
        OutputError
            If they cannot be looked at.
        """
        ...

    async def has(self, name: str, *, size: int, sha256: str) -> bool:
        """Tell whether a file is there with this content.

        Of an object whose metadata do not tell its checksum (somebody copied it) the size has to do.

        Parameters
        ----------
        size : bytes.
        sha256 : lower-case hexadecimal.

        Raises
        ------
        OutputError
            If it cannot be looked at.
        """
        ...

    async def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders in this one that begin with `prefix`, in order; none is no error.

        Raises
        ------
        OutputError
            If they cannot be looked for.
        """
        ...

    async def read(self, name: str) -> bytes:
        """Return a whole file that is there.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        ...

    async def prepare(self, names: Sequence[str]) -> None:
        """Make the place ready and try it, so that a wrong one is found before any work is done.

        Raises
        ------
        OutputError
            If files of these names could not be written there.
        """
        ...

    async def tidy(self, names: Sequence[str]) -> None:
        """Undo what writers of these names that were killed had begun, and remove what they left.

        What cannot be undone or removed stays.

        Parameters
        ----------
        names : what had been moved aside comes back in this order; other files of the same writer before the last one.
        """
        ...

    async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
        """Write files so that each appears whole or not at all, in the order given: the last stands for all.

        Parameters
        ----------
        files : of one product.
        stale : names of what the new files make worthless; the first one lists the others. A store removes it before
            anything is written, and those that are none of `files` when all of these are written, not before; a
            directory takes all of them away in this order, then gives the new files their names, all within a moment.

        Raises
        ------
        OutputError
            Naming the file, why, and the remedy.
        """
        ...

    async def replace(self, known: bytes, file: OutputFile) -> bool:
        """Replace a small file, but only where it still has the content that is known.

        Two that do so at once: one of them succeeds. Of directories, and of stores that know no conditional requests,
        that is not certain where both do it in the same few milliseconds.

        Parameters
        ----------
        known : what it is thought to hold.
        file : what is to be there under its name.

        Returns
        -------
        False where it holds something else, or is not there.

        Raises
        ------
        OutputError
            If it cannot be read or written.
        """
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Remove those of `names` that are there.

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        ...

    async def discard(self) -> None:
        """Remove the folder, and those above it that were made for it, where they are empty (after a failure)."""
        ...
