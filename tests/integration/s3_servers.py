"""Two S3 stores over real sockets, from an environment of their own: moto's and rclone's, which differ where they may."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.integration.local_state import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY_ID, SECRET = "KEYOFTESTS", "SECRETOFTESTS"  # rclone wants 8 characters or more
_SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}


class Store(Protocol):
    """A store that runs; buckets are filled behind the client's back."""

    endpoint: str

    def fill(self, bucket: str, files: dict[str, bytes]) -> None:
        """Have these objects, under keys that are their paths."""

    def content(self, bucket: str, key: str) -> bytes:
        """Return an object's bytes."""


class MotoStore:
    """moto's server: wants a signature but does not check it, knows multipart uploads and If-Match."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def fill(self, bucket: str, files: dict[str, bytes]) -> None:
        self._ask("PUT", f"/{bucket}")
        for key, data in files.items():
            self._ask("PUT", f"/{bucket}/{urllib.parse.quote(key)}", data)

    def content(self, bucket: str, key: str) -> bytes:
        return self._ask("GET", f"/{bucket}/{urllib.parse.quote(key)}")

    def publish(self, bucket: str, key: str) -> None:
        """Let everybody read an object."""
        self._ask("PUT", f"/{bucket}/{urllib.parse.quote(key)}?acl", b"", {"x-amz-acl": "public-read"})

    def uploads(self, bucket: str) -> bytes:
        """Return the list of multipart uploads that are begun and neither completed nor aborted."""
        return self._ask("GET", f"/{bucket}?uploads")

    def header(self, bucket: str, key: str, name: str) -> str | None:
        url = f"{self.endpoint}/{bucket}/{urllib.parse.quote(key)}"
        request = urllib.request.Request(url, method="HEAD", headers=_SIGNED)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.headers.get(name)

    def _ask(self, method: str, path: str, data: bytes | None = None, rest: Mapping[str, str] | None = None) -> bytes:
        headers = {**_SIGNED, "Content-Type": "application/octet-stream", **(rest or {})}
        request = urllib.request.Request(f"{self.endpoint}{path}", data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.read()


class RcloneStore:
    """rclone's server: checks signatures, answers ranges with status 200 and ignores If-Match."""

    def __init__(self, endpoint: str, root: Path) -> None:
        self.endpoint, self._root = endpoint, root

    def fill(self, bucket: str, files: dict[str, bytes]) -> None:
        # Through the server: it keeps listings, and told to keep none (--dir-cache-time 0) it spins at a core's cost.
        if not (self._root / bucket).is_dir():
            self._put(f"/{bucket}", b"")
        for key, data in files.items():
            self._put(f"/{bucket}/{urllib.parse.quote(key)}", data)

    def _put(self, path: str, data: bytes) -> None:
        request = AWSRequest("PUT", f"{self.endpoint}{path}", data=data)
        S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", "us-east-1").add_auth(request)
        sent = urllib.request.Request(request.url, data=data, headers=dict(request.headers), method="PUT")
        sent.add_header("Content-Type", "application/octet-stream")
        urllib.request.urlopen(sent, timeout=PATIENCE_S).close()

    def content(self, bucket: str, key: str) -> bytes:
        return (self._root / bucket / key).read_bytes()


@pytest.fixture(scope="session")
def stores_env() -> Path:
    """The stores' environment, as `make stores-env` makes it."""
    default = Path(__file__).resolve().parents[2] / ".venv-stores"
    path = Path(os.environ.get("KAPPAMASK_STORES_ENV") or default)
    if not (path / "bin" / "rclone").exists():
        pytest.skip(f"no S3 stores at {path} (make stores-env, or set KAPPAMASK_STORES_ENV)")
    return path


@pytest.fixture(scope="session")
def moto_store(stores_env: Path) -> Iterator[MotoStore]:
    port = free_port()
    command = [str(stores_env / "bin" / "python"), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port):
        yield MotoStore(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def rclone_store(stores_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneStore]:
    port, root = free_port(), tmp_path_factory.mktemp("rclone")
    command = [
        str(stores_env / "bin" / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key",
        f"{KEY_ID},{SECRET}", "--config", os.devnull, str(root),
    ]  # fmt: skip
    with _running(command, port):
        yield RcloneStore(f"http://127.0.0.1:{port}", root)


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that both stores take, and nothing of the machine's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        until = time.monotonic() + PATIENCE_S
        while not _answers(port):
            assert process.poll() is None, f"{shutil.which(command[0])} ended with {process.returncode}"
            assert time.monotonic() < until, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as error:  # it wants a signature
        error.close()
    except OSError:
        return False
    return True
