"""What a shared server wants to see: TLS files and a token, checked in words before gRPC has them.

gRPC ends the whole process on a key without a certificate, and calls a damaged file a failed connection.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from kappamask_stream.errors import UsageError
from kappamask_stream.inference.token import BearerToken

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.settings import Settings

#: Setting of each TLS file, and how gRPC's own function calls it.
_FILES = {"triton_ca": "root_certificates", "triton_certificate": "certificate_chain", "triton_key": "private_key"}


@dataclass(frozen=True, kw_only=True)
class Security:
    """How a server is recognised and what it is shown.

    Attributes
    ----------
    ca : file of the CAs that the server's certificate is checked with; None: those that gRPC brings.
    certificate, key : files of this client's certificate and its private key; both or none.
    token_file : file of a token that goes with each request.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take the ``triton_…`` settings."""
        return cls(
            ca=settings.triton_ca,
            certificate=settings.triton_certificate,
            key=settings.triton_key,
            token_file=settings.triton_token_file,
        )

    @property
    def files(self) -> dict[str, Path]:
        """The TLS files by their settings' names; those that are given."""
        files = {"triton_ca": self.ca, "triton_certificate": self.certificate, "triton_key": self.key}
        return {setting: path for setting, path in files.items() if path is not None}

    def check(self, endpoint: Endpoint) -> None:
        """Read all files, and refuse what cannot work or would tell secrets.

        Raises
        ------
        UsageError
            With the setting, the file and the remedy.
        """
        if self.files and not endpoint.tls:
            raise UsageError(
                f"setting {' and '.join(self.files)} is for TLS, and {endpoint} is without: give grpcs://HOST:PORT, or "
                "leave the setting out"
            )
        for given, missing in (("triton_certificate", "triton_key"), ("triton_key", "triton_certificate")):
            if given in self.files and missing not in self.files:
                raise UsageError(
                    f"setting {given} is {self.files[given]} and {missing} is not given: a client's certificate is "
                    "good for nothing without its key, nor the other way round"
                )
        if self.token_file is not None:
            if not endpoint.tls and not endpoint.is_loopback:
                raise UsageError(
                    f"setting triton_token_file is for TLS: on the way to {endpoint} everybody could read the token; "
                    "give grpcs://HOST:PORT"
                )
            BearerToken(self.token_file)
        if endpoint.tls:
            self._check_files()

    def read(self) -> dict[str, bytes]:
        """Return the contents of the TLS files by their settings' names.

        Raises
        ------
        UsageError
            If one cannot be read.
        """
        contents = {}
        for setting, path in self.files.items():
            try:
                contents[setting] = path.read_bytes()
            except OSError as error:
                raise UsageError(f"setting {setting}: {path} cannot be read: {error.strerror or error}") from error
        return contents

    def digest(self) -> str:
        """Tell whether the TLS files have changed: what differs from an earlier digest has."""
        digest = hashlib.sha256()
        for content in self.read().values():
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what gRPC needs for TLS."""
        import grpc

        return grpc.ssl_channel_credentials(**{_FILES[setting]: content for setting, content in self.read().items()})

    def context(self) -> ssl.SSLContext:
        """Return the same for Python's own TLS, which says more of what goes wrong. It checks no server.

        Raises
        ------
        UsageError
            If the key is not the certificate's, or needs a password.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        if self.certificate is not None and self.key is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                raise UsageError(
                    f"setting triton_key: {self.key} is not the key of the certificate in {self.certificate} (setting "
                    f"triton_certificate), or needs a password, which it must not: {_reason(error)}"
                ) from error
        return context

    def _check_files(self) -> None:
        for setting, content in self.read().items():
            kind = b"PRIVATE KEY-----" if setting == "triton_key" else b"-----BEGIN CERTIFICATE-----"
            if kind not in content:
                what = "private key" if setting == "triton_key" else "certificate"
                raise UsageError(f"setting {setting}: {self.files[setting]} holds no {what} in PEM")
        if self.ca is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca)
            except ssl.SSLError as error:
                raise UsageError(
                    f"setting triton_ca: {self.ca} holds no CA that can be read: {_reason(error)}"
                ) from error
        self.context()


def _no_password() -> str:
    """Answer before OpenSSL asks on the terminal."""
    return ""


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
