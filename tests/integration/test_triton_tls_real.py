"""A real Triton that wants TLS and certificates of its clients."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import ServerError
from kappamask_stream.inference import connect
from kappamask_stream.settings import Settings
from tests.integration.local_state import CLI
from tests.integration.tiles import tile_for
from tests.integration.tls_files import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Start

pytestmark = pytest.mark.integration


async def test_a_triton_that_wants_certificates_of_its_clients(
    null_repository: Path, private_triton: Start, server_env: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    server, mine = authority.pair("127.0.0.1"), authority.pair("me@ours.example")
    flags = ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={authority.file}"]
    flags += [f"--grpc-server-cert={server.certificate}", f"--grpc-server-key={server.key}"]
    files = {"ca": str(authority.file), "certificate": str(mine.certificate), "key": str(mine.key)}
    triton = await asyncio.to_thread(private_triton, null_repository, ["null_l2a"], flags=flags, tls=files)

    given = {f"triton_{name}": path for name, path in files.items()}
    endpoint = f"grpcs://{triton.address}"
    async with await connect(Settings(triton=endpoint, **given), "null_l2a") as client:
        assert (await client.infer(tile_for(client))).labels.min() == 4
        assert (await client.batch_sizes()).counts is not None
    for settings, says in (
        (Settings(triton=endpoint, triton_ca=authority.file), "wants a certificate of its clients"),
        (Settings(triton=endpoint), "it is of a CA that is not known here"),
        (Settings(triton=f"grpc://{triton.address}"), f"speaks TLS: give {endpoint}"),
    ):
        async with asyncio.timeout(30):
            with pytest.raises(ServerError, match=says) as caught:
                await connect(settings, "null_l2a", server_wait_s=600.0)
        assert not caught.value.retryable

    environment = {f"KAPPAMASK_{name.upper()}": path for name, path in given.items()}
    checked = await asyncio.to_thread(
        subprocess.run,
        [str(CLI), "models", "check", "null_l2a", "--triton", endpoint, "--repository", str(null_repository), "--json"],
        env={**os.environ, **environment, "KAPPAMASK_SERVER_ENV": str(server_env), "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["batches"][0]["agreement"] == 1.0
