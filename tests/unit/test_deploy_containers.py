"""The images' recipe: pinned bases, no root, nothing fetched by hand, files that exist. No engine runs here."""

from __future__ import annotations

import json
import re
import stat
from importlib.metadata import requires
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
