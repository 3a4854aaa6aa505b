"""An answer that is to another request, of another version, or not what was asked for is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.grpc import service_pb2

from kappamask_stream.errors import ModelChangedError
from kappamask_stream.inference.origin import Origin, new_request_id
from kappamask_stream.inference.tensors import TileLayout, tensors_in

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract

SERVER = "grpc://here:8001"


def answer(request_id: str, version: str = "1") -> Any:
    return service_pb2.ModelInferResponse(model_name="m", model_version=version, id=request_id)


def test_requests_have_names_of_their_own() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100


def test_the_first_answer_tells_the_version_and_no_other_one_is_taken() -> None:
    origin = Origin()
    origin.check(answer("7", "3"), "m", "7", SERVER)
    origin.check(answer("8", "3"), "m", "8", SERVER)
    with pytest.raises(ModelChangedError, match=r"version 4 of m answers at grpc://here:8001, version 3 did before"):
        origin.check(answer("9", "4"), "m", "9", SERVER)
    origin.check(answer("10", "3"), "m", "10", SERVER)
    assert repr(origin) == "<Origin, version 3>"


@pytest.mark.parametrize("other", ["", "6"])
def test_an_answer_to_another_request_is_refused_and_tells_nothing(other: str) -> None:
    origin = Origin()
    with pytest.raises(ValueError, match=f"it is to the request '{other}', not to '7'"):
        origin.check(answer(other, "9"), "m", "7", SERVER)
    assert repr(origin) == "<Origin, version None>"


@pytest.mark.parametrize(
    ("names", "sizes", "said"),
    [
        (["LABELS", "PROBABILITIES"], [65536, 196608], "it holds LABELS, PROBABILITIES, asked for was LABELS"),
        (["LABELS", "LABELS"], [65536, 65536], "it holds LABELS, LABELS, asked for was LABELS"),
        (["LABELS", "X"], [65536, 1], "it holds LABELS, X, asked for was LABELS"),
        (["LABELS"], [], "LABELS has 0 bytes, [1, 256, 256] takes 65536"),
        (["LABELS"], [65535], "LABELS has 65535 bytes, [1, 256, 256] takes 65536"),
        (["LABELS"], [65536 * 2], "LABELS has 131072 bytes, [1, 256, 256] takes 65536"),
    ],
)
def test_more_or_less_than_was_asked_for_is_refused(
    csmask_contract: ModelContract, names: list[str], sizes: list[int], said: str
) -> None:
    layout = TileLayout.of(csmask_contract, probabilities=False)
    given = service_pb2.ModelInferResponse()
    for name in names:
        given.outputs.add(name=name, datatype="UINT8", shape=(1, 256, 256))
    given.raw_output_contents.extend(bytes(size) for size in sizes)
    with pytest.raises(ValueError, match=re.escape(said)):
        tensors_in(given, layout, None)
