"""Keeps the Collections of a run's output folders in step with the masks that lie there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.destinations import make_destination
from kappamask_stream.errors import KappaMaskError, OutputError
from kappamask_stream.stac.collection import COLLECTION_FILE
from kappamask_stream.stac.publishing import checked_collection, item_entry, write_catalogue
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination
    from kappamask_stream.result import ProductResult
    from kappamask_stream.s3 import Stores
    from kappamask_stream.stac.collection import ItemEntry

#: Items that are read at once, and that wait to be read.
_AT_ONCE = 8


class Catalogue:
    """The Collection of one output folder.

    It is written with the first Item, so that an Item's links lead somewhere, then each time the number of its Items
    has doubled, and by `publish`: many products cost few writes, and a run that is killed leaves half of them linked.
    The next run links the others, as the Items of skipped products are looked at where they are not linked.

    Masks without an Item are added, too: where an earlier one's Item is gone, its link goes.

    Parameters
    ----------
    root : the folder that the products' folders lie in.
    contract_of : gives the contract of the model for a product level.

    State: `_unread` paths of Items, `_entries` of those that were read, `_doubted` paths of linked Items that may be
    gone: all not published yet; `_linked`, what the Collection links. Guarded by `_lock`.
    """

    def __init__(self, root: Destination, contract_of: Callable[[str], Awaitable[ModelContract]]) -> None:
        self._root, self._contract_of = root, contract_of
        self._contracts: dict[str, ModelContract] = {}
        self._unread: set[str] = set()
        self._entries: dict[str, ItemEntry] = {}
        self._doubted: set[str] = set()
        self._linked: frozenset[str] | None = None
        self._published = 0
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Catalogue {self._root.label}, {self._waiting} masks to publish>"

    @property
    def _waiting(self) -> int:
        return len(self._unread) + len(self._entries) + len(self._doubted)

    async def check(self) -> None:
        """Look at the Collection that is there, before any work is done.

        Raises
        ------
        OutputError
            If it is none of ours, or cannot be read.
        """
        async with self._lock:
            if self._linked is None:
                self._linked = await checked_collection(self._root)

    async def add(self, result: ProductResult, *, has_item: bool) -> None:
        """Take note of a mask.

        Parameters
        ----------
        result : of a product whose model `contract_of` knows; failed ones are passed over.
        has_item : True: an Item was asked for.

        Raises
        ------
        OutputError, ContractError
            If the catalogue cannot be read or written; what it lacks is written with the next try.
        """
        if result.output is None or result.error is not None or (not has_item and not await self._is_ours()):
            return
        await self.check()
        stem = result.output.rpartition("/")[2].removesuffix(".tif")
        path, linked = f"{result.product}/{stem}.json", self._linked or frozenset()
        async with self._lock:
            if has_item and not (result.status == "skipped" and path in linked):
                contract = await self._contract_of(stem.partition("_")[0])
                self._contracts[contract.name] = contract
                self._unread.add(path)
            elif not has_item and path in linked:
                self._doubted.add(path)
            if len(self._unread) >= _AT_ONCE:
                await self._read()
            if self._waiting and self._waiting >= self._published:
                await self._publish()

    async def publish(self) -> None:
        """Write what was added since the last time.

        Raises
        ------
        OutputError, ContractError
            See `add`.
        """
        async with self._lock:
            if self._waiting:
                await self._publish()

    async def _is_ours(self) -> bool:
        """Tell whether there is a Collection to keep; to runs without Items another one is no hindrance."""
        try:
            await self.check()
        except OutputError:
            return False
        return bool(self._linked)

    async def _publish(self) -> None:
        """Write what could be read; then the first Item that could not be is told."""
        failure = await self._read()
        if not self._entries and not self._doubted:
            if failure is not None:
                raise failure
            return
        gone = set(await self._root.missing(sorted(self._doubted))) if self._doubted else set()
        entries = dict(self._entries)
        self._linked = await write_catalogue(
            self._root, list(self._contracts.values()), list(entries.values()), gone=gone - set(entries)
        )
        self._published += len(self._entries) + len(self._doubted)
        self._entries.clear()
        self._doubted.clear()
        if failure is not None:
            raise failure

    async def _read(self) -> KappaMaskError | None:
        """Read the Items that were added, and keep what the Collection needs of them; returns the first failure.

        One that somebody has taken away since is none: there is nothing to link.
        """
        slots = asyncio.Semaphore(_AT_ONCE)
        failures: dict[str, KappaMaskError] = {}

        async def read(path: str) -> None:
            try:
                async with slots:
                    data = await self._root.read(path)
                    self._entries[path] = await in_thread(None, item_entry, self._root.href(path), path, data)
            except KappaMaskError as error:
                if not await self._is_gone(path):
                    failures[path] = error
                    return
                self._entries.pop(path, None)
                if path in (self._linked or ()):
                    self._doubted.add(path)
            self._unread.discard(path)

        async with asyncio.TaskGroup() as tasks:
            for path in sorted(self._unread):
                tasks.create_task(read(path))
        return failures[min(failures)] if failures else None

    async def _is_gone(self, path: str) -> bool:
        """Tell whether an Item was taken away; not where the Collection went with it: the whole folder may be away."""
        try:
            wanted = [path, COLLECTION_FILE] if self._linked else [path]
            return await self._root.missing(wanted) == [path]
        except KappaMaskError:  # nobody can tell: what kept it from being read is the failure
            return False


class Catalogues:
    """The catalogues of all folders that a process writes to.

    Parameters
    ----------
    stores : give the client for S3; belong to the caller.
    contract_of : as for `Catalogue`.
    """

    def __init__(self, stores: Stores, contract_of: Callable[[str], Awaitable[ModelContract]]) -> None:
        self._stores, self._contract_of = stores, contract_of
        self._by_output: dict[str, Catalogue] = {}

    async def check(self, output: str | Path) -> None:
        """Look at the Collection that is in an output folder, before Items are made for it.

        Raises
        ------
        OutputError
            If it is none of ours, or cannot be read.
        UsageError
            See `make_destination`.
        """
        await (await self._of(output)).check()

    async def add(self, output: str | Path, result: ProductResult, *, has_item: bool) -> None:
        """Take note of a mask in an output folder; see `Catalogue.add`."""
        if result.output is not None and result.error is None:
            await (await self._of(output)).add(result, has_item=has_item)

    async def finish(self) -> KappaMaskError | None:
        """Write what is not written yet, in all folders; returns the first failure, which is not raised.

        Call it in a ``finally``: it is for what is done, however the run ended.
        """
        failure: KappaMaskError | None = None
        for catalogue in self._by_output.values():
            try:
                await catalogue.publish()
            except KappaMaskError as error:
                failure = failure or error
        return failure

    async def _of(self, output: str | Path) -> Catalogue:
        if str(output) not in self._by_output:
            root = await make_destination(output, "", self._stores)
            # Another task may have been faster meanwhile.
            self._by_output.setdefault(str(output), Catalogue(root, self._contract_of))
        return self._by_output[str(output)]
