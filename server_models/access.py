"""How the commands of this environment reach a Triton: the local one, or one elsewhere with TLS and a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tritonclient.grpc as triton

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

_LARGEST_MESSAGE = 2**31 - 1
#: Passing arguments replaces tritonclient's, so all stand here. A proxy for the web must not come between.
_CHANNEL_ARGS = [
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a server wants of its clients; the client's settings, which it has checked.

    Attributes
    ----------
    tls : True where the connection is encrypted.
    triton_ca, triton_certificate, triton_key : PEM files.
    triton_token_file : file of a token that goes with each request.
    """

    tls: bool = False
    triton_ca: str | None = None
    triton_certificate: str | None = None
    triton_key: str | None = None
    triton_token_file: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what the client writes: an object with these attributes; those that are missing are not given."""
        return cls(**json.loads(text))


def open_client(endpoint: str, access: Access | None = None) -> triton.InferenceServerClient:
    """Return a client, which the caller closes.

    Parameters
    ----------
    endpoint : a gRPC target, e.g. ``127.0.0.1:8001``.

    Raises
    ------
    UsageError
        If the token's file cannot be read.
    """
    access = access or Access()
    client = triton.InferenceServerClient(
        endpoint,
        ssl=access.tls,
        root_certificates=access.triton_ca,
        certificate_chain=access.triton_certificate,
        private_key=access.triton_key,
        channel_args=_CHANNEL_ARGS,
    )
    if access.triton_token_file is not None:
        try:
            token = Path(access.triton_token_file).read_text().strip()
        except OSError as error:
            raise UsageError(f"setting triton_token_file cannot be read: {error}") from error

        def authorize(request: Any) -> None:
            request.headers["authorization"] = f"Bearer {token}"

        client.register_plugin(authorize)
    return client
