"""A server in front of a real Triton that passes its answers on, changed where a test says so: a Triton that is wrong."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2

from tests.integration.kserve_servers import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_ANSWERS = {"ModelInfer": service_pb2.ModelInferResponse, "ModelConfig": service_pb2.ModelConfigResponse}
#: Beginnings of the names of headers that gRPC makes itself.
_OF_GRPC = ("grpc-", "user-agent", "content-type", "te")


class TritonRelay(grpc.GenericRpcHandler):
    """Use through `relayed`.

    Attributes
    ----------
    change : per call of the protocol (`ModelInfer`, `ModelConfig`), what is done to each answer on its way.
    tiles : requests for tiles that were answered.
    """

    def __init__(self, triton: str) -> None:
        self._channel = grpc.aio.insecure_channel(triton, options=[("grpc.max_receive_message_length", -1)])
        self.change: dict[str, Callable[[Any], None]] = {}
        self.tiles = 0

    def service(self, handler_call_details: Any) -> Any:
        """Take any call."""
        return grpc.unary_unary_rpc_method_handler(partial(self._pass_on, handler_call_details.method))

    async def _pass_on(self, method: str, request: bytes, context: Any) -> bytes:
        call = method.rpartition("/")[2]
        metadata = [(name, value) for name, value in context.invocation_metadata() if not name.startswith(_OF_GRPC)]
        try:
            said: bytes = await self._channel.unary_unary(method)(
                request, metadata=metadata, timeout=context.time_remaining()
            )
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        if call in self.change:
            answer = _ANSWERS[call].FromString(said)
            self.change[call](answer)
            said = answer.SerializeToString()
        self.tiles += call == "ModelInfer"
        return said

    async def aclose(self) -> None:
        """Leave the Triton."""
        await self._channel.close()


@asynccontextmanager
async def relayed(
    triton: str, *, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[TritonRelay, str]]:
    """Serve a relay to a Triton; yields it and its endpoint, with TLS where there are credentials for it."""
    relay = TritonRelay(triton)
    try:
        async with serving(relay, credentials=credentials) as (_, port):
            yield relay, f"{'grpcs' if credentials else 'grpc'}://127.0.0.1:{port}"
    finally:
        await relay.aclose()
