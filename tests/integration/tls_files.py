"""Certificates of CAs of the tests' own, as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path

    def server_credentials(self, clients_ca: Path | None = None) -> grpc.ServerCredentials:
        """For a gRPC server; with a CA it wants certificates of its clients."""
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        root = None if clients_ca is None else clients_ca.read_bytes()
        return grpc.ssl_server_credentials([pair], root, require_client_auth=root is not None)


@dataclass
class Authority:
    """A CA, and what it signs, in a folder."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def file(self) -> Path:
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(path))
        return path

    def pair(self, name: str, *more: str, common_name: str | None = None, is_expired: bool = False) -> Pair:
        """Sign a certificate for host names or addresses."""
        end = datetime.now(UTC) - timedelta(days=1) if is_expired else None
        issued = self.ca.issue_cert(name, *more, common_name=common_name, not_after=end)
        files = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        files.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        files.key.write_bytes(issued.private_key_pem.bytes())
        return files
