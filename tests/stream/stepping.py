"""Workers whose every request to a store is one step, taken in whatever order a test wants, and ended at any of them.

Neither an event loop nor a clock is needed: a step is where a coroutine yields.
"""

from __future__ import annotations

import hashlib
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kappamask_stream.cog import FoundMask
from kappamask_stream.errors import OutputUnavailableError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Mapping, Sequence

    from kappamask_stream.destinations import OutputFile


@types.coroutine
def step(what: str) -> Generator[str, None, None]:
    """Let others go first."""
    yield what


@dataclass
class Bucket:
    """Objects of a store, with their metadata.

    Attributes
    ----------
    knows_conditions : False replaces whatever is there where something known should be replaced.
    """

    knows_conditions: bool = True
    objects: dict[str, tuple[bytes, Mapping[str, str]]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)

    def put(self, key: str, file: OutputFile) -> None:
        assert not hasattr(file.content, "exists")
        data = b"".join(file.content)  # type: ignore[arg-type]
        self.objects[key] = data, {**file.metadata, "sha256": hashlib.sha256(data).hexdigest()}
        self.writes.append(key)

    def contents(self) -> dict[str, bytes]:
        return {key: data for key, (data, _) in sorted(self.objects.items())}


class StepPlace:
    """A `Destination` on a `Bucket`: reads and writes are steps, each object appears whole."""

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self.bucket, self.folder, self.label = bucket, f"{folder}/" if folder else "", f"s3://b/{folder}"

    def href(self, name: str) -> str:
        return f"s3://b/{self.folder}{name}"

    async def _get(self, name: str) -> tuple[bytes, Mapping[str, str]] | None:
        await step(f"get {name}")
        return self.bucket.objects.get(self.folder + name)

    async def inspect(self, name: str) -> FoundMask | None:
        found = await self._get(name)
        return None if found is None else FoundMask(fingerprint=found[1].get("fingerprint"), is_whole=True)

    async def missing(self, names: Sequence[str], *, fingerprint: str | None = None) -> list[str]:
        assert fingerprint is None
        return [name for name in names if await self._get(name) is None]

    async def has(self, name: str, *, size: int, sha256: str) -> bool:
        found = await self._get(name)
        return found is not None and (len(found[0]), found[1]["sha256"]) == (size, sha256)

    async def folders(self, prefix: str) -> list[str]:
        await step(f"list {prefix}")
        names = {key.removeprefix(self.folder) for key in self.bucket.objects if key.startswith(self.folder + prefix)}
        return sorted({name.partition("/")[0] for name in names if "/" in name})

    async def read(self, name: str) -> bytes:
        found = await self._get(name)
        assert found is not None
        return found[0]

    async def prepare(self, names: Sequence[str]) -> None:
        """Need nothing."""

    async def tidy(self, names: Sequence[str]) -> None:
        """Find nothing."""

    async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
        for file in files:
            await step(f"put {file.name}")
            self.bucket.put(self.folder + file.name, file)
        written = {file.name for file in files}
        await self.remove([name for name in stale if name not in written])

    async def replace(self, known: bytes, file: OutputFile) -> bool:
        found = await self._get(file.name)
        if found is None or found[0] != known:
            return False
        await step(f"put {file.name}")
        if self.bucket.knows_conditions and self.bucket.objects.get(self.folder + file.name, (b"",))[0] != known:
            return False
        self.bucket.put(self.folder + file.name, file)
        return True

    async def remove(self, names: Sequence[str]) -> None:
        for name in names:
            await step(f"remove {name}")
            self.bucket.objects.pop(self.folder + name, None)

    async def discard(self) -> None:
        """Have nothing to discard."""


class Steps:
    """Coroutines that are stepped by hand; one that gives up for now has ended, and says so."""

    def __init__(self, *work: Coroutine[Any, Any, Any]) -> None:
        self._work: dict[int, Coroutine[Any, Any, Any]] = dict(enumerate(work))
        self.results: dict[int, Any] = {}
        self.gave_up: set[int] = set()

    @property
    def running(self) -> list[int]:
        return sorted(self._work)

    def advance(self, who: int) -> str | None:
        """Do what one waits for, and return what it waits for then; None where it has ended."""
        try:
            return str(self._work[who].send(None))
        except StopIteration as end:
            self.results[who] = end.value
            del self._work[who]
        except OutputUnavailableError:
            self.gave_up.add(who)
            del self._work[who]
        return None

    def until(self, who: int, what: str) -> None:
        """Let one work until it is about to do something."""
        while (waits_for := self.advance(who)) != what:
            assert waits_for is not None, f"it ended without {what}"

    def kill(self, who: int) -> None:
        """End one where it is, as SIGKILL does: what it has asked a store for is done, nothing else."""
        self._work.pop(who).close()

    def play(self, schedule: Sequence[tuple[int, bool]]) -> None:
        """Take steps as told - who, and whether it is killed instead - and then all in turn until nobody runs."""
        for number, kill in schedule:
            if not self._work:
                return
            who = self.running[number % len(self._work)]
            (self.kill if kill else self.advance)(who)
        turns = 0
        while self._work:
            self.advance(self.running[turns % len(self._work)])
            turns += 1
            assert turns < 10_000
