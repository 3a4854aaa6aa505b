"""The Compose file: what Docker Compose makes of it, and what must hold for every container."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kappamask_stream.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "compose" / "compose.yaml"
PROFILES = ("cpu", "gpu")


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose, that of the development packages if it is there; it needs no Docker for this."""
    beside = Path(sys.executable).with_name("docker-compose")
    program = str(beside) if beside.exists() else shutil.which("docker-compose")
    if program is None:
        pytest.skip("no Docker Compose on this machine (a development package)")
    command = [program, "-f", str(FILE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": "/", **variables})


@cache
def services(profile: str) -> dict[str, dict[str, Any]]:
    ended = compose("--profile", profile, "config", "--format", "json")
    assert (ended.returncode, ended.stderr) == (0, "")
    found: dict[str, dict[str, Any]] = json.loads(ended.stdout)["services"]
    return found


EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES)


@EVERY_PROFILE
def test_compose_understands_it(profile: str) -> None:
    common = {"queue", "store", "set-up"}
    assert set(services(profile)) == common | ({"worker-cpu"} if profile == "cpu" else {"worker", "triton"})


@EVERY_PROFILE
def test_containers_may_do_little_and_are_seen_on_this_machine_only(profile: str) -> None:
    for name, service in services(profile).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        assert service.get("user", "10001") != "0", name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+(-local)?", service["image"]), name
        assert "/tmp" in service["tmpfs"], name


@EVERY_PROFILE
def test_what_is_waited_for_can_tell_that_it_is_there(profile: str) -> None:
    found = services(profile)
    for name, service in found.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy" and other != "triton":  # its image has the check
                assert found[other]["healthcheck"]["test"][0] == "CMD", (name, other)


@EVERY_PROFILE
def test_targets_of_builds_exist(profile: str) -> None:
    recipe = (ROOT / "deploy" / "containers" / "Dockerfile").read_text()
    for service in services(profile).values():
        build = service["build"]
        assert Path(build["context"]) == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert re.search(rf"^FROM \S+ AS {build['target']}$", recipe, re.MULTILINE)


@EVERY_PROFILE
def test_workers_get_settings_that_there_are_and_time_to_finish(profile: str) -> None:
    worker = services(profile)["worker" if profile == "gpu" else "worker-cpu"]
    given = {name.removeprefix("KAPPAMASK_").lower(): value for name, value in worker["environment"].items()
             if name.startswith("KAPPAMASK_")}  # fmt: skip
    assert set(given) <= set(Settings.model_fields)
    Settings(**given)
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", worker["stop_grace_period"]).groups()  # type: ignore[union-attr]
    assert int(minutes or 0) * 60 + int(seconds) >= float(given["grace_s"]) + 20
    queues = {name: value for name, value in worker["environment"].items() if "QUEUE" in name}
    assert queues == {
        name: value
        for name, value in json.loads(compose("--profile", "tools", "config", "--format", "json").stdout)["services"][
            "submit"
        ]["environment"].items()
        if "QUEUE" in name
    }


@EVERY_PROFILE
def test_services_find_one_another_where_docker_gives_them_proxies(profile: str) -> None:
    ended = compose("--profile", profile, "--profile", "tools", "config", "--format", "json", NO_PROXY="intra.example")
    for name, service in json.loads(ended.stdout)["services"].items():
        said = service.get("environment") or {}
        asked = {host for value in said.values() for host in re.findall(r"^http://(\w+):", value)}
        for variable in ("NO_PROXY", "no_proxy"):
            assert asked <= set(said.get(variable, "").split(",")), name
            assert not asked or said[variable].startswith("intra.example,"), name
        assert "urlopen" not in json.dumps(service.get("healthcheck", "")), name  # it would go through a proxy


def test_triton_moves_tensors_through_enough_shared_memory_on_a_gpu() -> None:
    triton = services("gpu")["triton"]
    assert int(triton["shm_size"]) == int(services("cpu")["worker-cpu"]["shm_size"]) == 2**30
    (device,) = triton["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "ports" not in triton


def test_keys_come_from_the_environment_where_they_are_given() -> None:
    ended = compose("--profile", "cpu", "config", "--format", "json", LOCAL_KEY_ID="MYKEYOFMINE", LOCAL_SECRET="mine")
    found = json.loads(ended.stdout)["services"]
    assert found["store"]["environment"]["RCLONE_AUTH_KEY"] == '"MYKEYOFMINE,mine"'
    for name in ("worker-cpu", "set-up"):
        assert found[name]["environment"]["AWS_SECRET_ACCESS_KEY"] == "mine"


def test_versions_are_the_program_s() -> None:
    from kappamask_stream import __version__

    for profile in PROFILES:
        for service in services(profile).values():
            assert service["image"].partition(":")[2].removesuffix("-local") == __version__
