"""A catalogue in step with a run: what is read and written how often, what goes, what is refused before any work."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import OutputError
from kappamask_stream.result import ProductResult
from kappamask_stream.s3 import Stores
from kappamask_stream.stac import COLLECTION_FILE, Catalogue, Catalogues, mask_item
from tests.unit.mask_jobs import SHARES, make_job
from tests.unit.stac_schemas import validate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import OutputFile

MODEL = f"models/test_l2a-{'ab' * 6}.json"


class Root(FolderDestination):
    """A folder that counts: names read and written, and how many reads there are at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read_names: list[str] = []
        self.written: list[str] = []
        self.now = self.most = 0

    async def read(self, name: str) -> bytes:
        self.read_names.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().read(name)
        finally:
            self.now -= 1

    async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
        await super().publish(files, stale=stale)
        self.written += [file.name for file in files]

    @property
    def items_read(self) -> int:
        return sum(name.startswith("P") for name in self.read_names)


@pytest.fixture
def contract_of(csmask_contract: ModelContract) -> Callable[[str], Awaitable[ModelContract]]:
    async def contract(level: str) -> ModelContract:
        assert level == "L2A"
        return csmask_contract

    return contract


@pytest.fixture
def made(csmask_contract: ModelContract, tmp_path: Path) -> Callable[..., list[ProductResult]]:
    """Write Items as a run does, and return its results."""
    item = json.dumps(mask_item(make_job(csmask_contract, tmp_path), SHARES, [])).encode()

    def make(*products: str, **rest: Any) -> list[ProductResult]:
        results = []
        for product in products:
            folder = tmp_path / product
            folder.mkdir(exist_ok=True)
            (folder / "L2A_x.json").write_bytes(item)
            output = str(folder / "L2A_x.tif")
            results.append(ProductResult(**{"product": product, "status": "done", "output": output, **rest}))
        return results

    return make


def linked(folder: Path) -> list[str]:
    document = json.loads((folder / COLLECTION_FILE).read_bytes())
    validate(document)
    return [link["href"] for link in document["links"] if link["rel"] == "item"]


def names(count: int) -> list[str]:
    return [f"P{n:03}" for n in range(count)]


async def test_the_first_item_has_its_collection_and_model_at_once(made: Any, contract_of: Any, tmp_path: Path) -> None:
    root = Root(tmp_path)
    await Catalogue(root, contract_of).add(*made("P"), has_item=True)
    assert root.written == [MODEL, COLLECTION_FILE]
    assert linked(tmp_path) == ["./P/L2A_x.json"]


async def test_many_products_cost_few_writes_and_no_link_is_lost(made: Any, contract_of: Any, tmp_path: Path) -> None:
    root = Root(tmp_path)
    catalogue = Catalogue(root, contract_of)
    for n, result in enumerate(made(*names(100)), start=1):
        await catalogue.add(result, has_item=True)
        assert 2 * len(linked(tmp_path)) >= n, "a run that is killed leaves half of them linked"
    await catalogue.publish()
    assert linked(tmp_path) == [f"./{name}/L2A_x.json" for name in names(100)]
    assert root.written.count(COLLECTION_FILE) <= 8
    assert root.items_read == 100


async def test_items_are_read_side_by_side_and_no_more_than_eight(made: Any, contract_of: Any, tmp_path: Path) -> None:
    root = Root(tmp_path)
    catalogue = Catalogue(root, contract_of)
    for result in made(*names(40)):
        await catalogue.add(result, has_item=True)
    assert 1 < root.most <= 8


async def test_a_resumed_run_reads_no_item_that_is_linked(made: Any, contract_of: Any, tmp_path: Path) -> None:
    first = Catalogue(Root(tmp_path), contract_of)
    for result in made(*names(20)):
        await first.add(result, has_item=True)
    await first.publish()
    root = Root(tmp_path)
    again = Catalogue(root, contract_of)
    for result in made(*names(20), "P999", status="skipped"):
        await again.add(result, has_item=True)
    await again.publish()
    assert root.items_read == 1
    assert linked(tmp_path)[-1] == "./P999/L2A_x.json"
    assert len(linked(tmp_path)) == 21


