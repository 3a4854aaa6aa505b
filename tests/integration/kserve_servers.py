"""Servers of Triton's protocol in this process: what a real one cannot be made to do, they do.

They call a tile cloud (4) where its first pixel is above 3000, else clear (1), as the null model does.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kappamask_stream.contract import ModelContract


class Replica(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One server, one model.

    Attributes
    ----------
    contract : as `ModelConfig` tells it; may be changed while it serves.
    tiles : answered so far.
    delay_s : seconds that each tile takes.
    tokens : those that are let in; None lets everybody in.
    echo : True has refusals repeat what was sent, as a careless server does.
    peers : common names in the certificates of its clients.
    """

    def __init__(self, contract: ModelContract, *, delay_s: float = 0.0, tokens: set[str] | None = None) -> None:
        self.contract, self.delay_s, self.tokens = contract, delay_s, tokens
        self.tiles = 0
        self.echo = False
        self.peers: set[bytes] = set()

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's names
        await self._admit(context)
        if request.name != self.contract.name:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return service_pb2.ModelConfigResponse(config=config_of(self.contract))

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._admit(context)
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._admit(context)
        answer = service_pb2.ModelStatisticsResponse()
        model = answer.model_stats.add(name=self.contract.name)
        model.batch_stats.add(batch_size=1).compute_infer.count = self.tiles
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._admit(context)
        await asyncio.sleep(self.delay_s)
        count, size = request.inputs[0].shape[0], self.contract.tile_size
        self.tiles += count
        tiles = np.frombuffer(request.raw_input_contents[0], np.uint16).reshape(count, -1)
        labels = np.where(tiles[:, :1, np.newaxis] > 3000, 4, 1) * np.ones((1, size, size))
        values = np.array(self.contract.probability_classes)[:, np.newaxis, np.newaxis]
        tensors = {"LABELS": labels, "PROBABILITIES": 255 * (labels[:, np.newaxis] == values)}
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        for output in request.outputs:
            tensor = tensors[output.name].astype(np.uint8)
            answer.outputs.add(name=output.name, datatype="UINT8", shape=tensor.shape)
            answer.raw_output_contents.append(tensor.tobytes())
        return answer

    async def _admit(self, context: Any) -> None:
        self.peers |= set(context.auth_context().get("x509_common_name", ()))
        given = dict(context.invocation_metadata()).get("authorization", "nothing")
        if self.tokens is not None and given.removeprefix("Bearer ") not in self.tokens:
            said = f"no token of ours: {given}" if self.echo else "no token of ours"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, said)


def config_of(contract: ModelContract) -> Any:
    """The model configuration that a repository would hold."""
    config = model_config_pb2.ModelConfig(name=contract.name, max_batch_size=contract.max_batch)
    config.parameters["contract"].string_value = contract.to_json()
    for group in contract.inputs:
        config.input.add(
            name=group.tensor, data_type=model_config_pb2.TYPE_UINT16, dims=[len(group.bands), group.tile, group.tile]
        )
    for name in ("OFFSET", "SCALE"):
        config.input.add(name=name, data_type=model_config_pb2.TYPE_FP32, dims=[len(contract.channels)])
    size = contract.tile_size
    config.output.add(name="LABELS", data_type=model_config_pb2.TYPE_UINT8, dims=[size, size])
    dims = [len(contract.probability_classes), size, size]
    config.output.add(name="PROBABILITIES", data_type=model_config_pb2.TYPE_UINT8, dims=dims)
    return config


@asynccontextmanager
async def serving(
    replica: Replica | grpc.GenericRpcHandler,
    address: str = "127.0.0.1:0",
    *,
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    """Serve until the block ends; yields the server, which may be stopped earlier, and its port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), *options])
    if isinstance(replica, grpc.GenericRpcHandler):
        server.add_generic_rpc_handlers((replica,))
    else:
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(replica, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)
