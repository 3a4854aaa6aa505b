"""The images' recipe: pinned bases, no root, nothing fetched by hand, files that exist. No engine runs here."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import requires
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from dockerfile_parse import DockerfileParser
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "deploy" / "containers"
#: What is run; the other stages only make files for them.
TARGETS = ("client", "local", "triton", "triton-torch", "stores")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return (instruction, value) of each stage, ARGs before the first under an empty name."""
    with (CONTAINERS / "Dockerfile").open("rb") as file:
        entries = DockerfileParser(fileobj=file).structure
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for entry in entries:
        if entry["instruction"] == "COMMENT":
            continue
        if entry["instruction"] == "FROM":
            base, _, name = entry["value"].partition(" AS ")
            found[name] = [("FROM", base)]
        else:
            found[name].append((entry["instruction"], entry["value"]))
    return found


STAGES = stages()


def lines(target: str) -> list[tuple[str, str]]:
    """Return the instructions of a target and of the stages that it stands on."""
    (_, base), *own = STAGES[target]
    return (lines(base) if base in STAGES else []) + own


def last(target: str, instruction: str) -> str:
    return [value for kind, value in lines(target) if kind == instruction][-1]


def test_bases_are_pinned_and_can_be_replaced_by_digests() -> None:
    arguments = dict(value.split("=", 1) for kind, value in STAGES[""] if kind == "ARG")
    for name, (first, *_) in STAGES.items():
        if not name:
            continue
        base = first[1]
        assert base in STAGES or base in {f"${{{argument}}}" for argument in arguments}, name
    for image in arguments.values():
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", image), image
        assert not image.endswith(":latest")


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    assert last(target, "USER") == "10001:10001"


