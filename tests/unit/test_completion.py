"""What bash is offered, through the console script and the variable that bash sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLI = Path(sys.executable).with_name("kappamask-stream")


def complete(tmp_path: Path, *words: str, **variables: str) -> list[str]:
    """Return what completes the last word."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KAPPAMASK_")},
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "_KAPPAMASK_STREAM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("kappamask-stream", *words)),
        "COMP_CWORD": str(len(words)),
        **variables,
    }
    ended = subprocess.run([str(CLI)], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("mo",), {"models"}),
        (("models", "f"), {"fetch"}),
        (("run", "--model", "cs"), {"csmask", "csmask_l1c", "csmask_l1c_reduced", "csmask_l2a"}),
        (("run", "--model", "kappamask_l1c_unet"), {f"kappamask_l1c_unet{p}" for p in ("", "_bf16", "_fp16")}),
        (("run", "--architecture", ""), {"DeepLabv3Plus", "Unet"}),
        (("run", "--precision", "b"), {"bf16"}),
        (("run", "--source", ""), {"aws", "cdse"}),
        (("run", "--dilate", "CLOUD"), {"CLOUD_SHADOW=", "CLOUD="}),
        (("run", "--s3-r"), {"--s3-region", "--s3-requester-pays"}),
        (("models", "fetch", "kappamask_l2a"), {"kappamask_l2a_deeplabv3plus", "kappamask_l2a_unet"}),
        (("models", "check", "csmask_l1"), {"csmask_l1c", "csmask_l1c_reduced"}),
        (("server", "start", "--model", "csmask_l2"), {"csmask_l2a"}),
        (("config", ""), {"show", "path", "example"}),
        (("evaluate", "--crosswalk", "s"), {"scl"}),
    ],
)
def test_bash_is_offered(tmp_path: Path, words: tuple[str, ...], offered: set[str]) -> None:
    assert set(complete(tmp_path, *words)) == offered


def test_models_of_the_local_repository_are_offered(tmp_path: Path) -> None:
    model = tmp_path / "env" / "models" / "my_network"
    model.mkdir(parents=True)
    (model / "config.pbtxt").touch()
    offered = complete(tmp_path, "run", "--model", "my", KAPPAMASK_SERVER_ENV=str(tmp_path / "env"))
    assert offered == ["my_network"]


def test_a_configuration_that_is_wrong_does_not_disturb_the_shell(tmp_path: Path) -> None:
    config = tmp_path / "config" / "kappamask-stream" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("memory_budget_mb = 1")
    assert "csmask" in complete(tmp_path, "run", "--model", "cs")


def test_the_script_for_bash_can_be_shown(tmp_path: Path) -> None:
    environment = {**os.environ, "_KAPPAMASK_STREAM_COMPLETE": "source_bash", "HOME": str(tmp_path)}
    script = subprocess.run([str(CLI)], env=environment, capture_output=True, text=True, check=True).stdout
    assert "_KAPPAMASK_STREAM_COMPLETE=complete_bash" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    shown = subprocess.run([str(CLI), "--help"], capture_output=True, text=True, check=True).stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown
