"""`kappamask-stream models fetch` as people start it: signals, full disks, what is shown; and what is made of it."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rasterio

from kappamask_stream.synth import write_product
from kappamask_stream.weights import PUBLISHED, WeightsCache
from tests.integration.fetching import (
    CONTENT,
    HALF,
    MODEL,
    UNET,
    cache,
    files,
    half_way,
    has_arrived,
    part,
    run,
    server,
    sha256,
    start,
    variables,
)
from tests.integration.local_state import CLI, PATIENCE_S, wait_until
from tests.integration.test_run import as_anybody, read_until
from tests.integration.weights_server import WeightsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.local_state import LocalState

__all__ = ["cache", "server"]

# Interrupted, killed


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_ended_by_a_signal_it_goes_on_from_there(
    server: WeightsServer, cache: WeightsCache, number: signal.Signals, code: int
) -> None:
    server.faults.append(half_way(cache, then="stall"))
    with start(server, cache) as process:
        wait_until(lambda: has_arrived(cache, HALF), "the first half has arrived")
        assert files(cache) == ["l2a_unet.hdf5.part", "l2a_unet.hdf5.part.json"], "nothing under the final name"
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert files(cache) == ["l2a_unet.hdf5.part", "l2a_unet.hdf5.part.json"]
    ended = run(server, cache)
    assert ended.returncode == 0, ended.stderr
    assert server.ranges_asked == [None, f"bytes={HALF}-"]
    assert [request.sent for request in server.requests] == [HALF, len(CONTENT) - HALF]
    assert cache.path(UNET).read_bytes() == CONTENT
    assert files(cache) == ["l2a_unet.hdf5", "l2a_unet.hdf5.json"]


def test_who_waits_for_one_that_is_killed_goes_on_with_its_bytes(server: WeightsServer, cache: WeightsCache) -> None:
    server.faults.append(half_way(cache, then="stall"))
    with start(server, cache) as first:
        wait_until(lambda: has_arrived(cache, HALF), "the first half has arrived")
        with start(server, cache) as second:
            assert second.stderr is not None
            assert any("another process fetches" in line for line in second.stderr)
            first.kill()
            assert second.wait(PATIENCE_S) == 0
    assert server.ranges_asked == [None, f"bytes={HALF}-"]
    assert cache.path(UNET).read_bytes() == CONTENT


# Where it cannot be written


def test_places_that_cannot_be_written_are_output_errors(server: WeightsServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/kappamask-stream")):
        ended = run(server, WeightsCache.at(place))
        assert (ended.returncode, ended.stdout) == (5, "")
        assert f"error: cannot write {place}" in ended.stderr
        assert "name another folder with KAPPAMASK_WEIGHTS_DIR" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert server.requests == []


def test_a_folder_without_permission_is_an_output_error(server: WeightsServer, cache: WeightsCache) -> None:
    cache.folder.mkdir(mode=0o500)
    ended = run(server, cache, prefix=as_anybody())
    assert (ended.returncode, ended.stdout) == (5, "")
    assert "Permission denied" in ended.stderr
    assert files(cache) == []


def test_a_limit_on_the_size_of_files_is_an_output_error_and_then_it_goes_on(
    server: WeightsServer, cache: WeightsCache
) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))

    ended = run(server, cache, preexec_fn=limited)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert re.search(
        r"error: cannot write .*\.part: File too large \(150000 bytes are needed, \d+ are free", ended.stderr
    )
    assert has_arrived(cache, HALF)
    assert run(server, cache).returncode == 0
    assert server.ranges_asked == [None, f"bytes={HALF}-"]
    assert cache.path(UNET).read_bytes() == CONTENT


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk")
def test_a_full_disk_is_an_output_error_and_with_room_it_goes_on(server: WeightsServer, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        cache = WeightsCache.at(disk)
        ended = run(server, cache)
        assert (ended.returncode, ended.stdout) == (5, "")
        assert "No space left on device" in ended.stderr
        assert "make room or name another folder with KAPPAMASK_WEIGHTS_DIR" in ended.stderr
        reached = part(cache).stat().st_size
        assert 0 < reached < len(CONTENT)
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert run(server, cache).returncode == 0
        assert server.ranges_asked == [None, f"bytes={reached}-"]
        assert cache.path(UNET).read_bytes() == CONTENT
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# What people see


def test_the_command_says_path_sum_and_licence(server: WeightsServer, cache: WeightsCache) -> None:
    path = cache.path(UNET)
    ended = run(server, cache)
    assert ended.returncode == 0
    assert ended.stdout == f"{path} ({len(CONTENT)} bytes, sha256 {sha256(CONTENT)})\n"
    assert "no licence is stated for them beyond the Apache-2.0 of the km_predict repository" in ended.stderr
    assert "warning: l2a_unet.hdf5 has the sha256" in ended.stderr
    assert "l2a_unet.hdf5: 0.0 MB of 0.3 MB" in ended.stderr
    assert "\x1b" not in ended.stderr
    again = run(server, cache, "--json")
    assert (again.returncode, again.stderr) == (0, "")
    document = json.loads(again.stdout)
    assert document.pop("licence")
    assert str(UNET.earlier_sha256) in document.pop("warning")
    assert document == {
        "model": MODEL, "path": str(path), "status": "there", "sha256": sha256(CONTENT), "bytes": len(CONTENT),
        "url": f"{server.url}/l2a_unet.hdf5", "etag": '"one"',
    }  # fmt: skip


def test_all_are_four_files_and_the_variable_names_a_mirror(server: WeightsServer, cache: WeightsCache) -> None:
    ended = subprocess.run(
        [str(CLI), "models", "fetch", "all", "--json"],
        env=variables(cache, KAPPAMASK_WEIGHTS_URL=server.url + "/"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [json.loads(line)["model"] for line in ended.stdout.splitlines()] == list(PUBLISHED)
    expected = [f"/model_weights/{published.file_name}" for published in PUBLISHED.values()]
    assert [request.path for request in server.requests] == expected


def test_on_a_terminal_there_is_a_bar_with_bytes(server: WeightsServer, cache: WeightsCache) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    server.faults.append(half_way(cache, then="stall"))
    environment = {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        [str(CLI), "models", "fetch", MODEL, "--url", server.url],
        env=variables(cache, **environment), stdout=subprocess.PIPE, stderr=slave, text=True,
    ) as process:  # fmt: skip
        os.close(slave)
        seen = read_until(master, r"l2a_unet\.hdf5 .*/300\.0 kB")
        assert "\x1b[2K" in seen or "\x1b[?25l" in seen
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    os.close(master)


# What is made of them


@pytest.fixture
def real_server(shared_dir: Path) -> Iterator[WeightsServer]:
    with WeightsServer((shared_dir / "data" / "kappamask" / "l2a_unet_8filters.hdf5").read_bytes()) as made:
        yield made


@pytest.mark.integration
@pytest.mark.shared
def test_fetched_weights_are_what_build_and_run_use(
    real_server: WeightsServer, state: LocalState, cache: WeightsCache, tmp_path: Path
) -> None:
    state.variables = state.variables | variables(
        cache, **{k: state.variables[k] for k in ("XDG_RUNTIME_DIR", "KAPPAMASK_SERVER_ENV")}
    )

    def listed() -> dict[str, Any]:
        lines = [json.loads(line) for line in state.cli("models", "list", "--json").stdout.splitlines()]
        return {line["name"]: line for line in lines}

    told = state.cli("models", "build", MODEL, code=2).stderr
    for text in (f"`kappamask-stream models fetch {MODEL}`", "--weights FILE", "--triton", "--model csmask"):
        assert text in told
    assert listed()[MODEL] | {"weights_fetched": False, "weights_file": None, "built": False} == listed()[MODEL]
    assert listed()["csmask_l2a"]["weights_fetched"] is None

    state.cli("models", "fetch", MODEL, "--url", real_server.url)
    found = listed()[MODEL]
    assert (found["weights_fetched"], found["weights_file"]) == (True, str(cache.path(UNET)))
    assert "weights fetched" in next(
        line for line in state.cli("models", "list").stdout.splitlines() if f"{MODEL} " in line
    )
    state.cli("models", "build", MODEL)
    digest = sha256(real_server.content)
    assert listed()[MODEL]["weights_sha256"] == digest

    product = write_product(tmp_path, size=240, seed=1).product
    masks = tmp_path / "masks"
    ended = state.cli("run", str(product), "--architecture", "Unet", "--output", str(masks), "--json")
    document = json.loads(ended.stdout)
    assert (document["status"], document["model"]) == ("done", MODEL)
    with rasterio.open(document["output"]) as mask:
        assert mask.tags()["WEIGHTS_SHA256"] == digest

    state.cli("models", "remove", MODEL)
    assert cache.verified(MODEL) == cache.path(UNET), "kept without --weights"
    assert f"building {MODEL}" in state.cli("server", "start", "--model", MODEL).stderr
    state.cli("server", "stop")
    state.cli("models", "remove", MODEL)
    cache.path(UNET).write_bytes(real_server.content[:-1] + bytes([real_server.content[-1] ^ 1]))
    told = state.cli("run", str(product), "--architecture", "Unet", "--output", str(tmp_path / "other"), code=3).stderr
    assert f"{cache.path(UNET)} has the sha256" in told
    removed = state.cli("models", "remove", MODEL, "--weights").stdout
    assert removed.splitlines() == [f"removed {cache.path(UNET)}", f"removed {cache.record_path(UNET)}"]
    assert files(cache) == []
    told = state.cli("models", "remove", MODEL, "--weights", code=2).stderr
    assert "nor are weights fetched for it" in told
    told = state.cli("run", str(product), "--architecture", "Unet", code=2).stderr
    assert f"{MODEL} needs KappaMask's weights" in told
