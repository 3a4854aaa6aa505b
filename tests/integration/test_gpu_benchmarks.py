"""The GPU benchmarks as far as a CPU allows: the sweep on a real Triton, and reasons in the JSON for what is lacking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.local_state import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

FOLDER = ROOT / "benchmarks" / "gpu"


def program(folder: Path, name: str, text: str) -> Path:
    """Write an executable that a test puts before everything else."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def ran(*command: object, code: int = 0, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_sweep_finds_the_best_of_its_settings_on_a_real_triton(
    server_env: Path, null_repository: Path, tmp_path: Path
) -> None:
    result = tmp_path / "sweep.json"
    program(tmp_path, "nvidia-smi", '#!/bin/sh\ncase "$*" in *--loop-ms*) ;; *) echo A GPU; exit ;; esac\n'
                                    "while true; do date '+%Y/%m/%d %H:%M:%S.%3N, 50.0'; sleep 0.1; done\n")  # fmt: skip
    said = ran(
        server_env / "bin" / "python", FOLDER / "config_sweep.py", null_repository / "null_l2a", "--json", result,
        "--instances", 1, "--max-batch", 1, 3, "--delay-us", 500, "--processes", 1, "--seconds", 0.5, "--rounds", 1,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    found = json.loads(result.read_text())
    assert (found["model"], found["flavour"]) == ("null_l2a", "python")
    assert [(row["instances"], row["max_batch"], row["delay_us"]) for row in found["rows"]] == [
        (1, 1, 500),
        (1, 3, 500),
    ]
    for row in found["rows"]:
        assert row["failed"] == []
        assert row["tiles_per_s"] > 0
        assert row["p50_ms"] <= row["p99_ms"]
        assert max(map(int, row["batches"])) == row["max_batch"]  # requests of one tile wait together
        assert row["energy"]["mean_w"] == 50.0
        assert row["energy"]["joules_per_tile"] == pytest.approx(50.0 / row["tiles_per_s"])
    assert found["best"] in found["rows"]
    assert found["config"][0] == f"max_batch_size: {found['best']['max_batch']}"
    assert found["config"][1:] == [
        "dynamic_batching { max_queue_delay_microseconds: 500 }",
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ]
    assert said.splitlines()[-3:] == found["config"]


def in_benchmarks(server_env: Path, code: str) -> Any:
    said = ran(server_env / "bin" / "python", "-c", f"import json, sys; sys.path.insert(0, {str(FOLDER)!r})\n{code}")
    return json.loads(said)


def test_the_best_is_the_lowest_p99_among_the_fastest(server_env: Path) -> None:
    rows = [
        {"name": "fastest", "tiles_per_s": 100.0, "p99_ms": 90.0, "failed": []},
        {"name": "as fast", "tiles_per_s": 99.0, "p99_ms": 20.0, "failed": []},
        {"name": "slower", "tiles_per_s": 90.0, "p99_ms": 1.0, "failed": []},
        {"name": "broken", "tiles_per_s": 200.0, "p99_ms": 1.0, "failed": ["no"]},
        {"name": "silent", "failed": [], "tiles_per_s": 0.0},
        {"name": "not started", "failed": ["x"]},
    ]
    code = f"from config_sweep import best_of\nprint(json.dumps([best_of({rows!r}), best_of({rows[3:]!r})]))"
    best, none = in_benchmarks(server_env, code)
    assert (best["name"], none) == ("as fast", None)


def test_a_model_for_nvidias_container_wants_its_server(server_env: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    ran(server_env / "bin" / "python", "-m", "server_models", "build", "null_l2a", "--flavour", "onnxruntime",
        "--repository", repository)  # fmt: skip
    said = ran(server_env / "bin" / "python", FOLDER / "config_sweep.py", repository / "null_l2a", "--json",
               tmp_path / "x.json", code=1)  # fmt: skip
    assert "name its tritonserver with --tritonserver" in said
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho No devices were found\nexit 6\n", "says no watts: No devices were found"),
        ("#!/bin/sh\necho '[N/A]'\n", "says no watts: [N/A]"),
        (None, "cannot be run: No such file or directory"),
    ],
)
def test_watts_that_cannot_be_read_are_a_reason(
    server_env: Path, tmp_path: Path, text: str | None, reason: str
) -> None:
    path = program(tmp_path, "smi", text) if text else tmp_path / "smi"
    code = (
        "import time\nfrom power import measured\n"
        f"with measured(program={str(path)!r}) as energy: time.sleep(0.1)\n"
        "print(json.dumps(energy.figures(10.0)))"
    )
    assert in_benchmarks(server_env, code) == {"energy": {"skipped": f"{path} {reason}"}}


