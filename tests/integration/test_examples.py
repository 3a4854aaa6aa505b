"""Python that documents show runs as it stands: docs/api.md as one program, the notebook in a kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.local_state import PATIENCE_S
from tests.unit.documents import PAGES, ROOT, fences

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

NOTEBOOK = ROOT / "examples" / "mask_a_product.ipynb"
#: In a process of its own: the kernel, its sockets and their warnings are no part of what is tested.
EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=float(sys.argv[3]), kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "python")], ids=lambda p: p.name)
@pytest.mark.usefixtures("csmask_address")
def test_python_in_documents_runs(page: Path, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    text = "\n".join(fences(page, "python"))
    program.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S * 3,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    if "from kappamask_stream import" in text:  # the API; other pages show parts that mask nothing
        assert list(tmp_path.rglob("*.tif"))
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("csmask_address")
def test_the_notebook_runs(session_server: SessionServer, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    executed = tmp_path / "executed.ipynb"
    ended = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(executed), str(PATIENCE_S * 3)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    outputs = [output for cell in json.loads(executed.read_text())["cells"] for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    assert [data for data in shown if "image/png" in data], "no picture was shown"
    text = "".join(line for data in shown for line in data["text/plain"])
    assert float(text.split("agreement ")[1].split()[0]) > 0.7
    assert text.count("% cloud") == 4, "600 x 600 pixels of 20 m are four windows"
    assert "the same mask" in text


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
