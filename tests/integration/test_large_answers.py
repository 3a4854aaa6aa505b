"""A server cannot choose how much of a client's memory its answers take: they are as large as the contract says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream.errors import AnswerError, ContractError
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, infer_with_retry
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.model_infer import ANSWER_ROOM, inline_request
from kappamask_stream.inference.tensors import TileLayout
from tests.integration.kserve_servers import Replica, serving
from tests.integration.tiles import tile_for

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract

_LARGE = 50 << 20
_AT_ONCE = 8
#: A client in a process of its own, so that its peak is of nothing else.
CLIENT = """
import asyncio, re, sys
from pathlib import Path
from kappamask_stream.errors import AnswerError
from kappamask_stream.inference import TritonClient
from tests.integration.tiles import tile_for

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

async def main(port, model, at_once):
    async with await TritonClient.connect(f"grpc://127.0.0.1:{port}", model, canary_s=None) as client:
        tiles = [tile_for(client) for _ in range(at_once)]
        before = peak()
        answers = await asyncio.gather(*map(client.infer, tiles), return_exceptions=True)
        assert all(isinstance(answer, AnswerError) for answer in answers), answers
        print(peak() - before)

asyncio.run(main(*sys.argv[1:3], int(sys.argv[3])))
"""


class Large(Replica):
    """Answers with more than it was asked for.

    Attributes
    ----------
    more : bytes that each answer to a tile has beyond its tensors.
    config_bytes : the same of the configuration.
    """

    def __init__(self, contract: ModelContract, *, more: int = 0, config_bytes: int = 0) -> None:
        super().__init__(contract)
        self.more, self.config_bytes = more, config_bytes

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's names
        answer = await super().ModelInfer(request, context)
        answer.raw_output_contents[0] += bytes(self.more)
        return answer

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = await super().ModelConfig(request, context)
        answer.config.parameters["other"].string_value = "x" * self.config_bytes
        return answer


async def test_an_answer_larger_than_the_contract_says_is_refused_with_both_sizes(
    csmask_contract: ModelContract,
) -> None:
    server = Large(csmask_contract, more=_LARGE)
    async with (
        serving(server) as (_, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", csmask_contract.name) as client,
    ):
        window, retries = InFlightWindow(4), list[tuple[str, str]]()
        most = csmask_contract.answer_bytes
        said = rf"tile: the answer of grpc://.* is malformed: it has 52\d{{6}} bytes, .* tensors have {most} \(tried 2"
        with pytest.raises(AnswerError, match=said) as caught:
            await infer_with_retry(
                client,
                tile_for(client),
                window=window,
                policy=RetryPolicy(attempts=2, backoff_s=0.01),
                on_retry=lambda *told: retries.append(told),
            )
        assert not caught.value.retryable
        assert [cause for cause, _ in retries] == ["AnswerError"]
        assert window.limit == 4, "it is not taken for a full queue"
        server.more = 0
        assert (await client.infer(tile_for(client))).labels.max() == 4


async def test_no_memory_is_taken_for_it(csmask_contract: ModelContract) -> None:
    async with serving(Large(csmask_contract, more=_LARGE)) as (_, port):
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CLIENT, str(port), csmask_contract.name, str(_AT_ONCE)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert ended.returncode == 0, ended.stderr
    # Eight answers have 400 MB; what is sent, and buffers, are a few.
    assert int(ended.stdout) < 2 * _LARGE


async def test_the_largest_answer_of_a_contract_and_some_words_more_are_taken(csmask_contract: ModelContract) -> None:
    server = Large(csmask_contract)
    layout = TileLayout.of(csmask_contract, probabilities=True)
    async with serving(server) as (_, port):
        connection = Connection.open(parse_endpoint(f"grpc://127.0.0.1:{port}"))
        try:
            connection.expect(csmask_contract.answer_bytes)
            arrays = tile_arrays(csmask_contract, layout)
            message = inline_request(csmask_contract.name, layout, arrays)
            server.more = ANSWER_ROOM - 1000
            answer = await connection.infer(message, timeout_s=60.0)
            assert answer.ByteSize() > csmask_contract.answer_bytes + server.more
            server.more = ANSWER_ROOM
            with pytest.raises(ValueError, match=f"tensors have {csmask_contract.answer_bytes}$"):
                await connection.infer(message, timeout_s=60.0)
        finally:
            await connection.aclose()


def tile_arrays(contract: ModelContract, layout: TileLayout) -> list[Any]:
    """A tile of nothing, in the order of the layout's inputs."""
    assert len(layout.inputs) == len(contract.inputs) + 2
    return [np.zeros(place.shape[1:], place.dtype) for place in layout.inputs]


async def test_a_later_contract_with_larger_answers_has_them_taken_on_the_same_connection(
    csmask_contract: ModelContract,
) -> None:
    """Requests that were sent before are not disturbed; a smaller one takes nothing back."""
    server = Large(csmask_contract, more=2 * ANSWER_ROOM)
    layout = TileLayout.of(csmask_contract, probabilities=False)
    async with serving(server) as (_, port):
        connection = Connection.open(parse_endpoint(f"grpc://127.0.0.1:{port}"))
        try:
            message = inline_request(csmask_contract.name, layout, tile_arrays(csmask_contract, layout))
            connection.expect(csmask_contract.answer_bytes)
            before = connection.infer
            with pytest.raises(ValueError, match="it has"):
                await before(message, timeout_s=60.0)
            server.delay_s = 0.2
            under_way = asyncio.create_task(before.config(csmask_contract.name, timeout_s=60.0))
            connection.expect(csmask_contract.answer_bytes + server.more)
            connection.expect(1)
            assert connection.infer.answer_bytes == csmask_contract.answer_bytes + server.more
            assert (await connection.infer(message, timeout_s=60.0)).ByteSize() > server.more
            assert (await under_way).config.name == csmask_contract.name
        finally:
            await connection.aclose()


@pytest.mark.parametrize("when", ["connecting", "later"])
async def test_a_configuration_of_many_megabytes_is_refused_with_both_sizes(
    csmask_contract: ModelContract, when: str
) -> None:
    server = Large(csmask_contract, config_bytes=_LARGE)
    said = rf"the configuration of {csmask_contract.name} at grpc://.* has 52\d{{6}} bytes, at most 16777216 are read"
    async with serving(server) as (_, port):
        if when == "connecting":
            with pytest.raises(ContractError, match=said):
                await TritonClient.connect(f"grpc://127.0.0.1:{port}", csmask_contract.name)
            return
        server.config_bytes = 0
        async with await TritonClient.connect(f"grpc://127.0.0.1:{port}", csmask_contract.name) as client:
            server.config_bytes = _LARGE
            with pytest.raises(ContractError, match=said):
                await client.confirm()