@pytest.mark.parametrize("target", ["client", "local", "triton", "triton-torch"])
def test_images_say_what_they_are_how_they_are_and_how_they_end(target: str) -> None:
    labels = " ".join(value for kind, value in lines(target) if kind == "LABEL")
    for label in ("title", "version", "revision", "licenses", "base.name"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert last(target, "STOPSIGNAL") == "SIGTERM"
    assert isinstance(json.loads(last(target, "ENTRYPOINT")), list)  # the exec form: signals arrive
    assert isinstance(json.loads(last(target, "CMD")), list)
    assert json.loads(last(target, "HEALTHCHECK").partition("CMD ")[2])


def test_labels_tell_the_program_s_version() -> None:
    from kappamask_stream import __version__

    said = [value for entries in STAGES.values() for kind, value in entries if kind == "ARG" and "VERSION=" in value]
    assert said == [f"VERSION={__version__}"] * 2


def test_the_program_is_started_by_an_init() -> None:
    assert json.loads(last("local", "ENTRYPOINT")) == ["tini", "--", "kappamask-stream"]
    assert json.loads(last("local", "CMD")) == ["worker"]
    assert "libexpat1 tini" in last("local", "RUN")


def test_nothing_is_fetched_but_from_registries() -> None:
    for name, entries in STAGES.items():
        for kind, value in entries:
            assert kind != "ADD", name
            assert kind != "RUN" or not re.search(r"\b(curl|wget|git)\b|https?://", value), (name, value)
            if kind == "RUN" and "pip" in value and " install " in value:
                assert re.search(r"-r \S+\.txt|/wheels/\*\.whl", value), value
            if "apt-get install" in value:
                assert "--no-install-recommends" in value
                assert "rm -rf /var/lib/apt/lists/*" in value


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignore = (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore  # secrets, data and environments of a checkout never become part of a build
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    copied = [path for entries in STAGES.values() for kind, value in entries if kind == "COPY" and "--from" not in value
              for path in value.split()[:-1] if not path.startswith("--")]  # fmt: skip
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(path == place or path.startswith(f"{place}/") for place in allowed), path


def test_entry_points_can_be_run_and_use_the_image_s_python() -> None:
    scripts = [path for path in (CONTAINERS / "bin").iterdir() if path.is_file() and path.suffix != ".py"]
    assert {path.name for path in scripts} == {"km_local", "km_s3", "km_test", "worker_is_live"}
    for path in scripts:
        assert path.read_text().startswith("#!/opt/kappamask/bin/python\n")
        assert path.stat().st_mode & stat.S_IXUSR
    assert ("COPY", "--from=environment /opt/kappamask /opt/kappamask") in lines("client")


def told_to_triton(*arguments: str, **variables: str) -> list[str]:
    """Return what the image's entry point gives to Triton."""
    ended = subprocess.run([CONTAINERS / "serve_triton", *arguments], env={**variables, "TRITONSERVER": "/bin/echo"},
                           capture_output=True, text=True, check=True)  # fmt: skip
    return ended.stdout.split()


def test_the_image_for_torch_starts_with_enough_shared_memory_whatever_arguments_it_gets() -> None:
    environment = dict(
        pair.split("=", 1) for kind, value in lines("triton-torch") if kind == "ENV" for pair in value.split()
    )
    given = ("--model-repository=/elsewhere", "--log-verbose=1")  # as the chart does, in place of the image's own
    told = told_to_triton(*given, PYTHON_SHM_BYTES=environment["PYTHON_SHM_BYTES"])
    assert "--backend-config=python,shm-default-byte-size=1073741824" in told
    assert told[-2:] == list(given)
    assert not [argument for argument in told_to_triton(*given) if argument.startswith("--backend-config")]
    assert json.loads(last("triton-torch", "CMD")) == json.loads(last("triton", "CMD"))


def test_health_is_not_asked_through_a_proxy() -> None:
    check = json.loads(last("triton", "HEALTHCHECK").partition("CMD ")[2])
    assert check[check.index("--noproxy") + 1] == "*"


@pytest.fixture
def worker() -> Iterator[int]:
    """Port of something that answers as a live worker does."""

    class Live(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Live) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def health(listen: str) -> subprocess.CompletedProcess[str]:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    return subprocess.run([sys.executable, CONTAINERS / "bin" / "worker_is_live"], capture_output=True, text=True,
                          check=False, env={"KAPPAMASK_LISTEN": listen, **proxies})  # fmt: skip


def test_a_live_worker_is_found_beside_a_proxy(worker: int) -> None:
    for host in ("0.0.0.0", "127.0.0.1", "localhost"):
        ended = health(f"{host}:{worker}")
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("listen", ["none", "127.0.0.1:0", "[::1:9108", "127.0.0.1:99999"])
def test_a_worker_that_cannot_be_asked_is_told_in_words(listen: str) -> None:
    ended = health(listen)
    assert ended.returncode == 1
    assert (
        ended.stderr == f"KAPPAMASK_LISTEN is {listen}, no HOST:PORT that can be asked: start with --no-healthcheck\n"
    )


def test_a_worker_that_does_not_answer_is_not_alive(worker: int) -> None:
    ended = health(f"127.0.0.2:{worker}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"http://127.0.0.2:{worker}/healthz: ")


def pins(path: Path) -> dict[str, str]:
    found = [line.split("==") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


def closure(name: str) -> set[str]:
    """Return the packages that a package needs on the image's Python, and those that these need."""
    environment = {**default_environment(), "python_version": "3.12", "python_full_version": "3.12.0"}
    seen: set[tuple[str, str]] = set()
    ahead = {(name, "")}
    while ahead:
        package, extra = ahead.pop()
        seen.add((package, extra))
        for requirement in map(Requirement, requires(package) or ()):
            if requirement.marker is None or requirement.marker.evaluate(environment | {"extra": extra}):
                needed = canonicalize_name(requirement.name)
                ahead |= {(needed, more) for more in ("", *requirement.extras)} - seen
    return {package for package, _ in seen} - {name}


def test_the_image_gets_the_versions_that_are_tested() -> None:
    needed = closure("kappamask-stream")
    assert {"numpy", "grpcio", "yarl"} <= needed
    missing = needed - set(pins(ROOT / "constraints" / "client.txt"))
    assert missing == set()