async def test_a_resumed_run_with_nothing_new_writes_nothing(made: Any, contract_of: Any, tmp_path: Path) -> None:
    await Catalogue(Root(tmp_path), contract_of).add(*made("P"), has_item=True)
    root = Root(tmp_path)
    again = Catalogue(root, contract_of)
    await again.add(*made("P", status="skipped"), has_item=True)
    await again.publish()
    assert root.written == []


async def test_the_link_to_an_item_that_is_gone_goes(made: Any, contract_of: Any, tmp_path: Path) -> None:
    """As after --stac, then --overwrite --dilate without it; the others stay."""
    first = Catalogue(FolderDestination(tmp_path), contract_of)
    for result in made("P1", "P2"):
        await first.add(result, has_item=True)
    results = made("P1", "P2")
    (tmp_path / "P1" / "L2A_x.json").unlink()
    for result in results:
        await Catalogue(FolderDestination(tmp_path), contract_of).add(result, has_item=False)
    assert linked(tmp_path) == ["./P2/L2A_x.json"]
    (tmp_path / "P2" / "L2A_x.json").unlink()
    await Catalogue(FolderDestination(tmp_path), contract_of).add(results[1], has_item=False)
    assert linked(tmp_path) == []
    extent = json.loads((tmp_path / COLLECTION_FILE).read_bytes())["extent"]
    assert extent["temporal"]["interval"] == [["2015-06-23T00:00:00Z", None]], "that of the mission: there are no masks"


async def test_an_item_that_is_taken_away_before_it_is_linked_keeps_nobody_up(
    made: Any, contract_of: Any, tmp_path: Path
) -> None:
    """Who empties the folder while a worker fills it: the link is not made, or goes, and later masks are linked."""
    root = Root(tmp_path)
    catalogue = Catalogue(root, contract_of)
    for number, result in enumerate(made(*names(20))):
        await catalogue.add(result, has_item=True)
        if number != 10:
            (tmp_path / result.product / "L2A_x.json").unlink()
    await catalogue.publish()
    await catalogue.add(*made("P000"), has_item=True)  # masked anew, and taken away again
    (tmp_path / "P000" / "L2A_x.json").unlink()
    await catalogue.publish()
    left = linked(tmp_path)
    assert "./P010/L2A_x.json" in left
    assert "./P000/L2A_x.json" not in left
    await catalogue.add(*made("P999"), has_item=True)
    await catalogue.publish()
    assert linked(tmp_path) == [*left, "./P999/L2A_x.json"]


async def test_with_all_items_taken_away_nothing_is_written(made: Any, contract_of: Any, tmp_path: Path) -> None:
    root = Root(tmp_path)
    catalogue = Catalogue(root, contract_of)
    for result in made("P", "Q", "R"):
        await catalogue.add(result, has_item=True)
    written = list(root.written)
    assert linked(tmp_path) == ["./P/L2A_x.json", "./Q/L2A_x.json"], "the third one waits"
    (tmp_path / "R" / "L2A_x.json").unlink()
    await catalogue.publish()
    assert root.written == written


async def test_a_folder_that_is_away_as_a_whole_is_a_failure(made: Any, contract_of: Any, tmp_path: Path) -> None:
    """A disk that is not mounted any more: nobody took the Items away."""
    folder = tmp_path / "out"
    folder.mkdir()
    results = [replace(result, product=result.product[-1]) for result in made("out/P", "out/Q", "out/R")]
    catalogue = Catalogue(Root(folder), contract_of)
    for result in results:
        await catalogue.add(result, has_item=True)
    folder.rename(tmp_path / "away")
    with pytest.raises(OutputError, match=r"R/L2A_x\.json"):
        await catalogue.publish()
    (tmp_path / "away").rename(folder)
    await catalogue.publish()
    assert len(linked(folder)) == 3


