"""Which failures are tried again, and when patience ends."""

import asyncio
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
from kappamask_stream.inference import (
    InferResult,
    InFlightWindow,
    RetryPolicy,
    TileRequest,
    confirm_with_retry,
    infer_with_retry,
)
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


@pytest.mark.parametrize(
    ("failure", "urgent_after_s", "urgent"),
    [
        (InferenceTimeoutError("late"), 1e9, True),
        (ServerOverloadedError("full"), 1e9, False),
        (ServerOverloadedError("full"), 0.0, True),
        (ServerUnavailableError("gone"), 1e9, False),
    ],
)
async def test_a_tile_that_was_kept_waiting_goes_in_the_interactive_lane(
    csmask_contract: ModelContract, failure: Exception, urgent_after_s: float, *, urgent: bool
) -> None:
    """What is interactive may fill a server for hours: without it, a backlog's tiles would fail for ever."""

    class Noted(FakeInference):
        async def infer(self, request: TileRequest) -> InferResult:
            lanes.append(request.urgent)
            return await super().infer(request)

    lanes: list[bool] = []
    client = Noted(csmask_contract)
    client.failures.extend([failure, failure])
    policy = RetryPolicy(urgent_after_s=urgent_after_s, **QUICK)
    await infer_with_retry(client, request_for(csmask_contract), window=InFlightWindow(4), policy=policy)
    assert lanes == [False, urgent, urgent]


async def test_a_backlog_that_is_late_does_not_fill_the_interactive_lane(csmask_contract: ModelContract) -> None:
    """On a server that is slower than requests may take, all of them are late."""

    class Noted(FakeInference):
        async def infer(self, request: TileRequest) -> InferResult:
            late = not request.urgent
            urgent.append(urgent[-1] + request.urgent)
            await asyncio.sleep(0)
            try:
                if late:
                    raise InferenceTimeoutError("late")
                return await super().infer(request)
            finally:
                urgent.append(urgent[-1] - request.urgent)

    urgent = [0]
    client, window = Noted(csmask_contract), InFlightWindow(16)
    request, policy = request_for(csmask_contract), RetryPolicy(**QUICK)
    await asyncio.gather(*(infer_with_retry(client, request, window=window, policy=policy) for _ in range(16)))
    assert max(urgent) == 2
    assert urgent[-1] == window.in_flight == 0


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
