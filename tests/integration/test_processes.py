"""`run --processes` as people start it: a real Triton, real signals, the same bytes, and nothing that is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

from kappamask_stream.synth import write_product
from tests.integration.holding_proxy import HoldingProxy
from tests.integration.local_state import CLI, PATIENCE_S, is_alive, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fault_table import Fault
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=240, seed=seed).product for seed in (1, 2, 3)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_masks_and_catalogue_are_those_of_one_process(
    session_server: SessionServer, products: list[Path], tmp_path: Path
) -> None:
    """The server is this machine's own: each process has a lease."""
    lines, before = [], session_server.state.status()["leases"]
    for processes in (1, 2):
        out = tmp_path / str(processes)
        ended = subprocess.run(
            [
                str(CLI), "run", *map(str, products), str(tmp_path / "nowhere"), "--model", "null_l2a", "--json",
                "--output", str(out), "--stac", "--png", "--probabilities", "--aoi", "399960,5297640,402360,5300040,EPSG:32632",
                "--processes", str(processes),
            ],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S * 3,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (1, "")
        lines.append({d["product"]: d for d in map(json.loads, ended.stdout.splitlines())})
    one, two = lines
    assert set(one) == set(two)
    for name, document in one.items():
        same = (
            "status",
            "error",
            "exit_code",
            "tiles",
            "tiles_inferred",
            "classes",
            "fingerprint",
            "bytes_read",
            "model",
        )
        assert {key: document[key] for key in same} == {key: two[name][key] for key in same}
        assert two[name]["peak_rss_bytes"] > 50_000_000
    assert content(tmp_path / "1") == content(tmp_path / "2")
    assert "collection.json" in content(tmp_path / "2")
    assert session_server.state.status()["leases"] <= max(before, 1), "those that others held before"


class Held:
    """A run over two processes, both in the middle of a product: no answer comes until `proxy.let_go`."""

    def __init__(self, products: list[Path], server: str, out: Path) -> None:
        self.proxy = HoldingProxy(server)
        self.proxy.__enter__()
        self.process = subprocess.Popen(
            [
                str(CLI), "run", *map(str, products), "--output", str(out), "--model", "null_l2a",
                "--triton", f"grpc://{self.proxy.address}", "--processes", "2", "--concurrency", "1",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: len(self.children()) == 2, "two children")
        self.pids = [child.pid for child in self.children()]
        wait_until(lambda: len(self._begun()) == 2, "two products in work")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def _begun(self) -> list[str]:
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        self._lines = [*getattr(self, "_lines", []), line]
        return [line for line in self._lines if "tiles done" in line]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err

    def gone(self) -> None:
        wait_until(lambda: not any(map(is_alive, self.pids)), "the children end")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.proxy.__exit__()


@pytest.fixture
def held(session_server: SessionServer, products: list[Path], tmp_path: Path) -> Iterator[Callable[[], Held]]:
    with ExitStack() as stack:

        def start() -> Held:
            one = Held(products, session_server.address, tmp_path / "out")
            stack.callback(one.close)
            return one

        yield start


@pytest.mark.fault("Process", "run --processes 2: Ctrl-C, SIGKILL of the parent, of a child, in the middle")
def test_ctrl_c_in_a_terminal_ends_all_and_leaves_nothing(
    held: Callable[[], Held], tmp_path: Path, fault: Fault
) -> None:
    one = held()
    os.killpg(one.process.pid, signal.SIGINT)  # as a terminal does: to all of its foreground
    fault.injected()
    code, out, err = one.end()
    assert (code, out) == (130, "")
    assert "SIGINT: stopping" in err
    assert "Traceback" not in err
    assert not any(map(is_alive, one.pids)), "it waits for them"
    assert not list((tmp_path / "out").rglob("*.*"))
    fault.outcome("no child left, no file")


@pytest.mark.fault("Process", "run --processes 2: Ctrl-C, SIGKILL of the parent, of a child, in the middle")
def test_killed_it_takes_its_children_along(held: Callable[[], Held], tmp_path: Path, fault: Fault) -> None:
    one = held()
    one.process.kill()
    fault.injected()
    assert one.end()[0] == -signal.SIGKILL
    one.gone()
    assert not list((tmp_path / "out").rglob("*.*"))
    fault.outcome("no child left, no file")


@pytest.mark.fault("Process", "run --processes 2: Ctrl-C, SIGKILL of the parent, of a child, in the middle")
def test_a_child_that_is_killed_costs_time_only(
    held: Callable[[], Held], products: list[Path], tmp_path: Path, fault: Fault
) -> None:
    one = held()
    os.kill(one.pids[0], signal.SIGKILL)
    fault.injected()
    wait_until(lambda: {c.pid for c in one.children() if is_alive(c.pid)} - set(one.pids), "another one")
    one.proxy.let_go()
    code, out, err = one.end()
    assert code == 0, err
    assert len(out.splitlines()) == len(products)
    assert len(list((tmp_path / "out").rglob("*_20m.tif"))) == len(products)
    assert not list((tmp_path / "out").rglob(".*"))
    fault.outcome("another child, all masks")
