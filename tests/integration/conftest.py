"""Private Tritons for tests that end, break or fill theirs; the shared one is in `session`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.local_state import PATIENCE_S, LocalState
from tests.integration.session import short_folder

PRIVATE_TRITON = Path(__file__).with_name("private_triton.py")


def overlay_environment(path: Path, base: Path) -> Path:
    """Make an environment that sees the packages of `base` and has its own code links, repository and whims."""
    subprocess.run([str(base / "bin" / "python"), "-m", "venv", "--without-pip", str(path)], check=True)
    (base_site,) = base.glob("lib/python3.*/site-packages")
    site_of(path).joinpath("packages_of_base.pth").write_text(f"{base_site}\n")
    shutil.copy(base / "kappamask-stream.json", path)
    return path


def site_of(environment: Path) -> Path:
    (site,) = environment.glob("lib/python3.*/site-packages")
    return site


@pytest.fixture
def make_state(server_env: Path) -> Iterator[Callable[[], LocalState]]:
    """Make states with an environment and a repository of their own; at the end nothing of them may be left."""
    with ExitStack() as stack:
        made: list[LocalState] = []

        def make() -> LocalState:
            runtime = stack.enter_context(short_folder())
            made.append(LocalState(runtime, overlay_environment(runtime / "env", server_env)))
            return made[-1]

        try:
            yield make
        finally:
            left = [thing for state in made for thing in state.close()]
        assert not left


@pytest.fixture
def state(make_state: Callable[[], LocalState]) -> LocalState:
    """A state that a test may do with what it likes."""
    return make_state()


@dataclass(frozen=True)
class PrivateTriton:
    """A tritonserver without a supervisor.

    Attributes
    ----------
    address : HOST:PORT of its gRPC.
    pid : of tritonserver.
    metrics : URL.
    key : value of the header that opens what is restricted.
    memory_key : value of the header that opens shared memory.
    """

    address: str
    pid: int
    metrics: str
    key: str
    memory_key: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def answered(self, model: str) -> int:
        """Return how many requests for a model it has answered, by its own metrics."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            text = answer.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return int(sum(sample.value for sample in samples if sample.name == "nv_inference_request_success_total"
                       and sample.labels["model"] == model))  # fmt: skip


Start = Callable[..., PrivateTriton]


@pytest.fixture
def private_triton(server_env: Path) -> Iterator[Start]:
    """Start tritonservers on a repository: ``start(repository, models, restrict=(...), …)``, see private_triton.py."""
    with private_tritons(server_env) as start:
        yield start


@contextmanager
def private_tritons(server_env: Path) -> Iterator[Start]:
    """Do the same for as long as a block lasts."""
    with ExitStack() as stack:

        def start(repository: Path, models: Sequence[str], **options: Any) -> PrivateTriton:
            folder = stack.enter_context(short_folder())
            command = [str(server_env / "bin" / "python"), "-I", str(PRIVATE_TRITON)]
            command += [str(repository), str(folder), json.dumps(options), *models]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            stack.callback(process.communicate, timeout=PATIENCE_S)  # closes its input: it ends Triton and itself
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the private Triton did not start"
            return PrivateTriton(**json.loads(line))

        yield start


@pytest.fixture(scope="session")
def null_repository(server_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with the null model; copy it before changing it."""
    repository = tmp_path_factory.mktemp("repository")
    build(server_env, "null_l2a", repository)
    return repository


def build(environment: Path, model: str, repository: Path, flavour: str = "python") -> Path:
    """Build a model with the command of the client."""
    cli = Path(sys.executable).with_name("kappamask-stream")
    subprocess.run(
        [str(cli), "models", "build", model, "--repository", str(repository), "--flavour", flavour],
        env={**os.environ, "KAPPAMASK_SERVER_ENV": str(environment)}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return repository / model