async def test_an_item_that_cannot_be_looked_for_is_a_failure(
    made: Any, contract_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (result,) = made("P")
    (tmp_path / "P" / "L2A_x.json").unlink()

    def stale(path: Path) -> bool:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    catalogue = Catalogue(Root(tmp_path), contract_of)
    await catalogue.check()
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "is_file", stale)
        with pytest.raises(OutputError, match=r"P/L2A_x\.json"):
            await catalogue.add(result, has_item=True)


async def test_without_items_nothing_is_made(made: Any, contract_of: Any, tmp_path: Path) -> None:
    root = Root(tmp_path)
    catalogue = Catalogue(root, contract_of)
    await catalogue.add(*made("P"), has_item=False)
    await catalogue.publish()
    assert root.written == []
    (tmp_path / COLLECTION_FILE).write_text("{}")
    await catalogue.add(*made("P"), has_item=False)
    await Catalogue(root, contract_of).add(*made("P"), has_item=False)
    assert (tmp_path / COLLECTION_FILE).read_text() == "{}", "somebody else's"


async def test_failures_have_no_items(made: Any, contract_of: Any, tmp_path: Path) -> None:
    (result,) = made("P", error=OutputError("full"), status="failed")
    await Catalogue(Root(tmp_path), contract_of).add(result, has_item=True)
    assert not (tmp_path / COLLECTION_FILE).exists()


async def test_a_damaged_collection_is_refused_before_any_work(contract_of: Any, tmp_path: Path) -> None:
    (tmp_path / COLLECTION_FILE).write_text('{"type": "Collection"')
    async with Stores() as stores:
        catalogues = Catalogues(stores, contract_of)
        with pytest.raises(OutputError, match=r"collection\.json is no Collection of cloud masks of ours"):
            await catalogues.check(tmp_path)


async def test_what_could_not_be_written_is_tried_again(made: Any, contract_of: Any, tmp_path: Path) -> None:
    async with Stores() as stores:
        catalogues = Catalogues(stores, contract_of)
        await catalogues.check(tmp_path)
        (tmp_path / "models").write_text("in the way")
        for result in made("P1", "P2"):
            with pytest.raises(OutputError, match="models"):
                await catalogues.add(str(tmp_path), result, has_item=True)
        failure = await catalogues.finish()
        assert isinstance(failure, OutputError)
        (tmp_path / "models").unlink()
        assert await catalogues.finish() is None
    assert linked(tmp_path) == ["./P1/L2A_x.json", "./P2/L2A_x.json"]


async def test_an_item_that_is_none_does_not_keep_others_out_for_ever(
    made: Any, contract_of: Any, tmp_path: Path
) -> None:
    catalogue = Catalogue(Root(tmp_path), contract_of)
    results = made("P1", "P2")
    (tmp_path / "P1" / "L2A_x.json").write_text("{}")
    with pytest.raises(OutputError, match=r"P1.L2A_x\.json is no STAC Item"):
        await catalogue.add(results[0], has_item=True)
    with pytest.raises(OutputError, match=r"P1.L2A_x\.json is no STAC Item"):
        await catalogue.add(results[1], has_item=True)
    assert linked(tmp_path) == ["./P2/L2A_x.json"]


async def test_a_cancelled_write_is_made_up_for(made: Any, contract_of: Any, tmp_path: Path) -> None:
    class Slow(Root):
        async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
            if not reached.is_set():
                reached.set()
                await asyncio.Event().wait()
            await super().publish(files, stale=stale)

    reached = asyncio.Event()
    catalogue = Catalogue(Slow(tmp_path), contract_of)
    work = asyncio.create_task(catalogue.add(*made("P"), has_item=True))
    await reached.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await catalogue.publish()
    assert linked(tmp_path) == ["./P/L2A_x.json"]
