"""What tests of fetching share: a publisher, a cache, one file, and the command."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.weights import PUBLISHED, WeightsCache
from kappamask_stream.weights.download import Patience
from kappamask_stream.weights.fetching import Fetched, fetch
from tests.integration.local_state import CLI, PATIENCE_S
from tests.integration.weights_server import Fault, WeightsServer, hdf5_like

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "kappamask_l2a_unet"
UNET = PUBLISHED[MODEL]
CONTENT = hdf5_like(300_000)
HALF = 150_000
#: Patience for tests: short pauses, and reads that a busy machine still answers in time.
PATIENT = Patience(attempts=4, pause_s=0.001, read_s=20.0)


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with WeightsServer(CONTENT) as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache.at(tmp_path / "weights")


async def fetched(server: WeightsServer, cache: WeightsCache, **options: Any) -> Fetched:
    return await fetch(UNET, cache, server.url, patience=options.pop("patience", PATIENT), **options)


def files(cache: WeightsCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def part(cache: WeightsCache) -> Path:
    return cache.folder / "l2a_unet.hdf5.part"


def has_arrived(cache: WeightsCache, size: int) -> bool:
    return part(cache).exists() and part(cache).stat().st_size == size


def half_way(cache: WeightsCache, **rest: Any) -> Fault:
    """Break off when the client has written the first half."""
    return Fault(after=HALF, until=lambda: has_arrived(cache, HALF), **rest)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def variables(cache: WeightsCache, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAPPAMASK_WEIGHTS")}
    return clean | {"KAPPAMASK_WEIGHTS_DIR": str(cache.folder)} | more


def start(server: WeightsServer, cache: WeightsCache, *options: str, **more: Any) -> subprocess.Popen[str]:
    command = [*more.pop("prefix", ()), str(CLI), "models", "fetch", MODEL, "--url", server.url, *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(command, env=variables(cache), text=True, **streams)


def run(server: WeightsServer, cache: WeightsCache, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    with start(server, cache, *options, **more) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
