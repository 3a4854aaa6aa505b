"""A real Triton for the whole session.

Its state is under a short folder of its own in the system's temporary folder (a Unix socket's path is short), so
neither a developer's server nor another session is touched.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.local_state import LocalState

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def short_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ks-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class SessionServer:
    """The session's server: do not end it, do not fill its queues."""

    state: LocalState
    address: str
    memory_key: str

    def lease(self, model: str) -> str:
        """Have another model loaded and return the address; the lease ends with the session."""
        return str(self.state.holder(model).until("ready")["address"])


@pytest.fixture(scope="session")
def session_server(server_env: Path) -> Iterator[SessionServer]:
    """The null model on a local Triton that all tests share; commands that they run share it too."""
    with short_folder() as runtime, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        state = LocalState(runtime, server_env)
        try:
            ready = state.holder("null_l2a").until("ready")
            yield SessionServer(state, ready["address"], ready["memory_key"])
        finally:
            left = state.close()
        assert not left


@pytest.fixture(scope="session")
def csmask_address(session_server: SessionServer) -> str:
    """Address of the session's server with csmask for both levels."""
    session_server.lease("csmask_l1c")
    return session_server.lease("csmask_l2a")
