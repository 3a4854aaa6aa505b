"""How gRPC talks to servers: one function opens every channel, so that all of them balance, and give up, alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import UsageError
from kappamask_stream.inference.grpc_errors import closed, unless_closed
from kappamask_stream.inference.model_infer import (
    ANSWER_ROOM,
    METHOD,
    SERVICE,
    ModelInfer,
    inline_request,
    region_request,
)
from kappamask_stream.inference.origin import new_request_id
from kappamask_stream.inference.region_pool import RegionPool
from kappamask_stream.inference.security import Security
from kappamask_stream.inference.served import LARGEST_CONTROL
from kappamask_stream.inference.shared_memory import address_of
from kappamask_stream.inference.tensors import tensors_in, write_tensors
from kappamask_stream.inference.token import BearerToken, without_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.inference.origin import Origin
    from kappamask_stream.inference.reconnects import Reconnects
    from kappamask_stream.inference.tensors import TileLayout

_LARGEST_REQUEST = 2**31 - 1
#: Names are resolved again when a connection ends, at most this often; gRPC's own 30 s would keep new servers waiting.
_RESOLVE_MS = 5_000
#: Servers take a fifth ping without an answer between for an attack, and end the connection. So a ping comes only after
#: this share of the time in which a request must be answered, but not more often than each 20 s.
_PINGS = 4
_KEEPALIVE_S = 20.0


def channel_arguments(
    infer_timeout_s: float, *, balanced: bool = True, answer_bytes: int = 0
) -> list[tuple[str, int | str]]:
    """Return gRPC's arguments. Passing any to tritonclient replaces its defaults, so all of them stand here.

    Parameters
    ----------
    infer_timeout_s : seconds after which requests count as lost.
    balanced : requests go to all addresses in turn; else to one of them as long as it answers.
    answer_bytes : of the tensors of the largest answer to a tile. Larger ones, and of other answers those that are
        larger than any should be, are refused as soon as their length is known: no memory is taken for them.
    """
    of_tile = answer_bytes + ANSWER_ROOM
    methods = [
        {"name": [{"service": SERVICE}], "maxResponseMessageBytes": LARGEST_CONTROL},
        {"name": [{"service": SERVICE, "method": METHOD}], "maxResponseMessageBytes": of_tile},
    ]
    return [
        ("grpc.max_send_message_length", _LARGEST_REQUEST),
        ("grpc.max_receive_message_length", max(LARGEST_CONTROL, of_tile)),
        ("grpc.service_config", json.dumps({"methodConfig": methods})),
        # Pings find a peer that vanished without a FIN.
        ("grpc.keepalive_time_ms", int(1000 * max(_KEEPALIVE_S, infer_timeout_s / _PINGS))),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.lb_policy_name", "round_robin" if balanced else "pick_first"),
        ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_MS),
        # A server that restarts is found again within a second, not after gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # A proxy for the web would be asked for the server's name, and balance nothing.
        ("grpc.enable_http_proxy", 0),
    ]


@dataclass(kw_only=True)
class Connection:
    """An endpoint, and the channels to it.

    Attributes
    ----------
    endpoint, security, infer_timeout_s : with which it was opened.
    channel : requests go to all servers of the endpoint in turn.
    memory : shared with the server, where it is on this machine and lets us.
    one : requests go to one of them as long as it answers: its counters can be compared with earlier ones.
    files : digest of the TLS files.

    State: the channels for tiles. There is none before a contract says how large answers are (`expect`), and another
    one where a later contract has larger ones; tiles may still be under way on those before.
    """

    endpoint: Endpoint
    security: Security
    infer_timeout_s: float
    channel: InferenceServerClient
    memory: RegionPool
    one: InferenceServerClient
    files: str
    _for_tiles: list[tuple[ModelInfer, Reconnects]] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        endpoint: Endpoint,
        security: Security | None = None,
        *,
        infer_timeout_s: float = 120.0,
        shared_memory: bool = True,
        memory_key: str | None = None,
    ) -> Self:
        """Open the channels; nothing is sent before they are asked for something.

        Parameters
        ----------
        shared_memory : False keeps tensors out of it even where that is possible.
        memory_key : the server's key for it, where it wants one.

        Raises
        ------
        UsageError
            If a file of `security` cannot be used.
        """
        security = security or Security()
        security.check(endpoint)
        channel = _channel(endpoint, security, channel_arguments(infer_timeout_s))
        memory = RegionPool(channel, endpoint, wanted=shared_memory, key=memory_key, timeout_s=infer_timeout_s)
        one = channel
        if not endpoint.is_one_server:
            one = _channel(endpoint, security, channel_arguments(infer_timeout_s, balanced=False))
        return cls(
            endpoint=endpoint,
            security=security,
            infer_timeout_s=infer_timeout_s,
            channel=channel,
            memory=memory,
            one=one,
            files=security.digest(),
        )

    @property
    def infer(self) -> ModelInfer:
        """Sends tiles to all servers of the endpoint in turn; not before `expect`."""
        return self._for_tiles[-1][0]

    @property
    def reconnects(self) -> Reconnects:
        """Of `infer`."""
        return self._for_tiles[-1][1]

    def expect(self, answer_bytes: int) -> None:
        """Have answers to tiles taken whose tensors have so many bytes; larger ones are refused.

        Where one connection serves several contracts, the largest of their answers counts.
        """
        if not self._for_tiles or self.infer.answer_bytes < answer_bytes:
            infer = _model_infer(self.endpoint, self.security, self.infer_timeout_s, answer_bytes)
            self._for_tiles.append((infer, infer.reconnects()))

    async def config(self, model: str, *, timeout_s: float) -> Any:
        """Return a model's configuration, as the protocol has it: on the connection that tiles take, if there is one.

        Behind a balancer another connection may lead to another server.

        Raises
        ------
        InferenceServerException
            If there is no answer, without any token.
        """
        try:
            with unless_closed():
                if self._for_tiles:
                    answer = await self.infer.config(model, timeout_s=timeout_s)
                else:
                    answer = await self.channel.get_model_config(model, client_timeout=timeout_s)
        except grpc.aio.UsageError as misuse:
            raise closed() from misuse
        except InferenceServerException as error:
            raise without_token(error, self.channel.plugin()) from error
        return answer.config

    async def exchange(
        self,
        model: str,
        layout: TileLayout,
        arrays: Sequence[NDArray[Any]],
        *,
        timeout_s: float,
        origin: Origin,
        level: int | None = None,
    ) -> dict[str, NDArray[Any] | None]:
        """Send a tile's tensors and return those of the answer: through shared memory where there is some.

        Parameters
        ----------
        arrays : in the order of the layout's inputs.
        origin : of the answers before.
        level : of priority, 1 is the highest; None: the model's default.

        Raises
        ------
        InferenceServerException
            If there is no answer.
        ModelChangedError
            If another version of the model answers than before.
        ValueError
            If it is malformed, of more bytes than the tensors have, or the answer to something else.
        """
        request_id = new_request_id()
        async with self.memory.lent(layout.nbytes, address_of(arrays[0])) as region:
            if region is None:
                message = inline_request(model, layout, arrays, level=level, request_id=request_id)
            else:
                write_tensors(region, layout, arrays)
                message = region_request(model, layout, region.name, level=level, request_id=request_id)
            answer = await self.infer(message, timeout_s=timeout_s)
            origin.check(answer, model, request_id, self.endpoint.text)
            return tensors_in(answer, layout, region)

    def access(self) -> dict[str, bool | str]:
        """Return what a command of the server's environment needs to connect likewise (`server_models.access`)."""
        files = dict(self.security.files)
        if self.security.token_file is not None:
            files["triton_token_file"] = self.security.token_file
        return {"tls": self.endpoint.tls, **{setting: str(path.absolute()) for setting, path in files.items()}}

    def has_other_files(self) -> bool:
        """Tell whether the TLS files were replaced, by others that can be used, since it was opened."""
        try:
            if self.security.digest() == self.files:
                return False
            self.security.check(self.endpoint)
        except UsageError:  # they are just being replaced
            return False
        return True

    async def aclose(self) -> None:
        """Give shared memory back and close the channels."""
        try:
            await self.memory.aclose()
        finally:
            for infer, _ in self._for_tiles:
                await infer.aclose()
            await self.channel.close()
            await self.one.close()
            # Last, as it takes a moment: by then what gRPC has to say of cancelled requests has come, too.
            for _, reconnects in self._for_tiles:
                await reconnects.aclose()


def _channel(endpoint: Endpoint, security: Security, arguments: list[tuple[str, int | str]]) -> InferenceServerClient:
    credentials = security.credentials() if endpoint.tls else None
    channel = InferenceServerClient(endpoint.target, creds=credentials, channel_args=arguments)
    if security.token_file is not None:
        channel.register_plugin(BearerToken(security.token_file))
    return channel


def _model_infer(endpoint: Endpoint, security: Security, infer_timeout_s: float, answer_bytes: int) -> ModelInfer:
    """Open a channel for tiles; gRPC has none share the connections of one with other arguments, or with TLS."""
    arguments = channel_arguments(infer_timeout_s, answer_bytes=answer_bytes)
    if endpoint.tls:
        channel = grpc.aio.secure_channel(endpoint.target, security.credentials(), options=arguments)
    else:
        channel = grpc.aio.insecure_channel(endpoint.target, options=arguments)
    token = None if security.token_file is None else BearerToken(security.token_file)
    return ModelInfer(channel, token, answer_bytes=answer_bytes)
