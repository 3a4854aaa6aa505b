"""Products from an S3 store on a bad day, through the whole client and a real Triton: the same mask, or none."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import mask_product
from kappamask_stream.errors import KappaMaskError, StoreChangedError, StoreUnavailableError
from kappamask_stream.s3 import S3Options
from kappamask_stream.s3.retry import Patience
from tests.integration.fault_proxy import FaultProxy
from tests.integration.faulty_s3 import Fault as S3Fault
from tests.integration.faulty_s3 import FaultyS3
from tests.integration.test_s3_faults import key_of
from tests.integration.test_s3_products import files_of
from tests.integration.tls_files import Authority
from tests.stream.polling import until
from tests.stream.scene import l2a_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fault_table import Fault
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

__all__ = ["l2a_scene"]

#: Attempts without getting further; a busy machine may look like a silent store.
PATIENCE = Patience(attempts=30, read_s=1.0, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.01)
#: The band that decides the null model's classes.
_SEEN = "_B02_20m.jp2"
#: The first requests of a run, and the last ones, which there may be some more or fewer of: ranges are joined as they come.
_LAST = 6
REFUSALS = {"503": ("SlowDown", 503), "500": ("InternalError", 500), "429": ("TooManyRequests", 429)}


class Sometimes:
    """In the place of `FaultyS3.faults`: a seeded share of requests goes wrong, until so many have."""

    def __init__(self, make: Callable[[], S3Fault], *, share: float, most: int) -> None:
        self._rng, self._make, self._share, self._most = random.Random(7), make, share, most
        self.injected = 0

    def popleft(self) -> S3Fault:
        if self.injected == self._most or self._rng.random() > self._share:
            return S3Fault()
        self.injected += 1
        return self._make()


@pytest.fixture
def store(l2a_scene: Scene) -> Iterator[FaultyS3]:
    name = l2a_scene.path.name
    with FaultyS3({f"bucket/{name}/{path}": data for path, data in files_of(l2a_scene.path).items()}) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(l2a_scene: Scene, session_server: SessionServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask of the directory on disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = asyncio.run(
        mask_product(l2a_scene.path, output=folder, model="null_l2a", triton=f"grpc://{session_server.address}")
    )
    return Path(str(result.output))


class Masking:
    """Masks the scene on the store, each time into another folder: a mask that is there is not made again."""

    def __init__(self, scene: Scene, store: FaultyS3, server: SessionServer, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.product = f"s3://bucket/{scene.path.name}"
        self._server = server
        self._masks = 0

    async def __call__(self, endpoint: str | None = None, patience: Patience = PATIENCE, **options: Any) -> Path:
        s3 = S3Options(endpoint_url=endpoint or self.store.endpoint, patience=patience)
        self._masks += 1
        result = await mask_product(
            self.product,
            output=self.folder / str(self._masks),
            model="null_l2a",
            triton=f"grpc://{self._server.address}",
            s3=s3,
            **options,
        )
        assert result.status == "done"
        return Path(str(result.output))


@pytest.fixture
def mask(l2a_scene: Scene, store: FaultyS3, session_server: SessionServer, tmp_path: Path) -> Masking:
    return Masking(l2a_scene, store, session_server, tmp_path / "masks")


async def requests_of(mask: Masking) -> list[Any]:
    """Return what an undisturbed run asks for; its mask is removed."""
    asked = len(mask.store.requests)
    await mask()
    shutil.rmtree(mask.folder)
    return list(mask.store.requests[asked:])


async def injected(fault: Fault, mask: Masking, undisturbed: Path, make: Callable[[], S3Fault], full: int) -> None:
    """Mask under faults until so many were injected."""
    most = fault.amount(5, full)
    while fault.times < most:
        faults = Sometimes(make, share=0.3, most=most - fault.times)
        mask.store.faults = faults  # type: ignore[assignment]
        made = await mask()
        assert faults.injected > 0
        fault.injected(faults.injected)
        fault.identical(made, undisturbed)


@pytest.mark.fault("Source", "S3 answers 503, 500, 429")
async def test_refusals_that_pass(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    kinds = random.Random(1)

    def refusal() -> S3Fault:
        code, status = kinds.choice(list(REFUSALS.values()))
        return S3Fault(status=status, code=code)

    await injected(fault, mask, undisturbed, refusal, 300)


@pytest.mark.fault("Source", "S3 resets in the middle of a body")
async def test_resets(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    places = random.Random(2)
    await injected(fault, mask, undisturbed, lambda: S3Fault(after=places.randrange(20_000), then="reset"), 300)


@pytest.mark.fault("Source", "S3 ends a body early")
async def test_truncated_bodies(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    places = random.Random(3)
    await injected(fault, mask, undisturbed, lambda: S3Fault(after=places.randrange(20_000), then="close"), 300)


@pytest.mark.fault("Source", "S3 stalls in the middle of a body")
async def test_stalls(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    places = random.Random(4)
    await injected(fault, mask, undisturbed, lambda: S3Fault(after=places.randrange(20_000), then="stall"), 50)


@pytest.mark.fault("Source", "S3 announces another Content-Length than it sends")
async def test_content_lengths_that_lie(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    lengths = random.Random(5)
    said = [0, 1, 100, 10**6, 10**9]
    await injected(fault, mask, undisturbed, lambda: S3Fault(announce=lengths.choice(said), then="close"), 300)


@pytest.mark.fault("Source", "metadata's bytes flipped in flight")
async def test_flipped_metadata(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    """Whole objects are compared with their MD5: the ETag of S3."""
    for name in ("MTD_MSIL2A.xml", "MTD_TL.xml"):
        places = random.Random(6)
        for _ in range(fault.amount(2, 100)):
            faults = FlipsOnce(mask.store, name, places)
            mask.store.faults = faults  # type: ignore[assignment]
            made = await mask()
            fault.injected(faults.flipped)
            assert faults.flipped == 1
            fault.identical(made, undisturbed)


class FlipsOnce:
    """In the place of `FaultyS3.faults`: a GET of a file whose name ends so has one bit flipped."""

    def __init__(self, store: FaultyS3, name: str, places: random.Random, *, skip: int = 0) -> None:
        self._store, self._name, self._places, self._skip = store, name, places, skip
        self.flipped = 0

    def popleft(self) -> S3Fault:
        asked = self._store.requests[-1]
        if self.flipped or asked.method != "GET" or not asked.path.endswith(self._name):
            return S3Fault()
        self._skip -= 1
        if self._skip >= 0:
            return S3Fault()
        self.flipped += 1
        first, last = 0, len(self._store.objects[asked.path.lstrip("/")]) - 1
        if asked.range is not None:
            first, last = (int(number) for number in asked.range.removeprefix("bytes=").split("-"))
        return S3Fault(flip=self._places.randrange(last - first + 1))


@pytest.mark.fault("Source", "a band's bytes flipped in flight over HTTPS")
async def test_flipped_bands_over_tls(
    fault: Fault, mask: Masking, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    most, rng = fault.amount(5, 200), random.Random(10)

    def flip(to_server: bool, data: bytes) -> bytes:  # noqa: FBT001 - as the proxy calls it
        # Not of a handshake: who talks to another store gives up at once.
        if to_server or len(data) < 8192 or rng.random() > 0.3:
            return data
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]

    with (
        FaultyS3(mask.store.objects, tls=authority.pair("127.0.0.1")) as store,
        FaultProxy(store.endpoint.removeprefix("https://")) as proxy,
    ):
        proxy.corrupt = flip
        while proxy.corrupted < most:
            fault.identical(await mask(f"https://{proxy.address}"), undisturbed)
        fault.injected(proxy.corrupted)


@pytest.mark.fault("Source", "a band's bytes flipped in flight over plain HTTP, no --verify")
async def test_flipped_bands_over_plain_http(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    """Ranges carry no checksum: what the decoder does not notice nobody does. Promised is one whole mask, or none."""
    for seed in range(fault.amount(8, 100)):
        faults = FlipsOnce(mask.store, _SEEN, random.Random(seed), skip=seed % 3)
        mask.store.faults = faults  # type: ignore[assignment]
        before = {path for path in mask.folder.rglob("*") if path.is_file()}
        try:
            made = await mask()
        except KappaMaskError as error:
            said = str(error)
            assert _SEEN in said, said
            assert {path for path in mask.folder.rglob("*") if path.is_file()} == before
            fault.outcome("failed with the cause, no file")
        else:
            same = made.read_bytes() == undisturbed.read_bytes()
            fault.outcome("mask byte-identical" if same else "NOT NOTICED, other pixels")
        fault.injected(faults.flipped)


@pytest.mark.fault("Source", "bytes flipped in flight over plain HTTP after they were verified, --verify")
async def test_flipped_bytes_after_they_were_verified(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    """What is decoded are the bytes that the manifest vouches for: those that differ are read again."""
    for seed in range(fault.amount(8, 100)):
        faults = FlipsOnce(mask.store, _SEEN, random.Random(seed), skip=1 + seed % 3)
        mask.store.faults = faults  # type: ignore[assignment]
        made = await mask(verify=True)
        assert faults.flipped == 1
        fault.injected()
        fault.identical(made, undisturbed)


@pytest.mark.fault("Source", "a band's bytes differ from the manifest's checksum, --verify")
async def test_verify_finds_flipped_bands(fault: Fault, mask: Masking) -> None:
    rng = random.Random(8)
    bands = [key for key in mask.store.objects if key.endswith("_20m.jp2") and "IMG_DATA" in key]
    for _ in range(fault.amount(3, 50)):
        key = rng.choice(bands)
        whole = mask.store.objects[key]
        place = rng.randrange(len(whole))
        mask.store.objects[key] = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(KappaMaskError) as caught:
            await mask(verify=True)
        mask.store.objects[key] = whole
        fault.injected()
        fault.refused(caught.value, mask.folder, key.rpartition("/")[2], "not as manifest.safe says")


@pytest.mark.fault("Source", "object replaced between two ranged reads")
async def test_a_replaced_object(fault: Fault, mask: Masking) -> None:
    band = next(key for key in mask.store.objects if key.endswith("_B8A_20m.jp2"))
    whole = mask.store.objects[band]
    gets = [asked for asked in await requests_of(mask) if asked.method == "GET" and asked.path.lstrip("/") == band]
    for number in range(1, fault.amount(3, len(gets))):
        mask.store.objects[band] = whole
        mask.store.faults = Replaces(mask.store, band, number)  # type: ignore[assignment]
        with pytest.raises(StoreChangedError) as caught:
            await mask()
        fault.injected()
        fault.refused(caught.value, mask.folder, band.rpartition("/")[2])


class Replaces:
    """In the place of `FaultyS3.faults`: an object has other bytes after its n-th GET."""

    def __init__(self, store: FaultyS3, key: str, number: int) -> None:
        self._store, self._key, self._left = store, key, number + 1

    def popleft(self) -> S3Fault:
        asked = self._store.requests[-1]
        if asked.method == "GET" and asked.path.lstrip("/") == self._key:
            self._left -= 1
            if self._left == 0:
                self._store.objects[self._key] = self._store.objects[self._key][::-1]
        return S3Fault()


@pytest.mark.fault("Source", "S3 credentials expire in the middle")
async def test_credentials_that_expire(
    fault: Fault, mask: Masking, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = len(await requests_of(mask)) - _LAST
    for number in range(fault.amount(3, every)):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OLDKEY")
        asked = len(mask.store.requests)

        def accept(request: Any, asked: int = asked, number: int = number) -> bool:
            if len(mask.store.requests) - asked > 3 + number:
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEWKEY")
                return key_of(request) == "NEWKEY"
            return True

        mask.store.accept = accept
        made = await mask()
        assert any(key_of(request) == "NEWKEY" for request in mask.store.requests[asked:])
        fault.injected()
        fault.identical(made, undisturbed)


@pytest.mark.fault("Source", "S3 credentials expire and are not renewed")
async def test_credentials_that_stay_expired(fault: Fault, mask: Masking) -> None:
    every = len(await requests_of(mask)) - _LAST
    for number in range(fault.amount(2, every)):
        asked = len(mask.store.requests)
        mask.store.accept = lambda _, asked=asked, number=number: (  # type: ignore[misc]
            len(mask.store.requests) - asked <= 3 + number
        )
        with pytest.raises(KappaMaskError) as caught:
            await mask()
        fault.injected()
        fault.refused(caught.value, mask.folder, "expired", "log in again")


@pytest.mark.fault("Source", "DNS gone for a while")
async def test_names_that_do_not_resolve_for_a_while(
    fault: Fault, mask: Masking, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(monkeypatch, mask.store)
    for _ in range(fault.amount(2, 20)):
        resolver.fails = 5
        made = await mask(resolver.endpoint)
        assert resolver.fails == 0
        fault.injected(5)
        fault.identical(made, undisturbed)


@pytest.mark.fault("Source", "DNS gone")
async def test_a_name_that_never_resolves(fault: Fault, mask: Masking, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch, mask.store)
    resolver.fails = 10**9
    with pytest.raises(StoreUnavailableError) as caught:
        await mask(resolver.endpoint, Patience(attempts=3, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.01))
    fault.injected(10**9 - resolver.fails)
    fault.refused(caught.value, mask.folder, "store.invalid", "the name does not resolve", "given up after 3 attempts")


class Resolver:
    """The machine's resolver knows the store by a name, and fails as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: FaultyS3) -> None:
        self.fails = 0
        port = store.endpoint.rpartition(":")[2]
        self.endpoint = f"http://store.invalid:{port}"
        ours = socket.getaddrinfo

        def resolve(host: Any, *args: Any, **options: Any) -> Any:
            if host not in ("store.invalid", "bucket.store.invalid"):
                return ours(host, *args, **options)
            if self.fails:
                self.fails -= 1
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return ours("127.0.0.1", *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.fault("Network", "all connections to S3 reset at random")
async def test_connections_that_are_cut(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    """A listing and metadata are answered whole or not at all: some connections must last so long, most need not."""
    most = fault.amount(5, 200)
    with FaultProxy(mask.store.endpoint.removeprefix("http://")) as proxy:
        places = random.Random(9)
        proxy.draw_cut = lambda: places.choice([places.randrange(2_000), places.randrange(100_000)])
        while proxy.cuts < most:
            made = await mask(f"http://{proxy.address}")
            fault.identical(made, undisturbed)
        fault.injected(proxy.cuts)


@pytest.mark.fault("Network", "S3 answers slowly: 50 ms and 2 MB/s a connection")
async def test_a_slow_network(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    with FaultProxy(mask.store.endpoint.removeprefix("http://")) as proxy:
        proxy.latency_s, proxy.bytes_per_s = 0.05, 2e6
        made = await mask(f"http://{proxy.address}")
        fault.injected(proxy.connections)
        fault.identical(made, undisturbed)


@pytest.mark.fault("Network", "nothing comes from S3 for a while, connections stay open")
async def test_a_stalled_network(fault: Fault, mask: Masking, undisturbed: Path) -> None:
    """The store is tried again on other connections while the first ones hang."""
    with FaultProxy(mask.store.endpoint.removeprefix("http://")) as proxy:
        for _ in range(fault.amount(1, 5)):
            proxy.stall()
            before = proxy.connections
            masking = asyncio.create_task(mask(f"http://{proxy.address}"))
            await until(lambda before=before: proxy.connections >= before + 2)  # type: ignore[misc]
            proxy.go_on()
            made = await masking
            fault.injected()
            fault.identical(made, undisturbed)
