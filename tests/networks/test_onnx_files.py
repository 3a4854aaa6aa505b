"""csmask's files, sound and hostile: each is read, or refused in words, within bounded memory; no other is opened."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.networks.in_server_env import FOLDER, ROOT, run_script

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = "keeps its values outside the file, in "
STATISTICS = "not the mean and deviation of 6 bands"
REFUSED = {
    # Files of something else.
    "no_file": r"cannot be read: No such file",
    "no_onnx": r"no ONNX file, or cut short or damaged \(\d+ bytes\)",
    "empty_file": r"no ONNX graph: it has no version or no operators",
    "truncated": r"no ONNX file, or cut short or damaged \(\d+ bytes\)",
    "beyond_the_bound": r"134217729 bytes, such a graph has at most 134217728",
    # Values elsewhere.
    "values_beside_the_file": rf"tensor 'weight' {ELSEWHERE}'weights\.bin': refused",
    "values_upwards": rf"tensor 'weight' {ELSEWHERE}'\.\./secret\.bin': refused",
    "values_by_an_absolute_path": rf"tensor 'weight' {ELSEWHERE}'/dev/zero': refused",
    "values_through_a_link": rf"tensor 'weight' {ELSEWHERE}'weights\.bin': refused",
    "values_of_an_operator_elsewhere": rf"tensor 'zeros' {ELSEWHERE}'\.\./secret\.bin': refused",
    "values_of_an_inner_graph_elsewhere": rf"tensor 'inner' {ELSEWHERE}'\.\./secret\.bin': refused",
    "values_of_sparse_tensors_elsewhere": rf"tensor 'sparse' {ELSEWHERE}'\.\./secret\.bin': refused",
    # Sizes.
    "huge_shape": r"tensor 'weight' has 72 bytes in the file, its shape \(1000000, 1000000, 1, 1\) needs 4000000000000",
    "shape_that_overflows": r"tensor 'weight' has 72 bytes .* needs 1328165573307087716352",
    "more_values_than_the_shape": r"tensor 'weight' has 72 bytes in the file, its shape \(1, 6, 1, 1\) needs 24",
    "sizes_below_zero": r"tensor 'weight' has shape \(-3, -6, 1, 1\), expected sizes of 0 or more",
    "many_operators": r"more than 16384 operators",
    "graphs_within_graphs": r"graphs within graphs, more than 8 deep",
    # Kinds and networks.
    "four_bands": r"its 1 inputs are FLOAT \(\*, 4, 256, 256\), expected FLOAT \(1, 6, 256, 256\)",
    "five_classes": r"its 1 outputs are FLOAT \(\*, 5, 256, 256\), expected FLOAT \(1, 3, 256, 256\)",
    "fixed_batch": r"its 1 inputs are FLOAT \(5, 6, 256, 256\), expected FLOAT \(1, 6, 256, 256\)",
    "double_values": r"its 1 inputs are DOUBLE ",
    "two_inputs": r"its 2 inputs are FLOAT \(\*, 6, 256, 256\), FLOAT \(1\), expected FLOAT",
    "no_outputs": r"its 0 outputs are none, expected FLOAT",
    "terminal_commands_in_a_name": r"tensor '\\x1b\[2Jweight' has 72 bytes in the file",
    "text_values": r"tensor 'text' is of kind 8, expected plain numbers",
    "not_a_number": r"2 of 18 values of tensor 'weight' are not finite",
    "foreign_operator": r"operator 'Add' of 'com\.example', expected onnx's own",
    "unknown_operator": r"no network of csmask's: .*Explode",
    "functions_of_its_own": r"it defines functions or training of its own",
    "opset_of_long_ago": r"operator set 1, sets 7 to \d+ are read",
    "opset_of_the_future": r"operator set 9999, sets 7 to \d+ are read",
    "tensor_that_nobody_makes": r"no network of csmask's: .*'nowhere'",
    # The numbers beside the graph.
    "statistics_missing": rf"{STATISTICS} \(.*No such file",
    "statistics_no_json": STATISTICS,
    "statistics_nested": STATISTICS,
    "statistics_huge": r"more than 65536 bytes",
    "statistics_of_four_bands": STATISTICS,
    "statistics_of_words": STATISTICS,
    "statistics_not_a_number": r"mean and deviation must be finite, deviations above 0",
    "statistics_of_no_deviation": r"mean and deviation must be finite, deviations above 0",
}
#: MiB by which building may grow a process: onnxruntime and onnx's checker, for a network of 18 weights.
GROWTH_MIB = 96


#: Built without complaint, and found out when the graph is to answer the canary: `build` runs it.
BUILT = ("sound", "values_that_are_computed_huge")


@pytest.fixture(scope="module")
def outcomes(server_env: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = run_script(server_env, "onnx_files.py", tmp_path_factory.mktemp("onnx_files"))
    return report


def test_every_package_has_an_expected_outcome(outcomes: dict[str, dict[str, Any]]) -> None:
    assert set(outcomes) == set(BUILT) | set(REFUSED)


@pytest.mark.parametrize("case", BUILT)
def test_sound_package_is_built(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    assert outcomes[case].get("model") == "csmask_l2a", outcomes[case]


@pytest.mark.parametrize("case", REFUSED)
def test_package_is_refused_in_words(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    found = outcomes[case]
    assert found.get("error") == "InputError", found
    assert re.search(REFUSED[case], found["message"]), found["message"]
    assert f"{case}/ukis_csmask/model_6b_l2a." in found["message"]  # which file
    assert found["message"].endswith("ukis_csmask and run `kappamask-stream server install` again")  # the remedy
    assert found["message"].isprintable()


@pytest.mark.parametrize("case", [*BUILT, *REFUSED])
def test_no_other_file_is_opened_and_little_memory_taken(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    assert outcomes[case]["elsewhere"] == []
    assert outcomes[case]["grown_mib"] <= GROWTH_MIB


@pytest.mark.parametrize(
    ("script", "case", "kind"),
    [
        ("onnx_bomb.py", (), "InputError"),
        ("onnx_files.py", ("values_upwards",), "InputError"),
        ("onnx_files.py", ("values_that_are_computed_huge",), "ServerSetupError"),
    ],
)
def test_a_build_ends_in_words_and_leaves_nothing(
    server_env: Path, tmp_path: Path, script: str, case: tuple[str, ...], kind: str
) -> None:
    """As users run it; fifty million operators of two bytes each would take gigabytes."""
    python, package = server_env / "bin" / "python", tmp_path / "package"
    made = [python, FOLDER / script, package, *case]
    subprocess.run(made, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    (found,) = package.rglob("model_6b_l2a.onnx")
    limit = 2 << 30  # lower than the command's own, so that the test is light
    ended = subprocess.run(
        [python, "-m", "server_models", "build", "csmask_l2a", "--repository", tmp_path / "models"],
        env=os.environ | {"PYTHONPATH": f"{found.parent.parent}:{ROOT}"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["kind"] == kind
    assert "csmask" in said["message"]
    assert not list((tmp_path / "models").iterdir())
