"""Regions of shared memory: their names, their room, what is left of them, and who holds the pixels in them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2

from kappamask_stream.contract import FAULT_LABEL, MaskClass
from kappamask_stream.errors import ContractError, InferenceError
from kappamask_stream.inference import TileRequest, shared_memory
from kappamask_stream.inference.filled_regions import FilledRegions
from kappamask_stream.inference.model_infer import inline_request, region_request
from kappamask_stream.inference.shared_memory import Region, is_of_the_dead, lacking, remove_abandoned_files
from kappamask_stream.inference.tensors import (
    TileLayout,
    arrays_of,
    checked_answer,
    empty_tensors,
    tensors_in,
    write_tensors,
)
from kappamask_stream.server import lease
from kappamask_stream.server.environment import ServerEnvironment
from server_models.tritonserver import TritonProcess
from tests.integration.local_state import wait_until
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.contract import ModelContract

pytestmark = pytest.mark.skipif(lacking() is not None, reason=f"no shared memory: {lacking()}")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = files()
    yield
    assert files() == before


def files() -> set[str]:
    mine = f"-{os.getpid()}-"
    return {path.name for path in Path("/dev/shm").glob("kappamask-*") if mine in path.name}


@pytest.fixture
def region() -> Region:
    made = Region.make(8192)
    made.unlink()
    return made


# Names and files


def test_a_region_is_memory_that_others_find_by_its_file_until_it_is_unlinked() -> None:
    region = Region.make(5000)
    try:
        path = Path("/dev/shm") / region.file
        assert path.stat().st_size == region.size == 5000
        assert path.stat().st_mode & 0o777 == 0o600
        region.array(100, (2, 3), np.uint16)[:] = 258
        assert path.read_bytes()[100:112] == b"\x02\x01" * 6
    finally:
        region.unlink()
    assert not path.exists()
    assert (region.array(100, (6,), np.uint16) == 258).all()
    region.unlink()


def test_no_two_regions_share_a_name() -> None:
    regions = [Region.make(10) for _ in range(20)]
    for region in regions:
        region.unlink()
    assert len({name for region in regions for name in (region.name, region.file)}) == 40


def test_the_file_of_a_region_does_not_tell_its_name_and_both_tell_their_maker(region: Region) -> None:
    name, file = region.name.rpartition("-"), region.file.rpartition("-")
    assert name[0] == file[0]
    assert name[2] != file[2]
    for digits in (name[2], file[2]):
        dead = "-".join([*name[0].split("-")[:4], "1", digits])
        assert is_of_the_dead(dead)
    assert region.name not in repr(region)


def test_only_regions_of_ended_processes_of_this_user_and_namespace_are_of_the_dead(region: Region) -> None:
    assert not is_of_the_dead(region.name)
    word, namespace, user, process, _start, digits = region.name.split("-")
    assert is_of_the_dead(f"{word}-{namespace}-{user}-{process}-1-{digits}")  # the id was given again
    assert not is_of_the_dead(f"{word}-1-{user}-{process}-1-{digits}")  # of a container
    assert not is_of_the_dead(f"{word}-{namespace}-4294967294-{process}-1-{digits}")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        began = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        name = "-".join([word, namespace, user, str(child.pid), began, digits])
        assert not is_of_the_dead(name)
    assert is_of_the_dead(name)
    for other in ("kappamask", "triton_python_backend_shm_region_1", f"{region.name}x", ""):
        assert not is_of_the_dead(other)


def test_files_of_the_dead_are_removed_and_no_others(region: Region) -> None:
    word, namespace, user, process, _, digits = region.name.split("-")
    dead = Path("/dev/shm") / f"{word}-{namespace}-{user}-{process}-1-{digits}"
    alive = Region.make(10)
    try:
        dead.write_bytes(b"")
        remove_abandoned_files()
        assert not dead.exists()
        assert (Path("/dev/shm") / alive.file).exists()
    finally:
        alive.unlink()


def test_half_of_the_room_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    room = namedtuple("room", "f_blocks f_frsize f_bavail")  # noqa: PYI024 - as os.statvfs gives it
    for free, fits in ((64, True), (33, True), (32, False), (1, False)):
        monkeypatch.setattr(shared_memory.os, "statvfs", lambda _, free=free: room(64, 1_000_000, free))
        if fits:
            Region.make(1_000_000).unlink()
            continue
        with pytest.raises(OSError, match=rf"has {free}000000 of 64000000 bytes free, half of all") as caught:
            Region.make(1_000_000)
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda _: room(0, 4096, 0))  # a file system without a limit
    Region.make(1_000_000).unlink()


def test_a_region_whose_pages_cannot_be_had_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared_memory.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Region.make(1_000_000)


def test_systems_without_it_or_with_too_little_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = namedtuple("room", "f_blocks f_frsize f_bavail")  # noqa: PYI024 - as os.statvfs gives it
    for total, said in ((64, "/dev/shm has 64 MiB in all, 256 are needed"), (255, "255 MiB"), (256, ""), (0, "")):
        monkeypatch.setattr(shared_memory.os, "statvfs", lambda _, total=total: room(total, 2**20, total))
        assert said in str(lacking())
        assert (lacking() is None) is (said == "")
    monkeypatch.setattr(shared_memory, "_FOLDER", tmp_path / "missing")
    assert lacking() == f"{tmp_path / 'missing'} is missing or cannot be written"
    monkeypatch.setattr(shared_memory.sys, "platform", "darwin")
    assert lacking() == "only Linux has it, this is darwin"


# Who holds the pixels


async def test_a_filled_region_is_free_when_nobody_holds_any_part_of_it(region: Region) -> None:
    free: list[Region] = []
    filled = FilledRegions(free.append)
    memory = filled.fill(region, asyncio.get_running_loop())
    part = memory[64:128].view(np.uint16).reshape(4, 8)[1:3]
    del memory
    await asyncio.sleep(0)
    assert (free, len(filled)) == ([], 1)
    await asyncio.to_thread(part.fill, 7)
    held = [part]
    del part
    await asyncio.to_thread(held.clear)  # the last holder is another thread
    await until(lambda: free == [region])
    assert len(filled) == 0


async def test_the_same_pixels_are_sent_from_a_region_once_at_a_time(region: Region) -> None:
    filled = FilledRegions(lambda _: None)
    memory = filled.fill(region, asyncio.get_running_loop())
    assert filled.send(region.address, region.size) is region
    assert filled.send(region.address, region.size) is None
    assert filled.take_back(region)
    assert filled.send(region.address, region.size + 1) is None
    assert filled.send(region.address, region.size) is region
    filled.drop(region)
    assert filled.send(region.address, region.size) is None
    assert not filled.take_back(region)
    assert memory.size == region.size


# The local server's key


def test_the_keys_are_hidden_as_soon_as_triton_says_something(tmp_path: Path) -> None:
    server = TritonProcess(tmp_path, tmp_path)
    assert not server.hide_keys()
    server.log_path.write_text("I1126 14:36:29.25 of the run before\n")
    server._log_bytes = server.log_path.stat().st_size
    command = [sys.executable, "-c", "input()", f"a:key={server.key}", f"b:key={server.memory_key}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server.process:
        seen = Path(f"/proc/{server.process.pid}/cmdline")
        wait_until(lambda: server.memory_key.encode() in seen.read_bytes(), "the process has its command line")
        assert not server.hide_keys()
        with server.log_path.open("a") as log:
            log.write("tritonserver: /lib/libz.so: no version information available\n")
            log.flush()
            assert not server.hide_keys()  # it has not read them yet
            log.write('W1126 14:36:29.253966 3338 pinned_memory_manager.cc:273] "Unable to"\n')
        assert server.memory_key.encode() in seen.read_bytes()
        assert server.hide_keys()
        assert seen.read_bytes().split(b"\0")[3:5] == [b"a:key=" + b"*" * 32, b"b:key=" + b"*" * 32]


async def test_a_supervisor_of_a_version_without_a_key_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        ready = {"event": "ready", "grpc": "127.0.0.1:1", "metrics": "m", "model": "null_l2a", "log": "log"}
        writer.write(json.dumps(ready).encode() + b"\n")
        await reader.read()
        writer.close()

    monkeypatch.setattr(ServerEnvironment, "require", lambda _: None)
    monkeypatch.setattr(lease, "state_folder", lambda _: tmp_path)
    tmp_path.chmod(0o700)
    async with (
        await asyncio.start_unix_server(answer, tmp_path / "lease.sock"),
        lease.lease_local_server(model="null_l2a", env=tmp_path) as leased,
    ):
        assert (leased.grpc_address, leased.memory_key) == ("127.0.0.1:1", None)


# Tensors


def tile(contract: ModelContract, *, probabilities: bool = False) -> TileRequest:
    rng = np.random.default_rng(1)
    channels = len(contract.channels)
    return TileRequest(
        name="tile",
        tensors={g.tensor: rng.integers(0, 65536, (len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs},
        offset=rng.random(channels, np.float32),
        scale=rng.random(channels, np.float32),
        probabilities=probabilities,
    )


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_request_is_what_tritonclient_would_send(kappamask_contract: ModelContract, *, probabilities: bool) -> None:
    layout = TileLayout.of(kappamask_contract, probabilities=probabilities)
    request = tile(kappamask_contract)
    arrays = arrays_of(request, layout, kappamask_contract, "here")
    sent = service_pb2.ModelInferRequest.FromString(inline_request("a model", layout, arrays))
    shared = service_pb2.ModelInferRequest.FromString(region_request("a model", layout, "a region"))
    expected, expected_shared = (service_pb2.ModelInferRequest(model_name="a model") for _ in range(2))
    for place, array in zip(layout.inputs, arrays, strict=True):
        tensor = InferInput(place.name, [1, *array.shape], "FP32" if array.dtype == np.float32 else "UINT16")
        tensor.set_data_from_numpy(array[np.newaxis])
        expected.inputs.append(tensor._get_tensor())
        expected.raw_input_contents.append(tensor._get_content())
        expected_shared.inputs.append(tensor.set_shared_memory("a region", array.nbytes, place.offset)._get_tensor())
    for place in layout.outputs:
        output = InferRequestedOutput(place.name)
        expected.outputs.append(output._get_tensor())
        output.set_shared_memory("a region", place.nbytes, place.offset)
        expected_shared.outputs.append(output._get_tensor())
    assert sent == expected
    first = shared.inputs[0].parameters.pop("shared_memory_offset")  # tritonclient leaves an offset of 0 out
    assert first.int64_param == 0
    assert shared == expected_shared


def test_tensors_do_not_overlap_and_more_outputs_move_nothing(kappamask_contract: ModelContract) -> None:
    few, many = (TileLayout.of(kappamask_contract, probabilities=asked) for asked in (False, True))
    assert (*few.inputs, *few.outputs) == (*many.inputs, *many.outputs)[:-1]
    places = (*many.inputs, *many.outputs)
    for place, following in itertools.pairwise(places):
        assert place.offset % 64 == 0
        assert place.offset + place.nbytes <= following.offset
    assert places[-1].offset + places[-1].nbytes <= many.nbytes


def test_pixels_that_lie_in_the_region_are_completed_to_a_request(csmask_contract: ModelContract) -> None:
    layout = TileLayout.of(csmask_contract, probabilities=False)
    region = Region.make(layout.nbytes)
    region.unlink()
    request = tile(csmask_contract)
    inside = empty_tensors(csmask_contract, layout, region.array(0, (region.size,), np.uint8))
    for name, tensor in request.tensors.items():
        inside[name][:] = tensor
    place = layout.inputs[0]
    region.array(layout.outputs[0].offset, layout.outputs[0].shape, np.uint8)[:] = 1
    write_tensors(region, layout, [*inside.values(), request.offset, request.scale])
    assert np.array_equal(region.array(place.offset, place.shape, np.uint16)[0], request.tensors[place.name])
    assert np.array_equal(region.array(layout.inputs[1].offset, (6,), np.float32), request.offset)
    # An answer of an earlier tile cannot be taken for one.
    assert (region.array(layout.outputs[0].offset, layout.outputs[0].shape, np.uint8) == FAULT_LABEL).all()


def test_pixels_without_a_region_have_the_shapes_of_the_contract(kappamask_contract: ModelContract) -> None:
    layout = TileLayout.of(kappamask_contract, probabilities=True)
    made = empty_tensors(kappamask_contract, layout, None)
    assert {name: (a.shape, a.dtype) for name, a in made.items()} == {
        g.tensor: ((len(g.bands), g.tile, g.tile), np.dtype(np.uint16)) for g in kappamask_contract.inputs
    }


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("UINT8", (1, 256, 255)),
        ("UINT8", (256, 256)),
        ("INT8", (1, 256, 256)),
        ("UINT8", (2, 256, 256)),
        ("BYTES", (1, 256, 256)),
    ],
)
def test_an_answer_of_another_type_or_shape_is_refused(
    csmask_contract: ModelContract, kind: str, shape: tuple[int, ...]
) -> None:
    layout = TileLayout.of(csmask_contract, probabilities=False)
    region = Region.make(layout.nbytes)
    region.unlink()
    answer = service_pb2.ModelInferResponse()
    for place in (region, None):
        assert tensors_in(answer, layout, place) == {"LABELS": None}
    answer.outputs.add(name="LABELS", datatype=kind, shape=shape)
    said = re.escape(f"LABELS is {kind} {list(shape)}, not UINT8 [1, 256, 256]")
    with pytest.raises(ValueError, match=said):
        tensors_in(answer, layout, region)
    answer.raw_output_contents.append(b"\xff" * 70_000)
    with pytest.raises(ValueError, match=said):
        tensors_in(answer, layout, None)


def test_tensors_that_come_in_the_answer_are_not_looked_for_in_shared_memory(csmask_contract: ModelContract) -> None:
    """What is in the region then is of an earlier tile."""
    layout = TileLayout.of(csmask_contract, probabilities=True)
    region = Region.make(layout.nbytes)
    region.unlink()
    answer = service_pb2.ModelInferResponse()
    for place in layout.outputs:
        answer.outputs.add(name=place.name, datatype="UINT8", shape=place.shape)
    answer.raw_output_contents.extend([b"", b""])
    assert set(tensors_in(answer, layout, region)) == {"LABELS", "PROBABILITIES"}
    answer.raw_output_contents[1] = bytes(layout.outputs[1].nbytes)
    with pytest.raises(ValueError, match="not in shared memory as asked"):
        tensors_in(answer, layout, region)


def test_an_answer_is_copied_out_of_shared_memory(csmask_contract: ModelContract) -> None:
    layout = TileLayout.of(csmask_contract, probabilities=False)
    region = Region.make(layout.nbytes)
    region.unlink()
    place = layout.outputs[0]
    answer = service_pb2.ModelInferResponse()
    answer.outputs.add(name="LABELS", datatype="UINT8", shape=place.shape)
    region.array(place.offset, place.shape, np.uint8)[:] = 4
    labels = tensors_in(answer, layout, region)["LABELS"]
    region.array(place.offset, place.shape, np.uint8)[:] = 1
    assert labels is not None
    assert (labels == 4).all()


def test_a_tile_that_is_not_what_the_contract_says_is_refused(csmask_contract: ModelContract) -> None:
    layout = TileLayout.of(csmask_contract, probabilities=False)
    request = tile(csmask_contract)
    other = TileRequest(
        name="tile 7",
        tensors={"DN_20M": np.zeros((6, 256, 255), np.uint16)},
        offset=request.offset,
        scale=request.scale,
    )
    with pytest.raises(ContractError, match=r"tile 7: DN_20M is uint16 \[6, 256, 255\], .*says uint16 \[6, 256, 256\]"):
        arrays_of(other, layout, csmask_contract, "here")


@pytest.mark.parametrize("values", [(0, 1, 2, 3, 4, 5), (1, 2, 4), (0, 254)])
def test_labels_are_refused_unless_all_are_classes(csmask_contract: ModelContract, values: tuple[int, ...]) -> None:
    """However the classes are numbered; every label is tried, alone among good ones."""
    classes = tuple(MaskClass(value=value, name=f"C{value}", colour=(0, 0, 0)) for value in values)
    contract = replace(csmask_contract, classes=classes, probability_classes=values, nodata_class=values[0])
    for label in range(256):
        labels = np.full((1, 256, 256), values[0], np.uint8)
        labels[0, 7, 9] = label
        if label in values:
            assert checked_answer({"LABELS": labels}, contract, "here").labels[7, 9] == label
            continue
        said = "values that are not finite" if label == FAULT_LABEL else rf"hold classes \[{label}\]"
        with pytest.raises(InferenceError, match=said):
            checked_answer({"LABELS": labels}, contract, "here")
