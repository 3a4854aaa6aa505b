"""Where a benchmark ran: names of parts, no names of machines, people or places; and the right commit, or none."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest

import kappamask_stream
from kappamask_stream.bench import environment as module
from kappamask_stream.bench.environment import commit, environment, gpu_name


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KAPPAMASK_COMMIT", raising=False)
    package = tmp_path / "checkout" / "kappamask_stream"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1\n")
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-q", "-m", "first")
    return package


def test_the_machine_is_described_and_not_named() -> None:
    found = environment(server="triton 2.51.0", has_local_gpu=False)
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_bytes is not None
    assert found.memory_bytes > 2**28
    assert re.fullmatch(r"\w+ \d+(\.\d+)? \w+", found.system)
    assert found.versions["kappamask-stream"] == kappamask_stream.__version__
    assert found.versions["server"] == "triton 2.51.0"
    assert {"python", "numpy", "imagecodecs", "tritonclient"} <= set(found.versions)
    assert found.gpu is None
    assert datetime.fromisoformat(found.time).tzinfo is not None
    text = repr(asdict(found))
    for name in (platform.node(), str(Path.home()), str(Path(kappamask_stream.__file__).parent)):
        assert name not in text
    assert getpass.getuser() not in text.split("'")


def test_a_server_of_unknown_version_is_left_out() -> None:
    assert "server" not in environment(server=None, has_local_gpu=False).versions


def test_the_commit_is_the_checkouts_and_says_where_its_code_differs(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == head
    (checkout.parent / "notes.txt").write_text("no code\n")
    assert commit(checkout) == head
    (checkout / "b.py").write_text("new\n")
    assert commit(checkout) == f"{head}+"


def test_a_package_within_another_checkout_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout.parent / "env" / "site-packages" / "kappamask_stream"
    installed.mkdir(parents=True)
    assert commit(installed) is None
    monkeypatch.setenv("KAPPAMASK_COMMIT", "abc123")
    assert commit(installed) == "abc123"


def test_a_hooks_variables_do_not_lead_astray(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert commit(checkout) == head


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (None, None),
        ("", None),
        ("NVIDIA H200\nNVIDIA H200\n", "NVIDIA H200"),
        ("NVIDIA H200\nNVIDIA T4\n", "NVIDIA H200, NVIDIA T4"),
    ],
)
def test_gpus_are_named_by_kind(said: str | None, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_said", lambda *_: said)
    assert gpu_name() == name


def test_a_program_that_is_not_there_or_fails_says_nothing() -> None:
    assert module._said("no-such-program-anywhere") is None
    assert module._said("git", "no-such-command") is None
