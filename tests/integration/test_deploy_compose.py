"""What compose.yaml describes, as processes instead of containers: its commands, its variables, its folder of data."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import rasterio
import yaml

from kappamask_stream.synth import write_product
from tests.integration.local_state import CLI, PATIENCE_S, ROOT, wait_until
from tests.integration.s3_servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.session import SessionServer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("csmask_address")]

FOLDER = ROOT / "deploy" / "compose"


class Machine:
    """The services of compose.yaml on free ports of this machine."""

    def __init__(self, folder: Path, stores_env: Path, server: SessionServer) -> None:
        self._services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
        self._stores, self._server, self.folder = stores_env / "bin", server, folder
        self._ports = {"5000": free_port(), "9000": free_port(), "9108": free_port()}
        self._stack = ExitStack()
        self.listen = f"127.0.0.1:{self._ports['9108']}"

    def close(self) -> None:
        self._stack.close()

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service; it is killed in the end unless it has ended."""
        log = self._stack.enter_context((self.folder / f"{service}.log").open("w"))
        process = subprocess.Popen(
            self._command(service), env=self._environment(service), cwd=self.folder, stdout=log, stderr=log
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def run(self, service: str, *more: str) -> str:
        """Run a service that ends, with success; returns what it prints."""
        return self._ended([*self._command(service), *more], service)

    def kappamask(self, *words: str) -> str:
        """Run a command with the variables of those who hand in products."""
        return self._ended([str(CLI), *words], "submit")

    def _ended(self, command: list[str], service: str) -> str:
        ended = subprocess.run(
            command, env=self._environment(service), cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def answers(self, service: str) -> bool:
        """Ask as its health check does."""
        test = self._services[service]["healthcheck"]["test"][1:]
        return self._call([self._program(test[0]), *map(self._here, test[1:])], service)

    def worker_is_live(self) -> bool:
        """Ask as the health check of the image does."""
        script = ROOT / "deploy" / "containers" / "bin" / "worker_is_live"
        return self._call([sys.executable, str(script)], "worker-cpu")

    def _call(self, command: list[str], service: str) -> bool:
        done = subprocess.run(command, env=self._environment(service), capture_output=True, check=False)
        return done.returncode == 0

    def _command(self, service: str) -> list[str]:
        described = self._services[service]
        words = [*described.get("entrypoint", ()), *(() if "entrypoint" in described else described["command"])]
        if words[:2] == ["tini", "--"]:
            words = words[2:]
        elif service.startswith("worker"):
            words = ["kappamask-stream", *words]
        return [self._program(words[0]), *map(self._here, words[1:])]

    def _program(self, name: str) -> str:
        return str(CLI) if name == "kappamask-stream" else str(self._stores / name)

    def _environment(self, service: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        for name in ("XDG_RUNTIME_DIR", "KAPPAMASK_SERVER_ENV"):  # where the image has its own Triton
            kept[name] = self._server.state.variables[name]
        given = self._services[service].get("environment", {})
        kept["KAPPAMASK_QUEUE_WAIT_S"] = "2"  # ending an idle worker takes as long
        return kept | {name: self._here(value) for name, value in given.items()}

    def _here(self, text: str) -> str:
        """Put this machine's places for the containers'."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        for name in ("queue", "store"):
            text = text.replace(f"//{name}:", "//127.0.0.1:")
        for there, here in self._ports.items():
            text = re.sub(rf"(0\.0\.0\.0|127\.0\.0\.1):{there}\b", f"127.0.0.1:{here}", text)
            text = text.replace(f"('127.0.0.1', {there})", f"('127.0.0.1', {here})")
        text = {
            "/data": str(self.folder / "data"),
            "/set_up.py": str(FOLDER / "set_up.py"),
            "0.0.0.0": "127.0.0.1",
        }.get(text, text)
        return str(self._ports.get(text, text))


@pytest.fixture
def machine(tmp_path: Path, stores_env: Path, session_server: SessionServer) -> Iterator[Machine]:
    (tmp_path / "data").mkdir()
    made = Machine(tmp_path, stores_env, session_server)
    try:
        yield made
    finally:
        made.close()


def test_a_product_in_the_folder_becomes_a_mask_in_the_folder(machine: Machine) -> None:
    for service in ("queue", "store"):
        process = machine.start(service)
        wait_until(lambda s=service, p=process: p.poll() is not None or machine.answers(s), f"{service} answers")  # type: ignore[misc]
        assert process.poll() is None, machine.log(service)
    data = machine.folder / "data"
    assert "buckets products, masks" in machine.run("set-up")
    machine.run("set-up")  # as at the next start
    product = write_product(machine.folder, size=480, seed=41).product
    shutil.move(product, data / "products")
    machine.run("submit", f"s3://products/{product.name}")

    worker = machine.start("worker-cpu")
    masks = data / "masks"
    wait_until(lambda: worker.poll() is not None or machine.worker_is_live(), "the worker is live")
    wait_until(lambda: worker.poll() is not None or finished(masks), "the mask's Item is there")
    assert worker.poll() is None, machine.log("worker-cpu")
    (item,) = finished(masks)
    with rasterio.open(item.with_suffix(".tif")) as mask:
        assert mask.tags()["MODEL"] == "csmask_l2a"
    assert item.parent.name == product.name.removesuffix(".SAFE")

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    counts = json.loads(machine.kappamask("queue", "stats", "--json"))
    assert (counts["queue"]["waiting"], counts["queue"]["in_work"]) == (0, 0)
    assert counts["dead_letter_queue"]["waiting"] == 0
    assert counts["receives_before_dead"] == 10


def finished(masks: Path) -> list[Path]:
    """STAC Items of masks: they are written last."""
    return [path for path in masks.rglob("*.json") if path.with_suffix(".tif").exists()]