def test_watts_before_and_after_what_is_measured_do_not_count(server_env: Path, tmp_path: Path) -> None:
    """Clients start before it and end after it: the block is longer. Lines come in one block, at the end."""
    path = program(
        tmp_path,
        "smi",
        f"""#!{sys.executable}
import datetime, signal, sys
def end(*_):
    for at, watts in ((-0.5, 10), (9.9, 20), (10.5, 300), (12.5, 500), (13.5, 40), (99, 50)):
        print(f"{{begun + datetime.timedelta(seconds=at):%Y/%m/%d %H:%M:%S.%f}}"[:-3] + f", {{watts}}.00")
    sys.exit()
signal.signal(signal.SIGTERM, end)
begun = datetime.datetime.now()
open({str(tmp_path / "ready")!r}, "w").close()
while True:
    signal.pause()
""",
    )
    code = (
        "import pathlib, time\nfrom power import measured\n"
        f"with measured(after_s=10.2, for_s=3.0, program={str(path)!r}) as energy:\n"
        f"    while not pathlib.Path({str(tmp_path / 'ready')!r}).exists(): time.sleep(0.01)\n"
        "print(json.dumps(energy.figures(10.0)))"
    )
    assert in_benchmarks(server_env, code) == {"energy": {"mean_w": 400.0, "joules_per_tile": 40.0, "readings": 2}}


# run.sh


@pytest.fixture
def python3(tmp_path: Path) -> Path:
    """Where `python3` is this test's Python with a `torch` that says whether there is a GPU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "python3", f'#!/bin/sh\nPYTHONPATH="{tmp_path}/torch:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    (tmp_path / "torch").mkdir()
    return folder


def parts_of(tmp_path: Path, python3: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = tmp_path / "work" / "result.json"
    ran("bash", FOLDER / "run.sh", "--json", result, "--work", tmp_path / "work", *arguments, code=code,
        PATH=f"{python3}:{os.environ['PATH']}")  # fmt: skip
    parts: dict[str, Any] = json.loads(result.read_text())["parts"]
    return parts


ALL = {"roofline", "bare", "steps", "frameworks", "through_triton", "jpeg2000", "sweep_torch", "sweep_onnxruntime",
       "sweep_tensorrt"}  # fmt: skip


def test_without_pytorch_or_a_gpu_every_part_says_why(tmp_path: Path, python3: Path) -> None:
    parts = parts_of(tmp_path, python3, code=3)
    assert set(parts) == ALL
    assert all(part["skipped"].startswith("python3 has no PyTorch: ModuleNotFoundError") for part in parts.values())
    (tmp_path / "torch" / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    parts = parts_of(tmp_path, python3, code=3)
    assert [part["skipped"] for part in parts.values()] == ["PyTorch finds no NVIDIA GPU here"] * len(ALL)


def test_what_a_part_lacks_or_says_when_it_fails_is_in_the_json(tmp_path: Path, python3: Path) -> None:
    (tmp_path / "torch" / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "bare.json").write_text('{"bare": 7}')  # of an earlier run
    arguments = ("--parts", "roofline bare jpeg2000 sweep_torch speed")
    parts = parts_of(tmp_path, python3, *arguments)
    assert parts["jpeg2000"] == {"skipped": "no --codestreams FILE"}
    assert parts["sweep_torch"]["skipped"].startswith("no --weights FILE to build kappamask_l2a_deeplabv3plus_fp16")
    assert parts["speed"] == {"skipped": "there is no such part; see the head of run.sh"}
    assert parts["roofline"]["skipped"].startswith("it failed: ")
    assert "Error" in parts["roofline"]["skipped"]
    assert parts["bare"]["bare"] == 7
    assert parts["bare"]["skipped_last"].startswith("it failed: ")
