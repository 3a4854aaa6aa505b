"""Which failures are tried again, and when patience ends."""

import random

import numpy as np
import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import (
    InferenceError,
    InferenceTimeoutError,
    ModelChangedError,
    ServerFaultError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TileRequest, confirm_with_retry, infer_with_retry
from tests.stream.fakes import FakeInference

QUICK = {"backoff_s": 0.0005, "backoff_max_s": 0.001}


def request_for(contract: ModelContract) -> TileRequest:
    tensors = {g.tensor: np.ones((len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs}
    vector = np.ones(len(contract.channels), np.float32)
    return TileRequest(name="tile at row 1, column 2 of P", tensors=tensors, offset=vector, scale=vector)


@pytest.mark.parametrize(
    "failure",
    [
        ServerOverloadedError("full"),
        ServerUnavailableError("gone"),
        InferenceTimeoutError("late"),
        ServerFaultError("no memory"),
        InferenceError("once"),
    ],
)
async def test_one_failure_of_each_kind_is_survived(csmask_contract: ModelContract, failure: Exception) -> None:
    client, notes = FakeInference(csmask_contract), []
    client.failures.append(failure)
    window = InFlightWindow(4)
    result = await infer_with_retry(
        client, request_for(csmask_contract), window=window, policy=RetryPolicy(**QUICK),
        on_retry=lambda *said: notes.append(said),
    )  # fmt: skip
    assert (result.labels == 1).all()
    assert sum(client.sent.values()) == 2
    ((cause, text),) = notes
    assert cause == type(failure).__name__
    assert "row 1, column 2" in text
    assert str(failure) in text


async def test_overload_lowers_the_window_a_dead_server_does_not(csmask_contract: ModelContract) -> None:
    for failure, limit in ((ServerOverloadedError("full"), 1), (ServerUnavailableError("gone"), 4)):
        client, window = FakeInference(csmask_contract), InFlightWindow(4)
        client.failures.append(failure)
        seen = []
        policy = RetryPolicy(**QUICK)
        await infer_with_retry(
            client,
            request_for(csmask_contract),
            window=window,
            policy=policy,
            on_retry=lambda *_, w=window, s=seen: s.append(w.limit),
        )
        assert seen == [limit]


async def test_a_tile_that_always_fails_gives_up_after_its_attempts(csmask_contract: ModelContract) -> None:
    client = FakeInference(csmask_contract)
    client.failures.extend([InferenceError("cuda error 700")] * 10)
    with pytest.raises(InferenceError, match=r"tile at row 1, column 2 of P: cuda error 700 \(tried 3 times\)"):
        await infer_with_retry(
            client, request_for(csmask_contract), window=InFlightWindow(4), policy=RetryPolicy(attempts=3, **QUICK)
        )
    assert sum(client.sent.values()) == 3


async def test_a_look_at_the_model_has_the_same_patience(csmask_contract: ModelContract) -> None:
    client, notes = FakeInference(csmask_contract), []
    client.doubts.extend([ServerUnavailableError("gone"), ServerOverloadedError("full")])
    policy = RetryPolicy(server_wait_s=0.05, **QUICK)
    await confirm_with_retry(client, "P", policy=policy, on_retry=lambda *said: notes.append(said))
    assert notes == [
        ("ServerUnavailableError", "P: gone; trying again"), ("ServerOverloadedError", "P: full; trying again"),
    ]  # fmt: skip
    client.doubts.extend([ServerUnavailableError("gone")] * 10_000)
    with pytest.raises(ServerUnavailableError, match=r"^P: gone \(tried \d+ times\)"):
        await confirm_with_retry(client, "P", policy=policy)
    client.doubts.clear()
    client.doubts.append(ModelChangedError("another"))
    with pytest.raises(ModelChangedError, match=r"^another$"):
        await confirm_with_retry(client, "P", policy=policy)


async def test_a_dead_server_is_waited_for_as_long_as_said(csmask_contract: ModelContract) -> None:
    client = FakeInference(csmask_contract)
    client.failures.extend([ServerUnavailableError("gone")] * 10_000)
    with pytest.raises(ServerUnavailableError, match="gone"):
        await infer_with_retry(
            client,
            request_for(csmask_contract),
            window=InFlightWindow(4),
            policy=RetryPolicy(server_wait_s=0.05, **QUICK),
        )
    assert sum(client.sent.values()) > 3


def test_pauses_double_with_jitter_up_to_a_maximum() -> None:
    policy = RetryPolicy(backoff_s=1.0, backoff_max_s=8.0, rng=random.Random(1))
    for failures, whole in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (50, 8.0)):
        pauses = [policy.pause_s(failures) for _ in range(100)]
        assert whole / 2 <= min(pauses) < max(pauses) <= whole
