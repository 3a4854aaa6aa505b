"""Weights files, sound and hostile: each is read, or refused in words, within bounded memory."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.networks.in_server_env import FOLDER, run_script

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = r"tensor conv2d_1/conv2d_1/kernel:0 "
SOUND = {
    "weights_alone": "kappamask_l2a_unet",
    "deeplab_weights": "kappamask_l2a_deeplabv3plus",
    "whole_model_with_code_in_it": "kappamask_l2a_unet",
    "numbers_that_start_higher": "kappamask_l2a_deeplabv3plus",
    "names_split_over_several_attributes": "kappamask_l2a_unet",
    "names_of_variable_length": "kappamask_l2a_unet",
    "big_endian_values": "kappamask_l2a_unet",
    "groups_in_a_circle": "kappamask_l2a_unet",
}
REFUSED = {
    # Files of something else.
    "no_hdf5": r"not a readable Keras HDF5 weights file: .*signature not found",
    "empty_file": r"not a readable Keras HDF5 weights file",
    "truncated": r"not a readable Keras HDF5 weights file: .*truncated file",
    "no_layer_names": r"group / has no attribute layer_names: not a Keras 2 weights file",
    "no_weight_names": r"group /conv2d_3 has no attribute weight_names",
    "other_level": r"tensor conv2d/kernel has shape \(3, 3, 13, 2\), expected \(3, 3, 14, \*\); .* another .*level",
    "other_network": r"tensor batch_normalization/gamma is missing .* another network",
    # Tensors that do not fit.
    "missing_tensor": r"tensor conv2d_7/bias is missing \(expected shape \(32\)\)",
    "listed_but_absent": r"tensor conv2d_7/conv2d_7/bias:0 is missing although the file lists it",
    "extra_tensor": r"1 of 49 tensors are unknown to the network, first dense/kernel \(3, 4\)",
    "no_values": KERNEL + r"has no values \(shape \(3, 3, 4, 0\)\)",
    "null_dataspace": KERNEL + r"has no values",
    "negative_variance": r"batch_normalization_7/moving_variance is -0\.\d+, expected 0 or more",
    "not_a_number": r"conv2d_4/conv2d_4/kernel:0: 2 of 1152 values are not finite",
    "double_values": KERNEL + "has type float64, expected float32",
    "half_values": KERNEL + "has type float16, expected float32",
    "whole_numbers": KERNEL + "has type int32, expected float32",
    "complex_values": KERNEL + "has type complex64, expected float32",
    "string_values": KERNEL + r"has type \|S8, expected float32",
    "truth_values": KERNEL + "has type bool, expected float32",
    "variable_length_values": KERNEL + "has type object, expected float32",
    "references": KERNEL + "has type object, expected float32",
    "opaque_pickle": KERNEL + r"has type \|V\d+, expected float32",
    # Names.
    "path_upwards": r"the path leaves its group: refused",
    "absolute_path": r"the path leaves its group: refused",
    "doubly_absolute_path": r"the path leaves its group: refused",
    "layer_upwards": r"group \.\./conv2d_1: the path leaves its group: refused",
    "tensor_that_is_its_group": r"tensor conv2d_1/conv2d_1 is a Group, expected a dataset",
    "path_through_a_tensor": r"the path leaves its group: refused",
    "empty_name": r"tensor conv2d_1/ is a Group, expected a dataset",
    "same_name_twice": r"weight_names of /conv2d_1 lists 2 names \(1 different ones\)",
    "same_tensor_under_two_paths": r"the file lists tensor conv2d_1/kernel twice",
    "same_layer_under_two_numbers": r"unknown to the network, first conv2d_01/kernel",
    "number_of_five_thousand_digits": r"holds 'conv2d_9+', expected names of at most 200 printable characters",
    "terminal_commands_in_a_name": r"holds 'conv2d_1\\x1b\[2J', expected names of at most 200 printable characters",
    "names_that_are_numbers": r"attribute layer_names of / has type int64 and shape \(5,\), expected a list of strings",
    "names_that_are_not_unicode": r"not a readable Keras HDF5 weights file: 'utf-8' codec",
    "too_many_tensors": r"4097 tensors with 16388 bytes or more, in a file of \d+ bytes; at most 4096 tensors are read",
    "too_many_names": r"weight_names of /conv2d_1 lists 4500 names .*at most 4096",
    "one_huge_name": r"layer_names of / lists 64 names in 67108864 bytes, at most 4096 in 1048576",
    # Links, and data elsewhere.
    "soft_link": KERNEL + r"is reached through a SoftLink, expected plain data: refused",
    "external_link": r"group conv2d_1 is reached through a ExternalLink, expected plain data: refused",
    "whole_model_by_external_link": r"group model_weights is reached through a ExternalLink",
    "external_storage": KERNEL + r"keeps its data outside the file: refused",
    "virtual_dataset": KERNEL + r"keeps its data outside the file: refused",
    # Compression and size.
    "compressed": KERNEL + r"is stored in chunks or compressed, .*h5repack -l CONTI -f NONE",
    "unknown_filter": KERNEL + r"is stored in chunks or compressed",
    "chunk_that_inflates_to_a_gigabyte": KERNEL + r"is stored in chunks or compressed",
    "huge_shape_in_chunks": KERNEL + r"is stored in chunks or compressed",
    "huge_shape_never_written": KERNEL + r"has 0 bytes in the file, its shape \(1000000, 1000000\) needs 4000000000000",
    "never_written": KERNEL + r"has 0 bytes in the file, its shape \(3, 3, 4, 4\) needs 576",
    "larger_than_the_file": r"22 tensors with 739312 bytes or more, in a file of \d{6} bytes",
}
#: MiB by which reading a file of half a MiB may grow a process; building from it takes onnx's checker too.
GROWTH_MIB = 64
#: HDF5 itself reads an attribute when it looks at it; this file is one attribute of 64 MiB.
HUGE_ATTRIBUTE_MIB = 200


@pytest.fixture(scope="module")
def outcomes(server_env: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = run_script(
        server_env, "weights_files.py", tmp_path_factory.mktemp("weights_files")
    )
    return report


def test_every_file_has_an_expected_outcome(outcomes: dict[str, dict[str, Any]]) -> None:
    assert set(outcomes) == set(SOUND) | set(REFUSED)


@pytest.mark.parametrize("case", SOUND)
def test_sound_file_is_built(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    assert outcomes[case].get("model") == SOUND[case], outcomes[case]


@pytest.mark.parametrize("case", REFUSED)
def test_file_is_refused_in_words(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    found = outcomes[case]
    assert found.get("error") == "InputError", found
    assert re.search(REFUSED[case], found["message"]), found["message"]
    assert f"{case}.hdf5: " in found["message"]  # which file
    assert "Traceback" not in found["message"]
    assert found["message"].isprintable()


@pytest.mark.parametrize("case", [*SOUND, *REFUSED])
def test_file_takes_no_more_memory_than_it_is_worth(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    assert outcomes[case]["grown_mib"] <= (HUGE_ATTRIBUTE_MIB if case == "one_huge_name" else GROWTH_MIB)


@pytest.mark.parametrize("case", [*SOUND, *REFUSED])
def test_nothing_in_a_file_is_run(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    assert not outcomes[case]["exploded"]


def test_damaged_bytes_are_refused_or_harmless(server_env: Path, tmp_path: Path) -> None:
    """No crash, no hang, no other exception, no allocation, whatever the bytes of HDF5's structures say."""
    found = run_script(server_env, "weights_files.py", tmp_path, "fuzz", 100)
    strange = [one for one in found if one.get("error", "InputError") != "InputError"]
    assert strange == []
    assert max(one["grown_mib"] for one in found) <= GROWTH_MIB
    refused = sum("error" in one for one in found)
    assert 20 <= refused <= 80  # both kinds are tested


def test_a_build_that_would_take_gigabytes_ends_in_words(server_env: Path, tmp_path: Path) -> None:
    """HDF5 reads names of variable length before anybody can ask how long they are."""
    bomb = tmp_path / "bomb.hdf5"
    subprocess.run([server_env / "bin" / "python", FOLDER / "weights_bomb.py", bomb], check=True)
    assert bomb.stat().st_size < 4 << 20
    command = [server_env / "bin" / "python", "-I", "-m", "server_models", "build", "kappamask_l2a_unet"]
    limit = 2 << 30  # lower than the command's own, so that the test is light
    ended = subprocess.run(
        [*command, "--weights", bomb, "--repository", tmp_path / "models"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["kind"] == "InputError"
    assert str(bomb) in said["message"]
    assert not list((tmp_path / "models").iterdir())
