"""Places for masks that somebody else has, takes, moves or removes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.holding_proxy import HoldingProxy
from tests.integration.local_state import PATIENCE_S

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.fault_table import Fault
    from tests.faults.plant import Plant
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


def make_socket(path: Path) -> None:
    """Bind one where paths may be longer than a socket's."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


TAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a named pipe": (os.mkfifo, "is no mask of ours"),
    "a socket": (make_socket, "is no mask of ours"),
    "a folder": (Path.mkdir, "a folder has that name"),
    "another file": (lambda path: path.write_text("mine"), "is no mask of ours"),
}


@pytest.mark.fault("Output", "the mask's name is a pipe's, a socket's, a folder's, another file's")
@pytest.mark.parametrize("what", TAKEN)
def test_a_name_that_is_taken(plant: Plant, fault: Fault, what: str) -> None:
    plant.fresh()
    make, said = TAKEN[what]
    (mask,) = [plant.out / name for name in plant.whole if name.endswith("NULL_20m.tif")]
    mask.parent.mkdir(parents=True)
    make(mask)
    fault.injected()
    ended = plant.run()
    assert (ended.code, ended.out) == (5, "")
    assert str(mask) in ended.err
    assert said in ended.err
    assert [path for path in plant.out.rglob("*") if path.is_file()] == [mask] * (what == "another file")
    shutil.rmtree(plant.out)
    plant.require_again()
    fault.outcome("exit 5 with file and remedy, nothing left, then byte-identical")


@pytest.mark.fault("Output", "two runs of the same product at once")
def test_two_runs_of_the_same_product_at_once(plant: Plant, fault: Fault) -> None:
    for _ in range(fault.amount(1, 10)):
        plant.fresh()
        both = [plant.start(), plant.start()]
        assert [process.wait(PATIENCE_S * 2) for process in both] == [0, 0], plant.said
        fault.injected()
        plant.require_whole()
        plant.require_again()
        fault.outcome("both exit 0, byte-identical, nothing left")


@pytest.fixture
def held(plant: Plant, session_server: SessionServer) -> Iterator[tuple[HoldingProxy, subprocess.Popen[str]]]:
    """A run whose first tile is not answered yet."""
    plant.fresh()
    with (
        HoldingProxy(session_server.address) as proxy,
        plant.start((*OVER_GRPC, f"grpc://{proxy.address}")) as process,
    ):
        try:
            assert proxy.held.wait(PATIENCE_S)
            yield proxy, process
        finally:
            process.kill()


OVER_GRPC = ("--png", "--stac", "--probabilities", "--report", "--triton")


@pytest.mark.fault("Output", "the output folder is removed, or replaced by a file, in the middle")
@pytest.mark.parametrize("instead", [None, "a file"])
def test_a_folder_that_goes_in_the_middle(
    plant: Plant, held: tuple[HoldingProxy, subprocess.Popen[str]], fault: Fault, instead: str | None
) -> None:
    proxy, process = held
    (folder,) = plant.out.iterdir()
    shutil.rmtree(plant.out)
    if instead:
        plant.out.write_text("mine")
    fault.injected()
    proxy.let_go()
    assert process.wait(PATIENCE_S) == 5
    (line,) = [line for line in plant.said.splitlines() if "error: " in line]
    assert f"cannot write {folder}" in line
    assert ("a file stands where its folder should be" if instead else "its folder is gone") in line
    assert plant.temporary() == []
    if instead:
        assert plant.out.read_text() == "mine"
        plant.out.unlink()
    assert not plant.out.exists()
    plant.require_again()
    fault.outcome("exit 5 with file and remedy, nothing left, then byte-identical")


@pytest.mark.fault("Output", "the temporary folder is emptied in the middle")
def test_scratch_files_that_somebody_tidies_up(
    plant: Plant, held: tuple[HoldingProxy, subprocess.Popen[str]], fault: Fault
) -> None:
    proxy, process = held
    for path in plant.tmp.iterdir():
        shutil.rmtree(path)
        fault.injected()
    proxy.let_go()
    assert process.wait(PATIENCE_S) == 5
    (line,) = [line for line in plant.said.splitlines() if "error: " in line]
    assert f"cannot write {plant.tmp}" in line
    assert "TMPDIR" in line
    assert plant.left() == []
    plant.require_again()
    fault.outcome("exit 5 with file and remedy, nothing left, then byte-identical")


@pytest.mark.fault("Output", "output is a link to another file system, or to nowhere")
@pytest.mark.parametrize("link", ["the folder", "the product's folder", "nowhere"])
def test_links(plant: Plant, fault: Fault, link: str) -> None:
    plant.fresh()
    (product,) = {name.partition("/")[0] for name in plant.whole if name.startswith("S2")}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as elsewhere:
        if link == "the product's folder":
            plant.out.mkdir()
            (plant.out / product).symlink_to(elsewhere)
        else:
            plant.out.symlink_to(Path(elsewhere) / "gone" if link == "nowhere" else elsewhere)
        fault.injected()
        ended = plant.run()
        if link == "nowhere":
            assert ended.code == 5
            assert f"cannot write {plant.out}" in ended.err
            assert "Traceback" not in ended.err
            fault.outcome("exit 5 with file and remedy, nothing left")
        else:
            assert ended.code == 0, ended.err
            made = {
                str(Path(folder, name).relative_to(plant.out)): Path(folder, name).read_bytes()
                for folder, _, names in os.walk(plant.out, followlinks=True)
                for name in names
            }
            assert {name: content for name, content in made.items() if not name.endswith(".html")} == {
                name: content for name, content in plant.whole.items() if not name.endswith(".html")
            }
            fault.outcome("through the link: byte-identical")
        (plant.out / product if link == "the product's folder" else plant.out).unlink()
    plant.fresh()
