"""The local server's environment and state folder, as far as they can be known without installing or starting."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

from kappamask_stream.errors import InputError, ServerSetupError, UsageError, error_kinds
from kappamask_stream.server import ServerEnvironment, install_environment
from kappamask_stream.server import environment as environment_module
from kappamask_stream.server.environment import STAMP, requirements_path, requirements_sha256
from kappamask_stream.server.lease import state_folder
from kappamask_stream.server.machine import check_platform, check_python
from server_models import leftovers, tritonserver
from server_models.tether import tethered


class Version(NamedTuple):
    major: int
    minor: int
    micro: int = 0
    releaselevel: str = "final"
    serial: int = 0


def install(path: Path, *, in_use: bool = False) -> list[str]:
    said: list[str] = []
    install_environment(ServerEnvironment.at(path), said.append, in_use=lambda: in_use)
    return said


# The machine


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_platforms_are_refused_with_what_they_are(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ServerSetupError, match=rf"Linux x86-64; this is {system} {machine}: .*--triton grpc://"):
        check_platform()


@pytest.mark.parametrize(
    ("libc", "said"),
    [(("glibc", "2.34"), "has glibc 2.34"), (("glibc", "2.28"), "has glibc 2.28"), (("", ""), "has no glibc")],
)
def test_an_old_or_other_c_library_is_refused(
    monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str], said: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    with pytest.raises(ServerSetupError, match=rf"needs glibc 2\.35 or newer; this system {said}.*--triton"):
        check_platform()


@pytest.mark.parametrize("version", ["2.35", "2.36", "2.41", "3.0"])
def test_newer_c_libraries_will_do(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", version))
    check_platform()


@pytest.mark.parametrize("version", [(3, 13), (3, 10), (3, 14)])
def test_other_pythons_are_refused(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", Version(*version))
    with pytest.raises(ServerSetupError, match=r"needs Python 3\.11 or 3\.12; this is .*--triton"):
        check_python()


def test_a_python_without_shared_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", Version(3, 11))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: 0)
    with pytest.raises(ServerSetupError, match=r"has no shared libpython.*--enable-shared"):
        check_python()


def test_a_server_python_without_shared_library_is_said_with_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "version_info", Version(3, 99))
    with pytest.raises(ServerSetupError, match=rf"no shared libpython3\.99\.so\.1\.0 \(looked in {tmp_path}"):
        tritonserver.libpython_folder()
    (tmp_path / "libpython3.99.so.1.0").touch()
    assert tritonserver.libpython_folder() == tmp_path


def test_a_missing_wheel_of_triton_is_said_with_the_remedy() -> None:
    with pytest.raises(ServerSetupError, match=r"nvidia-pytriton is not installed .*`kappamask-stream server install`"):
        tritonserver.triton_files()  # the client's environment does not have it


# The environment


def test_require_refuses_what_is_not_installed_or_by_another_version(tmp_path: Path) -> None:
    environment = ServerEnvironment.at(tmp_path)
    message = r"not installed at .*`kappamask-stream server install`, or name a server with --triton"
    for stamp in (None, "{}", "no json", json.dumps({"requirements_sha256": "0" * 64})):
        if stamp is not None:
            (tmp_path / STAMP).write_text(stamp)
        assert not environment.is_installed
        with pytest.raises(ServerSetupError, match=message):
            environment.require()


def test_an_environment_whose_python_is_gone_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / STAMP).write_text(json.dumps({"requirements_sha256": requirements_sha256()}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "an uninstalled python")
    assert not ServerEnvironment.at(tmp_path).is_installed


def installed(path: Path) -> ServerEnvironment:
    """Make what looks like an environment: a real Python, no packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    (path / STAMP).write_text(json.dumps({"requirements_sha256": requirements_sha256()}))
    return ServerEnvironment.at(path)


