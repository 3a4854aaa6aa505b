"""No place at all: for those who take a mask from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.cog import FoundMask
    from kappamask_stream.destinations.types import OutputFile


class Nowhere:
    """Has nothing and takes nothing; see `Destination`."""

    label = "nowhere"
    disk_folder: Path | None = None

    def href(self, name: str) -> str:
        """Return the bare name."""
        return name

    async def inspect(self, name: str) -> FoundMask | None:  # noqa: ARG002
        """Find nothing."""
        return None

    async def missing(self, names: Sequence[str], *, fingerprint: str | None = None) -> list[str]:  # noqa: ARG002
        """Miss everything."""
        return list(names)

    async def foreign(self, names: Sequence[str], *, fingerprint: str) -> list[str]:  # noqa: ARG002
        """Have none."""
        return []

    async def has(self, name: str, *, size: int, sha256: str) -> bool:  # noqa: ARG002
        """Have nothing."""
        return False

    async def folders(self, prefix: str) -> list[str]:  # noqa: ARG002
        """Have none."""
        return []

    async def read(self, name: str) -> bytes:
        """Refuse: nobody asks for what is not there."""
        raise FileNotFoundError(name)

    async def prepare(self, names: Sequence[str]) -> None:
        """Need nothing."""

    async def tidy(self, names: Sequence[str]) -> None:
        """Find nothing."""

    async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
        """Drop the files."""

    async def replace(self, known: bytes, file: OutputFile) -> bool:  # noqa: ARG002
        """Have nothing to replace."""
        return False

    async def remove(self, names: Sequence[str]) -> None:
        """Have nothing to remove."""

    async def discard(self) -> None:
        """Have nothing to discard."""
