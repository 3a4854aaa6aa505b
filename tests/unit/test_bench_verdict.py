"""The verdict of a benchmark: the right limit for each picture, and sentences whose numbers are the report's own."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.bench.facts import Facts, mean_batch
from kappamask_stream.bench.types import BenchReport, Latency, ServerPoint
from kappamask_stream.bench.verdict import verdict_of
from tests.unit.bench_reports import (
    ENVIRONMENT,
    SETTINGS,
    client_level,
    end_to_end_level,
    gpu,
    point,
    report,
    server_level,
    with_gpu,
)

#: 97 % of 8 cores for 80 s.
BUSY = {"client_cpu_s": 620.0}
ON_CPU = {"local_server": True, "server": server_level(point(2, 2.8), point(4, 2.6))}


def slow(**changes: Any) -> BenchReport:
    """Neither cores nor server are busy."""
    return report(end_to_end=end_to_end_level(client_cpu_s=64.0, **changes))


#: 10 s of wall time for 74 CPU s on 8 cores.
SETTINGS_GPU = replace(SETTINGS, decoder="gpu")

TABLE: dict[str, tuple[BenchReport, str, list[str]]] = {
    "decode": (
        with_gpu(report(end_to_end=end_to_end_level(**BUSY))),
        "decode",
        [
            "decode-bound: the GPU is idle 71 % of the time",
            "8 cores of the client, 97 % busy",
            "more cores would saturate",
        ],
    ),
    "decode, a server that tells only how busy it is": (
        report(server=None, end_to_end=end_to_end_level(**BUSY)),
        "decode",
        ["the server is idle 90 % of the time"],
    ),
    "decode, a server that tells nothing": (
        report(server=None, end_to_end=end_to_end_level(**BUSY, server_busy=None)),
        "decode",
        ["decode-bound: 8 cores of the client, 97 % busy, mask 180 products an hour."],
    ),
    "client: cores are busy, but not with decoding": (
        report(end_to_end=end_to_end_level(**BUSY), client=client_level(cpu_s=200.0)),
        "client",
        ["client-bound"],
    ),
    "decode by the stages, without the client's level": (
        report(end_to_end=end_to_end_level(**BUSY), client=None),
        "decode",
        ["decode-bound"],
    ),
    "client by the stages": (
        report(
            end_to_end=end_to_end_level(**BUSY, stages={"decode": 10.0, "mosaic": 300.0, "infer": 9.0}), client=None
        ),
        "client",
        ["client-bound"],
    ),
    "compute: the server answers all it can": (
        report(end_to_end=end_to_end_level(wall_s=3.5)),
        "compute",
        [
            "compute-bound: the server answers 375 tiles/s, 94 % of the 400 that it reached by itself",
            "batches hold 1.86",
        ],
    ),
    "compute: more than by itself": (
        report(server=server_level(point(32, 10.0))),
        "compute",
        ["the server answers 16.4 tiles/s, no less than the 10 that it reached by itself"],
    ),
    "compute by the GPU's word": (
        with_gpu(report(server=None, end_to_end=end_to_end_level()), utilisation=0.96),
        "compute",
        ["the GPU is busy 96 % of the time"],
    ),
    "compute: cores shared with a server on the CPU": (
        report(**ON_CPU, end_to_end=end_to_end_level(client_cpu_s=60.0, server_cpu_s=560.0, wall_s=80.0)),
        "compute",
        ["server and client share 8 cores, which are 97 % busy", "the server takes 90 %, the client 10 %"],
    ),
    "decode: cores shared with a server that does little": (
        report(**ON_CPU, end_to_end=end_to_end_level(client_cpu_s=560.0, server_cpu_s=60.0, wall_s=80.0)),
        "decode",
        ["decode-bound: server and client share 8 cores", "the server takes 10 %, the client 90 %"],
    ),
    "client: the loop": (
        slow(lag_p99_s=0.09, wall_s=60.0),
        "client",
        ["the event loop is 90 ms late (p99)", "uses 1.07 of 8 cores", "--processes"],
    ),
    "write": (
        slow(write_s=60.0),
        "write",
        ["from a product's last answer to its closed files it takes 15 s, 38 % of the time"],
    ),
    "queue": (
        slow(queue_s=0.09),
        "queue",
        ["a request waits 90 ms for its batch and is computed for 20 ms", "at 10 % of what it can"],
    ),
    "network: a full window, little of it in the server": (
        slow(mean_in_flight=31.0),
        "network",
        ["a request takes 1.89 s, of which the server has it for 23.5 ms", "525 Mbit/s go to it"],
    ),
    "network: the product's bytes": (
        slow(stages={"read": 150.0, "decode": 60.0, "infer": 20.0}),
        "network",
        ["products wait for their bytes; reading takes 37.5 s a product"],
    ),
    "compute: a full window, all of it in the server": (
        slow(mean_in_flight=31.0, wall_s=200.0, queue_s=2.0, compute_s=2.5, server_busy=0.8),
        "compute",
        [
            "the window of 32 in flight is full, and a request of 4.73 s is in the server for 4.5 s; the server is busy 80",
            "It answers only 2 % of the tiles/s that it reached by itself: others use it",
        ],
    ),
    "nothing": (
        slow(),
        "unknown",
        ["No limit found: 10 % of 8 cores busy", "the server at 4 %", "3 of 32 requests in flight"],
    ),
    "nothing, beside a GPU that is busy": (
        with_gpu(slow(), utilisation=0.99),
        "unknown",
        ["the server at 4 % of the tiles/s that it reached by itself, the GPU busy 99 % of the time"],
    ),
    "nothing: tiles go through memory, so no network can be the limit": (
        replace(slow(mean_in_flight=31.0), server=server_level(transport="shared memory")),
        "unknown",
        ["No limit found", "31 of 32 requests in flight"],
    ),
    "decode: a sweep of fewer requests than a window tells nothing of the server's limit": (
        report(server=server_level(point(1, 10.0)), end_to_end=end_to_end_level(**BUSY)),
        "decode",
        ["decode-bound: the server is idle 90 % of the time; 8 cores of the client, 97 % busy, mask 180 products"],
    ),
    "compute by the server's word, where the sweep did not reach the window": (
        report(server=server_level(point(1, 10.0)), end_to_end=end_to_end_level(server_busy=0.9)),
        "compute",
        ["compute-bound: the server is busy 90 % of the time."],
    ),
    "decode: a sweep that broke off tells nothing of the server's limit": (
        report(server=server_level(broken_off="it ended"), end_to_end=end_to_end_level(**BUSY)),
        "decode",
        ["decode-bound: the server is idle 90 % of the time; 8 cores of the client, 97 % busy, mask 180 products"],
    ),
    "by both levels apart: a sweep that broke off": (
        report(server=server_level(broken_off="it ended"), end_to_end=None),
        "unknown",
        ["was not measured: the client alone takes 79.1 CPU s"],
    ),
    "by both levels apart: decoding on a GPU takes longer than all the rest": (
        report(end_to_end=None, settings=SETTINGS_GPU),
        "decode",
        ["8 cores of the client can do 360 products an hour, the server 4,390"],
    ),
    "by both levels apart: a client of no CPU time": (
        report(end_to_end=None, client=client_level(cpu_s=0.0)),
        "unknown",
        ["the server alone answers 400 tiles/s"],
    ),
    "nothing, and nothing told": (
        report(server=None, client=None, end_to_end=end_to_end_level(server_busy=None, queue_s=None, compute_s=None)),
        "unknown",
        ["No limit found: 50 % of 8 cores busy, 3 of 32 requests in flight"],
    ),
    "by both levels apart: decode": (
        report(end_to_end=None),
        "decode",
        ["by both levels apart", "8 cores of the client can do 364 products an hour, the server 4,390", "idle 92 %"],
    ),
    "by both levels apart: compute": (
        report(end_to_end=None, server=server_level(point(1, 10.0))),
        "compute",
        ["the server can do 110 products an hour, 8 cores of the client 364"],
    ),
    "by both levels apart: shared cores": (
        report(**ON_CPU, end_to_end=None),
        "compute",
        ["server and client share 8 cores", "of 127 s a product the server takes 92 %, the client 8 %"],
    ),
    "the server only": (
        report(client=None, end_to_end=None),
        "unknown",
        ["was not measured: the server alone answers 400 tiles/s, enough for 4,390 products an hour."],
    ),
    "the server only, nobody knows how many tiles": (
        report(client=None, end_to_end=None, product_tiles_inferred=0),
        "unknown",
        ["the server alone answers 400 tiles/s."],
    ),
    "the client only": (
        report(server=None, end_to_end=None),
        "unknown",
        ["the client alone takes 79.1 CPU s a product, so 8 cores mask at most 364 an hour"],
    ),
    "no level": (report(server=None, client=None, end_to_end=None), "unknown", ["no level was measured"]),
}


@pytest.mark.parametrize(("made", "limit", "says"), TABLE.values(), ids=TABLE)
def test_the_limit_and_its_words(made: BenchReport, limit: str, says: list[str]) -> None:
    verdict = verdict_of(made)
    assert verdict.limit == limit
    for words in says:
        assert words.lower() in verdict.text.lower()


def test_every_limit_is_in_the_table() -> None:
    assert {limit for _, limit, _ in TABLE.values()} == {
        "decode", "client", "network", "queue", "compute", "write", "unknown",
    }  # fmt: skip


def test_the_cores_that_are_missing_follow_from_the_report() -> None:
    """A product takes 155 CPU s; the server does 400 / 328 products a second: 189.02 cores; 8 are there."""
    text = verdict_of(with_gpu(report(end_to_end=end_to_end_level(**BUSY)))).text
    needed = math.ceil(620 / 4 * 400 / 328)
    assert f"; {needed - 8} more cores would saturate it" in text


def test_one_more_core_is_one_core() -> None:
    made = report(server=server_level(point(32, 21.0)), end_to_end=end_to_end_level(client_cpu_s=560.0))
    assert Facts(report=made).cores_for_server == pytest.approx(140 * 21 / 328)
    assert "; 1 more core would saturate it" in verdict_of(made).text


def test_a_local_servers_share_of_the_cores_counts_where_it_has_a_gpu() -> None:
    made = with_gpu(report(local_server=True, end_to_end=end_to_end_level(client_cpu_s=560.0, server_cpu_s=60.0)))
    facts = Facts(report=made)
    assert not facts.shares_cores
    assert facts.own_cpu_s == pytest.approx(155)
    assert facts.cores_busy == pytest.approx(620 / 640)
    assert verdict_of(made).limit == "decode"


def test_a_gpu_that_is_not_used_is_none() -> None:
    idle = replace(point(16), gpu=gpu(0.0))
    made = report(local_server=True, server=server_level(idle), end_to_end=None)
    assert not Facts(report=made).has_gpu
    assert Facts(report=made).shares_cores
    untold = replace(point(16), gpu=gpu(None))
    assert Facts(report=replace(made, server=server_level(untold))).has_gpu


def test_the_servers_own_rate_decides_where_its_gpu_says_otherwise() -> None:
    """A GPU that runs some kernel all the time is busy 95 %, and could yet do 25 times as much."""
    verdict = verdict_of(with_gpu(report(end_to_end=end_to_end_level(**BUSY)), utilisation=0.95))
    assert verdict.limit == "decode"
    assert "the GPU is idle 5 % of the time (it answers 4 % of the tiles/s that it can)" in verdict.text


def test_on_one_core_a_late_loop_is_no_reason_for_more_processes() -> None:
    made = report(
        environment=replace(ENVIRONMENT, cores=1),
        end_to_end=end_to_end_level(cores=1, client_cpu_s=66.0, lag_p99_s=0.2),
    )
    assert "--processes" not in verdict_of(made).text


def test_a_product_without_data_is_no_division_by_zero() -> None:
    made = report(product_tiles_inferred=0, end_to_end=end_to_end_level(tiles_inferred=0, client_cpu_s=0.0))
    assert verdict_of(made).limit == "unknown"


def test_the_floor_is_the_longer_one_and_both_where_they_share_the_cores() -> None:
    apart, shared = Facts(report=report()), Facts(report=report(**ON_CPU, end_to_end=end_to_end_level(wall_s=800.0)))
    assert apart.decode_floor_s == pytest.approx(74 / 8)
    assert apart.server_floor_s == pytest.approx(328 / 400)
    assert apart.floor_s == pytest.approx(74 / 8)
    assert shared.floor_s == pytest.approx(74 / 8 + 328 / 2.8)


def test_a_broken_off_sweep_has_no_best_and_no_floor_rests_on_it() -> None:
    facts = Facts(report=with_gpu(report(server=server_level(broken_off="the server ended"))))
    assert (facts.best, facts.server_tiles_per_s, facts.server_used) == (None, None, None)
    assert (facts.floor_s, facts.server_floor_s, facts.cores_for_server) == (None, None, None)
    assert facts.has_gpu, "that it has one is known all the same"


@pytest.mark.parametrize(
    ("points", "is_saturated"),
    [
        ([point(1, 100.0)], False),
        ([point(1, 100.0), point(16, 180.0)], False),
        ([point(1, 100.0), point(8, 180.0), point(16, 185.0)], True),
        ([point(8, 180.0), point(16, 120.0)], True),
        ([point(32, 180.0)], True),
    ],
)
def test_the_servers_rate_is_its_limit_only_with_a_full_window_or_a_flat_curve(
    points: list[ServerPoint], *, is_saturated: bool
) -> None:
    facts = Facts(report=report(server=server_level(*points)))
    assert facts.is_saturated == is_saturated
    best = max(p.tiles_per_s for p in points)
    assert facts.server_tiles_per_s == (best if is_saturated else None)
    assert facts.reached_tiles_per_s == best
    assert (facts.server_used is None) == (facts.floor_s is None) == (not is_saturated)


def test_a_server_that_answers_more_end_to_end_can_do_that() -> None:
    facts = Facts(report=report(server=server_level(point(32, 10.0))))
    assert facts.server_tiles_per_s == facts.tiles_per_s == pytest.approx(16.4)
    assert facts.server_used == 1
    assert facts.server_floor_s == pytest.approx(328 / 16.4)


def test_batches_are_not_blamed_on_too_few_requests_where_there_were_more() -> None:
    level = server_level(point(4, 10.0, batch_sizes={8: 10}), point(8, 10.0))
    made = report(server=level, end_to_end=end_to_end_level(mean_in_flight=5.0, wall_s=131.2))
    assert verdict_of(made).limit == "compute"
    assert "Batches hold" not in verdict_of(made).text
    fewer = replace(made, end_to_end=end_to_end_level(mean_in_flight=3.0, wall_s=131.2))
    assert (
        "Batches hold 1.86 tiles, 8 at the server's best: more requests in flight fill them." in verdict_of(fewer).text
    )


def test_the_floor_of_decoding_on_a_gpu_is_its_wall_time() -> None:
    facts = Facts(report=report(settings=SETTINGS_GPU))
    assert facts.decode_floor_s == facts.floor_s == 10.0
    assert facts.cpu_to_floor is None
    assert Facts(report=report(settings=SETTINGS)).decode_floor_s == pytest.approx(74 / 8)
    assert Facts(report=report(settings=SETTINGS)).cpu_to_floor == pytest.approx(80 / 74)


def test_the_start_of_the_process_is_no_part_of_decoding() -> None:
    """A small product: 0.9 of 1.9 CPU s are the start, 0.93 of the rest decode."""
    small = client_level(cpu_s=1.9, start_cpu_s=0.9, floor=replace(client_level().floor, cpu_s=0.93))
    facts = Facts(report=report(client=small, end_to_end=None))
    assert facts.decode_share == pytest.approx(0.93)
    assert facts.client_cpu_s == pytest.approx(1.0)
    assert verdict_of(report(client=small)).limit != "client"
    only_start = report(client=replace(small, start_cpu_s=1.9), end_to_end=None, server=None)
    assert Facts(report=only_start).decode_share is None


def test_absurd_numbers_are_not_said() -> None:
    many = report(server=server_level(point(32, 1e8)), end_to_end=end_to_end_level(**BUSY))
    assert verdict_of(many).text.endswith("; it would take more than 1,000 times as many cores to saturate it.")
    assert "it answers < 0.1 % of the tiles/s that it can" in verdict_of(many).text
    shared = report(**ON_CPU, end_to_end=end_to_end_level(client_cpu_s=1e-9, server_cpu_s=600.0))
    assert "would do for more than 1,000 times as many products in place of 180." in verdict_of(shared).text


def test_mean_batch() -> None:
    assert mean_batch({1: 10, 8: 490}) == pytest.approx(7.86)
    assert mean_batch({}) is None
    assert mean_batch({4: 0}) is None
    assert mean_batch(None) is None


shares = st.floats(0, 1)
seconds = st.floats(1e-6, 1e4)
maybe = st.none() | st.floats(0, 100)


@given(
    cpu=seconds, server_cpu=maybe, wall=seconds, busy=st.none() | shares, queue=maybe, compute=maybe, lag=seconds,
    write=seconds, flight=st.floats(0, 64), rate=seconds, local=st.booleans(), utilisation=st.none() | shares,
    levels=st.sets(st.sampled_from(["server", "client", "end_to_end"])),
)  # fmt: skip
def test_whatever_was_measured_there_is_a_verdict_without_nonsense(
    *, cpu: float, server_cpu: float | None, wall: float, busy: float | None, queue: float | None, compute: float | None,
    lag: float, write: float, flight: float, rate: float, local: bool, utilisation: float | None, levels: set[str],
) -> None:  # fmt: skip
    made = report(
        local_server=local,
        server=server_level(point(4, rate, tiles=max(1, round(10 * rate)), latency=Latency(p50_s=1, p95_s=1, p99_s=1))),
        end_to_end=end_to_end_level(
            client_cpu_s=cpu, server_cpu_s=server_cpu, wall_s=wall, server_busy=busy, queue_s=queue, compute_s=compute,
            lag_p99_s=lag, write_s=write, mean_in_flight=flight,
        ),
    )  # fmt: skip
    made = with_gpu(made, utilisation)
    made = replace(made, **{name: None for name in ("server", "client", "end_to_end") if name not in levels})
    verdict = verdict_of(made)
    assert verdict.limit in {"decode", "client", "network", "queue", "compute", "write", "unknown"}
    assert verdict.text.endswith(".")
    assert not re.search(r"\bnan\b|\binf\b|None| -\d|idle -", verdict.text)
    said = re.match(r"(\w+)-bound", verdict.text)
    assert (said[1] if said else "unknown") == verdict.limit
    assert verdict == verdict_of(made)
