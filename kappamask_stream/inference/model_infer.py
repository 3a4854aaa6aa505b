"""ModelInfer, the one call of the protocol that carries pixels, without the copies of them that tritonclient makes.

It copies a tile's bytes out of the array, into a message, into the message's wire form, and gRPC copies that. Here the
wire form is put together from the arrays at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from kappamask_stream.inference.grpc_errors import closed, too_large, unless_closed
from kappamask_stream.inference.reconnects import Reconnects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kappamask_stream.inference.tensors import TensorPlace, TileLayout
    from kappamask_stream.inference.token import BearerToken

SERVICE, METHOD = "inference.GRPCInferenceService", "ModelInfer"
#: Bytes that an answer may have beyond its tensors: names, shapes, parameters that a server adds. So much that most
#: answers of a wrong type or shape are received, and refused in words that tell it.
ANSWER_ROOM = 1 << 20
#: In front of each item of ModelInferRequest.raw_input_contents: number 7, of any length (protobuf's wire format).
_RAW_INPUT = bytes([7 << 3 | 2])
#: Of the schedule policy extension. A signed number, which all versions take; only later ones take an unsigned one.
#: A model without levels takes no notice, as one with fewer does: nobody has to find out first.
_PRIORITY = "priority"


class ModelInfer:
    """Sends requests for one tile over a channel of gRPC.

    Parameters
    ----------
    channel : takes no answers to tiles of more than `answer_bytes` and `ANSWER_ROOM`; closed with it.
    token : goes with each request.
    answer_bytes : of the tensors of the largest right answer.
    """

    def __init__(self, channel: grpc.aio.Channel, token: BearerToken | None, *, answer_bytes: int) -> None:
        self._channel, self._token, self.answer_bytes = channel, token, answer_bytes
        self._infer = channel.unary_unary(
            f"/{SERVICE}/{METHOD}",
            request_serializer=None,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        self._config = channel.unary_unary(
            f"/{SERVICE}/ModelConfig",
            request_serializer=service_pb2.ModelConfigRequest.SerializeToString,
            response_deserializer=service_pb2.ModelConfigResponse.FromString,
        )

    async def __call__(self, request: bytes, *, timeout_s: float) -> Any:
        """Send a request in its wire form (`inline_request`, `region_request`) and return the ModelInferResponse.

        Raises
        ------
        InferenceServerException
            If there is none.
        ValueError
            If it has more bytes than a right one can have: it is not received.
        """
        try:
            return await self._called(self._infer, request, timeout_s)
        except InferenceServerException as error:
            size = too_large(error, self.answer_bytes + ANSWER_ROOM)
            if size is None:
                raise
            raise ValueError(f"it has {size} bytes, the contract's tensors have {self.answer_bytes}") from error

    async def config(self, model: str, *, timeout_s: float) -> Any:
        """Return a model's ModelConfigResponse, of a server that this channel sends tiles to.

        Raises
        ------
        InferenceServerException
            If there is none.
        """
        return await self._called(self._config, service_pb2.ModelConfigRequest(name=model), timeout_s)

    async def _called(self, method: grpc.aio.UnaryUnaryMultiCallable, request: Any, timeout_s: float) -> Any:
        metadata = () if self._token is None else (self._token.header(),)
        try:
            with unless_closed():
                return await method(request, metadata=metadata, timeout=timeout_s)
        except grpc.RpcError as error:
            raise InferenceServerException(msg=error.details(), status=str(error.code())) from error
        except grpc.aio.UsageError as error:  # what gRPC says of a channel that is closed
            raise closed() from error

    def reconnects(self) -> Reconnects:
        """Begin to count how often the connection is lost; who closes this, closes that after it."""
        return Reconnects(self._channel)

    async def aclose(self) -> None:
        """Close the channel."""
        await self._channel.close()


def inline_request(
    model: str, layout: TileLayout, arrays: Sequence[NDArray[Any]], *, level: int | None = None, request_id: str = ""
) -> bytes:
    """Return a request that carries its tensors.

    Parameters
    ----------
    arrays : in the order of the layout's inputs.
    level : of priority, 1 is the highest; None: the model's default.
    request_id : which the server repeats in its answer.
    """
    parts: list[Any] = [_head(model, layout, None, level, request_id)]
    for array in arrays:
        parts += [_RAW_INPUT, _varint(array.nbytes), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]
    return b"".join(parts)


def region_request(
    model: str, layout: TileLayout, region: str, *, level: int | None = None, request_id: str = ""
) -> bytes:
    """Return a request whose tensors, and those of the answer, are in a region of shared memory."""
    return _head(model, layout, region, level, request_id)


def _head(model: str, layout: TileLayout, region: str | None, level: int | None, request_id: str) -> bytes:
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    if level is not None:
        message.parameters[_PRIORITY].int64_param = level
    for place in layout.inputs:
        tensor = message.inputs.add(name=place.name, datatype=np_to_triton_dtype(place.dtype), shape=place.shape)
        _put(tensor, region, place)
    for place in layout.outputs:
        _put(message.outputs.add(name=place.name), region, place)
    head: bytes = message.SerializeToString()
    return head


def _put(tensor: Any, region: str | None, place: TensorPlace) -> None:
    if region is not None:
        tensor.parameters["shared_memory_region"].string_param = region
        tensor.parameters["shared_memory_offset"].int64_param = place.offset
        tensor.parameters["shared_memory_byte_size"].int64_param = place.nbytes


def _varint(number: int) -> bytes:
    """Write a number as protobuf does: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])