def test_code_runs_there_whatever_the_folder_and_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is this client's code and the environment's packages: nothing of PYTHONPATH or the working folder."""
    environment = installed(tmp_path / "env")
    environment.require()
    trap = tmp_path / "trap"
    (trap / "server_models").mkdir(parents=True)
    (trap / "server_models" / "__init__.py").write_text("raise SystemExit('a trap')")
    monkeypatch.setenv("PYTHONPATH", str(trap))
    monkeypatch.chdir(trap)
    with pytest.raises(ServerSetupError, match="numpy"):  # it got as far as the packages that are not there
        environment.call(["verify"])


def test_links_follow_the_client_that_uses_the_environment(tmp_path: Path) -> None:
    environment = installed(tmp_path / "env")
    environment.require()
    link = environment.path / "code" / "server_models"
    here = link.readlink()
    link.unlink()
    link.symlink_to(tmp_path / "another checkout")
    environment.require()
    assert link.readlink() == here
    assert [p.name for p in link.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may write everywhere")
def test_another_users_environment_of_another_version_is_refused(tmp_path: Path) -> None:
    environment = installed(tmp_path / "env")
    environment.path.chmod(0o555)
    try:
        with pytest.raises(ServerSetupError, match=r"cannot be changed .*KAPPAMASK_SERVER_ENV"):
            environment.require()
    finally:
        environment.path.chmod(0o755)


def test_errors_of_the_other_environment_keep_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = installed(tmp_path / "env")
    monkeypatch.setattr(environment_module.subprocess, "run", ended_with)
    for kind, expected in (("UsageError", UsageError), ("InputError", InputError), ("Nonsense", ServerSetupError)):
        with pytest.raises(expected, match="what happened"):
            environment.call([kind])
    assert {"KappaMaskError", "ProductError", "InferenceTimeoutError"} <= set(error_kinds())


def ended_with(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    event = {"event": "error", "kind": command[-1], "message": "what happened"}
    return subprocess.CompletedProcess(command, 1, f"noise\n{json.dumps(event)}\n", "")


# Installing (the whole of it: tests/integration/test_server_install.py)


@pytest.mark.parametrize("name", ["thesis.tex", "pyvenv.cfg"])
def test_a_folder_with_other_contents_is_never_emptied(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    site = tmp_path / "lib" / "python3.11" / "site-packages" / "django"
    site.mkdir(parents=True)
    with pytest.raises(ServerSetupError, match=f"{tmp_path} holds what .* did not make, and would be emptied"):
        install(tmp_path)
    assert (tmp_path / name).read_text() == "precious"
    assert site.exists()


def test_the_clients_own_environment_is_never_emptied() -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("the tests do not run in a virtual environment")
    with pytest.raises(ServerSetupError, match="would be emptied"):
        install(Path(sys.prefix))


def test_an_environment_is_not_taken_away_from_under_a_server(tmp_path: Path) -> None:
    (tmp_path / STAMP).write_text("{}")
    with pytest.raises(ServerSetupError, match=r"runs on this machine uses .*`kappamask-stream server stop`"):
        install(tmp_path, in_use=True)


def test_a_path_that_cannot_be_an_environment_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerSetupError, match=r"cannot make the server's environment .*file"):
        install(tmp_path / "file" / "env")


def test_a_package_that_cannot_be_installed_is_said_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("./no/such/wheel-1.0-py3-none-any.whl\n")
    monkeypatch.setattr("kappamask_stream.server.installation.requirements_path", lambda: requirements)
    target = tmp_path / "env"
    with pytest.raises(ServerSetupError, match=rf"pip install …` failed: .*; the whole output: {target}/install\.log"):
        install(target)
    assert "no/such/wheel" in (target / "install.log").read_text()
    assert not ServerEnvironment.at(target).is_installed


# Paths


def test_requirements_are_found_in_a_checkout_and_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requirements_path().read_text().count("nvidia-pytriton==") == 1
    module = tmp_path / "kappamask_stream" / "server" / "environment.py"
    packaged = tmp_path / "server_models" / "_constraints" / "server.txt"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    monkeypatch.setattr(environment_module, "__file__", str(module))
    assert requirements_path() == packaged


def test_state_folders_differ_by_environment_and_by_runtime_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    folders = set()
    for runtime in (tmp_path, long, None):
        for name in ("one", "other"):
            if runtime is None:
                monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
            else:
                monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
            folder = state_folder(ServerEnvironment.at(tmp_path / name))
            assert len(os.fsencode(folder / "lease.sock")) <= 107
            assert f"-{os.getuid()}-" in folder.name
            folders.add(folder)
    assert len(folders) == 6


# Small parts of the server's side that need nothing but the standard library


def test_a_log_is_capped_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tritonserver, "_LOG_LIMIT", 1000)
    log = tmp_path / "tritonserver.log"
    tritonserver._cap(log)  # there is none yet
    log.write_bytes(b"a" * 600 + b"b" * 600)
    tritonserver._cap(log)
    assert log.read_bytes() == b"b" * 500
    tritonserver._cap(log)
    assert log.stat().st_size == 500


def test_a_tethered_command_ends_with_its_parent(tmp_path: Path) -> None:
    """A process starts a tethered one, says its pid and is killed."""
    code = (
        "import os, signal, subprocess, sys; from server_models.tether import tethered\n"
        "p = subprocess.Popen(tethered([sys.executable, '-c', 'import time; time.sleep(600)'], signal.SIGKILL))\n"
        "print(p.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    pid = int(ended.stdout)
    while leftovers.is_running(pid):
        os.sched_yield()


def test_a_command_whose_parent_is_gone_already_does_not_run() -> None:
    command = tethered(["/bin/echo", "ran"], 9)
    command[5] = "1"  # the pid of somebody who is not the parent
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_an_argument_of_a_child_can_be_hidden() -> None:
    secret = "a3" * 16
    with subprocess.Popen([sys.executable, "-c", "input()", f"key={secret}", "last"], stdin=subprocess.PIPE) as child:
        line = Path(f"/proc/{child.pid}/cmdline")
        try:
            assert leftovers.hide_argument(child.pid, secret)
            assert line.read_bytes().split(b"\0")[3:5] == [b"key=" + b"*" * 32, b"last"]
            assert not leftovers.hide_argument(child.pid, secret)  # nowhere to be found any more
        finally:
            child.communicate(b"\n")


def test_regions_of_a_state_have_a_prefix_of_their_own(tmp_path: Path) -> None:
    one, other = leftovers.region_prefix(tmp_path / "a"), leftovers.region_prefix(tmp_path / "b")
    assert one != other
    assert one.startswith("triton_python_backend_shm_region_")


def test_left_overs_are_removed_and_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, scratch, state = tmp_path / "shm", tmp_path / "scratch", tmp_path / "state"
    for folder in (memory, scratch, state):
        folder.mkdir()
    monkeypatch.setattr(leftovers, "_SHARED_MEMORY", memory)
    monkeypatch.setattr(leftovers, "_SCRATCH", (scratch, "python_env_*"))
    others = [memory / "triton_python_backend_shm_region_0", scratch / "python_env_before"]
    others[0].touch()
    others[1].mkdir()
    (memory / f"{leftovers.region_prefix(state)}1").touch()
    with leftovers.scratch_noted(state):
        (scratch / "python_env_ours").mkdir()
        (scratch / "python_env_full").mkdir()
        (scratch / "python_env_full" / "in use").touch()
    leftovers.remove_leftovers(state)
    assert sorted(p.name for p in scratch.iterdir()) == ["python_env_before", "python_env_full"]
    assert list(memory.iterdir()) == others[:1]
    assert list(state.iterdir()) == []
    leftovers.remove_leftovers(state)  # nothing to do is nothing done


def test_orphans_of_a_group_are_waited_for() -> None:
    """A child that leaves a grandchild behind: all of the group is gone, zombies too, when `end_group` returns."""
    leftovers.adopt_orphans()
    try:
        code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as child:
            grandchild = int(child.stdout.readline())
            leftovers.end_group(child.pid)
            assert not Path(f"/proc/{grandchild}").exists()
            assert not Path(f"/proc/{child.pid}").exists()
    finally:
        ctypes.CDLL(None).prctl(36, 0)
