"""What a Triton does with shared memory of this machine: whether it can, and the calls for it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.inference.served import CONTROL_TIMEOUT_S
from kappamask_stream.inference.shared_memory import is_of_the_dead, lacking, remove_abandoned_files
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from tritonclient.grpc.aio import InferenceServerClient

    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.inference.shared_memory import Region

#: Header with the local server's key for this part of the protocol; see `server_models.tritonserver`.
KEY_HEADER = "triton-grpc-protocol-kappamask-memory"
#: The first Triton that counts who uses a region; earlier ones crash when one is unregistered too soon.
_COUNTS_SINCE = (2, 50)
#: Times that a server is asked for a region: of several that answer in turn, one would not know it.
_LOOKS = 4


def elsewhere(endpoint: Endpoint) -> str | None:
    """Say why memory of this machine is out of the question with an endpoint, None where it is not."""
    if not endpoint.is_loopback:
        return f"{endpoint} is no loopback address of this machine"
    if len(endpoint.hosts) > 1:
        return f"{endpoint} is several servers"
    return lacking()


def is_unknown(error: InferenceServerException) -> bool:
    """Tell whether a server says that it does not know a region."""
    said = str(error.message() or "").lower()
    return "unable to find" in said and "shared memory region" in said


def is_in_use(error: InferenceServerException) -> bool:
    """Tell whether a server says that it works on a request that uses the region."""
    return "currently in use" in str(error.message() or "").lower()


class ServerMemory:
    """The part of a server's protocol that is about shared memory. All calls raise `InferenceServerException`.

    Parameters
    ----------
    channel : to the server.
    key : the server's key for this part, where it wants one.
    timeout_s : seconds that it has to say what it is and to map a region.
    """

    def __init__(self, channel: InferenceServerClient, key: str | None, timeout_s: float) -> None:
        self._channel, self._timeout_s = channel, timeout_s
        self._headers = {KEY_HEADER: key} if key is not None else None

    async def objection(self) -> str | None:
        """Say why a server is not one to share memory with, None where it is."""
        about = await self._channel.get_server_metadata(client_timeout=self._timeout_s)
        version = re.match(r"(\d+)\.(\d+)", about.version)
        if "system_shared_memory" not in about.extensions or version is None:
            return f"{about.name} {about.version} does not know it"
        if (int(version[1]), int(version[2])) < _COUNTS_SINCE:
            return f"Triton {about.version} does not count who uses it, as {_COUNTS_SINCE[0]}.{_COUNTS_SINCE[1]} does"
        return None

    async def register(self, region: Region) -> None:
        """Have the server map a region whose file is there."""
        await self._channel.register_system_shared_memory(
            region.name, f"/{region.file}", region.size, headers=self._headers, client_timeout=self._timeout_s
        )

    async def knows(self, name: str, looks: int = _LOOKS) -> bool:
        """Tell whether a region is known to all that answer, as far as can be told by some looks."""
        for _ in range(looks):
            try:
                await self._channel.get_system_shared_memory_status(
                    name, headers=self._headers, client_timeout=CONTROL_TIMEOUT_S
                )
            except InferenceServerException as error:
                if is_unknown(error):
                    return False
                raise
        return True

    async def unregister(self, name: str) -> None:
        """Have the server let go of a region; one that it does not know is no error, one in use is (`is_in_use`)."""
        await self._channel.unregister_system_shared_memory(
            name, headers=self._headers, client_timeout=CONTROL_TIMEOUT_S
        )

    async def remove_abandoned(self) -> None:
        """Have the server let go of regions whose makers were killed, and remove their files; failing is no matter."""
        await in_thread(None, remove_abandoned_files)
        with suppress(InferenceServerException):
            known = await self._channel.get_system_shared_memory_status(
                headers=self._headers, client_timeout=CONTROL_TIMEOUT_S
            )
            for name in known.regions:
                if is_of_the_dead(name):
                    with suppress(InferenceServerException):
                        await self.unregister(name)
