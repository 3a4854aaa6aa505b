"""A model that never finishes loading on the local server: it is said what is waited for, and it ends."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import make_state, null_repository, site_of, state

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fault_table import Fault
    from tests.integration.local_state import LocalState

pytestmark = pytest.mark.integration

__all__ = ["make_state", "null_repository", "state"]

_NEVER = """
import time

class TritonPythonModel:
    def initialize(self, args):
        time.sleep(100000)
"""


@pytest.mark.fault("Triton", "a model that never finishes loading")
def test_a_model_that_never_finishes_loading(
    state: LocalState, null_repository: Path, tmp_path: Path, fault: Fault
) -> None:
    seconds = fault.amount(2, 20)
    folder = state.environment / "models" / "own_l2a"
    shutil.copytree(null_repository / "null_l2a", folder)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace("null_l2a", "own_l2a"))
    (folder / "1" / "model.py").write_text(_NEVER)
    # Ten minutes are as good as a few seconds. Only the supervisor's process has the module.
    (site_of(state.environment) / "impatient.pth").write_text(
        f"import sys; sys.argv[1:2] == ['supervise'] and setattr("
        f"__import__('server_models.loading', fromlist=['loading']), '_LOAD_S', {seconds})\n"
    )
    told = state.cli("server", "start", "--model", "own_l2a", code=4).stderr
    fault.injected()
    assert "loading own_l2a" in told, "it is said what is waited for"
    fault.refused(told, tmp_path, f"Triton has not loaded own_l2a within {seconds} s", "tritonserver.log")
    state.wait_until_gone()
