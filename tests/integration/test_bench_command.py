"""`kappamask-stream bench` as people start it: a real product, a real Triton, all levels; and what an interrupt leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kappamask_stream.bench.document import read_report
from kappamask_stream.bench.facts import Facts
from kappamask_stream.capacity import read_bench
from kappamask_stream.synth import write_product
from tests.integration.local_state import CLI, PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("product"), size=600, seed=3).product


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, of this test alone; at the end nothing may be left in it."""
    with tempfile.TemporaryDirectory(prefix="ks-", dir="/tmp") as folder:
        yield Path(folder)
        assert [path.name for path in Path(folder).iterdir()] == []


def bench(product: Path, *options: str) -> list[str]:
    return [str(CLI), "bench", "--product", str(product), "--model", "null_l2a", "--duration", "0.3", *options]


def test_all_levels_of_a_real_server(
    session_server: SessionServer, product: Path, tmp_path: Path, temporary: Path
) -> None:
    variables = session_server.state.variables | {"TMPDIR": str(temporary)}
    file = tmp_path / "a.json"
    ended = subprocess.run(
        bench(product, "--concurrency", "1,32", "--json", str(file)),
        env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "warning" not in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    for title in ("SERVER alone, over", "CLIENT alone, one product", "END TO END, "):
        assert title in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 100

    report = read_report(file)
    facts = Facts(report=report)
    assert (report.model, report.product) == ("null_l2a", product.name.removesuffix(".SAFE"))
    assert (report.product_tiles, report.local_server) == (4, True)
    assert report.server is not None
    assert [point.concurrency for point in report.server.points] == [1, 32]
    assert all(point.tiles > 0 and point.batch_sizes for point in report.server.points)
    assert report.client is not None
    assert report.client.tiles_inferred == report.product_tiles_inferred
    assert report.client.cpu_s > report.client.floor.cpu_s > 0
    assert report.end_to_end is not None
    assert report.end_to_end.products >= 4
    assert report.end_to_end.tiles_inferred == report.end_to_end.products * report.product_tiles_inferred
    assert report.end_to_end.window <= 32
    assert facts.is_saturated
    assert facts.floor_s is not None
    assert report.settings is not None
    assert (report.settings.decoder, report.settings.duration_s, report.settings.rounds) == ("cpu", 0.3, 1)
    assert facts.cores_busy is not None
    assert report.environment.versions["server"].startswith("triton 2.")
    assert report.verdict is not None
    assert ended.stdout.rstrip().endswith(report.verdict.text[-30:].replace(" \n", " ").rpartition(" ")[2])
    assert read_bench(file).client_cpu_s is not None

    text = file.read_text()
    for secret in (str(product.parent), str(temporary), os.uname().nodename, "127.0.0.1"):
        assert secret not in text
    compared = session_server.state.cli("bench", "compare", str(file), str(file), "--json", "--fail-above", "0")
    assert {figure["verdict"] for figure in json.loads(compared.stdout)["figures"]} == {"same"}


@pytest.mark.parametrize("level", ["server", "end-to-end"])
def test_an_interrupt_leaves_nothing(
    level: str, session_server: SessionServer, product: Path, tmp_path: Path, temporary: Path
) -> None:
    variables = session_server.state.variables | {"TMPDIR": str(temporary)}
    file = tmp_path / "a.json"
    command = bench(product, "--levels", level, "--duration", "3600", "--concurrency", "2", "--json", str(file))
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        begun = {"server": "server: 2 in flight: measuring", "end-to-end": "end-to-end: warming up"}[level]
        for line in started.stderr:
            if line.startswith(begun):
                break
        children = [child for child in descendants(started.pid) if "bench" in " ".join(child.cmdline())]
        assert children
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=PATIENCE_S)
    assert started.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert not file.exists()
    wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "children end")


def descendants(pid: int) -> list[Any]:
    return psutil.Process(pid).children(recursive=True)
