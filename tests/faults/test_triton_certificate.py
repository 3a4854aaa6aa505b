"""A TLS terminator before a real Triton whose certificate expires: at once, in words, and no file."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import ServerError
from tests.faults.triton_masks import TILES, Disturbed, scene, undisturbed
from tests.faults.triton_relay import TritonRelay, relayed
from tests.integration.fault_proxy import FaultProxy
from tests.integration.tls_files import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kappamask_stream import Masker
    from tests.fault_table import Fault
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["scene", "undisturbed"]

#: Seconds that a refusal may take, and not by far the patience that there is with servers that do not answer.
_AT_ONCE_S = 30.0


@dataclass
class Terminator:
    """Two relays that end TLS before one Triton, behind one address; the certificate of one has expired."""

    proxy: FaultProxy
    good: TritonRelay
    good_address: str
    expired_address: str
    authority: Authority

    def expire(self) -> None:
        """Show the expired certificate from now on; connections that are open end."""
        self.proxy.server = self.expired_address
        self.proxy.cut()

    def renew(self) -> None:
        """Show the good one."""
        self.proxy.server = self.good_address
        self.proxy.cut()

    def disturbed(self, scene: Scene, folder: Path) -> Disturbed:
        """A product that is masked there, with all the patience there is."""
        options = {"triton_ca": self.authority.file, "server_wait_s": 600.0, "tile_attempts": 100}
        return Disturbed(scene, f"grpcs://{self.proxy.address}", folder, options)


@pytest.fixture
async def terminator(session_server: SessionServer, tmp_path: Path) -> AsyncIterator[Terminator]:
    authority = Authority(tmp_path)
    async with AsyncExitStack() as stack:
        relays = []
        for is_expired in (False, True):
            credentials = authority.pair("127.0.0.1", is_expired=is_expired).server_credentials()
            relay, endpoint = await stack.enter_async_context(relayed(session_server.address, credentials=credentials))
            relays.append((relay, endpoint.removeprefix("grpcs://")))
        (good, good_address), (_, expired_address) = relays
        proxy = stack.enter_context(FaultProxy(good_address))
        yield Terminator(proxy, good, good_address, expired_address, authority)


async def refused(masking: asyncio.Task[Path], disturbed: Disturbed, fault: Fault) -> None:
    async with asyncio.timeout(_AT_ONCE_S):
        with pytest.raises(ServerError) as caught:
            await masking
    certificate = f"the certificate of the server at {disturbed.endpoint} is not accepted: it has expired"
    fault.refused(caught.value, disturbed.output, certificate, "have it renewed, or set this machine's clock")
    assert not caught.value.retryable


@pytest.mark.fault("Triton", "TLS certificate expired, from the beginning")
async def test_a_certificate_that_has_expired(
    terminator: Terminator, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    disturbed = terminator.disturbed(scene, tmp_path / "out")
    terminator.expire()
    fault.injected()
    await refused(asyncio.create_task(disturbed.mask()), disturbed, fault)
    assert terminator.good.tiles == 0
    terminator.renew()
    fault.identical(await disturbed.mask(), undisturbed)


@pytest.mark.fault("Triton", "TLS certificate expires in the middle: connections cut, the next are refused")
async def test_a_certificate_that_expires_in_the_middle(
    terminator: Terminator, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    disturbed = terminator.disturbed(scene, tmp_path / "out")
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        for after in fault.amount([TILES // 2], range(TILES // 2 + 1)):
            await expired(terminator, disturbed, masker, after, fault)
            terminator.renew()
            fault.identical(await when_renewed(disturbed, masker), undisturbed)


async def expired(terminator: Terminator, disturbed: Disturbed, masker: Masker, after: int, fault: Fault) -> None:
    """Mask a product, and have the certificate expire when so many of its tiles are answered."""
    relay, last = terminator.good, terminator.good.tiles + after

    def answering(_answer: object) -> None:
        if relay.tiles == last:
            terminator.expire()
            fault.injected()

    relay.change["ModelInfer"] = answering
    masking = asyncio.create_task(disturbed.mask(masker))
    await refused(masking, disturbed, fault)
    assert disturbed.progress.tiles_done < TILES
    del relay.change["ModelInfer"]


async def when_renewed(disturbed: Disturbed, masker: Masker) -> Path:
    """Mask a product once the client has connected anew, which it tries each second; before, it is refused as it was."""
    async with asyncio.timeout(_AT_ONCE_S):
        while True:
            try:
                return await disturbed.mask(masker)
            except ServerError as error:
                assert "it has expired" in str(error)  # noqa: PT017 - one of those that may come
                await asyncio.sleep(0.1)
