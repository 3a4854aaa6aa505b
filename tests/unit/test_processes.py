"""What travels between processes arrives as it was, and what they share is shared out."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.cli import build_app
from kappamask_stream.errors import CodestreamError, InternalError, UsageError, error_kinds
from kappamask_stream.extras import selected
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.models import ModelChoice
from kappamask_stream.processes import Crew
from kappamask_stream.processes.messages import Ended, Failure, Job, Picture, Setup
from kappamask_stream.processes.pipe import Pipe
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.runner import Order
from kappamask_stream.s3 import CDSE, S3Options, Stores
from kappamask_stream.settings import Settings


def test_an_order_with_all_options_travels() -> None:
    order = Order(
        options=MaskOptions(mosaic="blend", dilate=(("CLOUD", 200.0),), aoi=parse_aoi("10,50,11,51")),
        extras=selected(png=True, probabilities=True, subtiles=True, report=True, stac=True),
        source="cdse", allow_coarser=True, verify_checksums=True,
    )  # fmt: skip
    crew = Crew(processes=2, choice=ModelChoice(precision="bf16"), settings=Settings(triton="grpc://a:1"))
    sent = crew.setup(0, order)
    got: Setup = pickle.loads(pickle.dumps(sent))
    assert (got.choice, got.settings, got.processes) == (sent.choice, sent.settings, 2)
    assert got.order.options.aoi is not None
    assert order.options.aoi is not None
    assert got.order.options.aoi.identity == order.options.aoi.identity
    assert [type(make()) for make in got.order.extras] == [type(make()) for make in order.extras]
    assert got.order.has_items
    assert got.order.source == "cdse"


@given(threads=st.integers(1, 64), processes=st.integers(1, 16))
def test_decoding_threads_are_shared_out_and_each_process_has_one(threads: int, processes: int) -> None:
    settings = Settings(decode_threads=threads, memory_budget_mb=100, products_at_once=3, processes=processes)
    crew = Crew(processes=processes, choice=ModelChoice(), settings=settings)
    shares = [crew.setup(place, Order()).settings for place in range(processes)]
    counts = [share.decode_threads for share in shares]
    assert sum(counts) == max(threads, processes)
    assert max(counts) - min(counts) <= 1
    assert {(s.memory_budget_mb, s.products_at_once, s.processes) for s in shares} == {(100, 3, 1)}


@pytest.mark.parametrize("kind", error_kinds().values(), ids=lambda kind: kind.__name__)
def test_an_error_of_each_kind_arrives_as_that_kind(kind: type) -> None:
    result = ProductResult(product="p", status="failed", error=kind("why"), notes=("n",), peak_rss_bytes=7)
    got: Ended = pickle.loads(pickle.dumps(Ended.of(3, result)))
    assert type(got.result.error) is kind
    assert str(got.result.error) == "why"
    assert got.number == 3
    assert got.result.to_json() == result.to_json()


def test_only_a_fault_of_the_program_has_a_traceback() -> None:
    errors = []
    for kind in (InternalError, CodestreamError):
        try:
            int("deep inside")
        except ValueError as cause:
            error = kind("told")
            error.__cause__ = cause
            errors.append(Failure.of(error).error())
    assert "'deep inside'" in str(errors[0].__cause__)
    assert "test_processes.py" in str(errors[0].__cause__)
    assert errors[1].__cause__ is None


def test_a_picture_shows_all_but_who_is_told_of_retries() -> None:
    progress = ProductProgress(product="p", state="streaming", tiles_total=9, tiles_done=3, note="again", started=5.0)
    other = ProductProgress(product="?", on_retry=print)
    Picture.of(1, progress).show(other)
    assert other == progress
    assert other.on_retry is print
    assert set(Picture.of(1, progress).values) == set(vars(progress)) - {"on_retry"}


async def test_messages_of_any_size_arrive_in_order_and_a_cut_one_is_the_end() -> None:
    loop, (read, write) = asyncio.get_running_loop(), os.pipe()
    reader = asyncio.StreamReader()
    with os.fdopen(read, "rb", 0) as incoming, os.fdopen(write, "wb", 0) as outgoing:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), incoming)
        writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, outgoing)
        pipe = Pipe(reader, writer)
        names = ["", "x" * 3_000_000, "broken-\udce4-name"]
        for number, where in enumerate(names):
            pipe.send(Job(number=number, where=where))
        assert pipe.backlog > 1_000_000
        assert [(await pipe.receive()).where for _ in names] == names
        writer.write(b"\x00\x00\x10\x00half")
        pipe.close()
        pipe.send(Job(number=9, where="nobody reads this"))
        assert await pipe.receive() is None
        transport.close()


async def test_what_a_store_allows_one_user_is_shared_out() -> None:
    async with Stores(S3Options(anonymous=True), processes=3) as stores:
        assert (
            repr((await stores.client(CDSE))._session.limits) == "<RequestLimits 0 of 1 in use, at most 666 a minute>"
        )
        assert repr((await stores.client())._session.limits) == "<RequestLimits 0 of 5 in use>"


def test_a_worker_refuses_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kappamask-stream"])
    for arguments, variables in ((["--processes", "3"], {}), ([], {"KAPPAMASK_PROCESSES": "3"})):
        ended = CliRunner().invoke(build_app(), ["worker", "--queue", "q", *arguments], env=variables)
        assert isinstance(ended.exception, UsageError)
        assert "--processes 3 (setting `processes`) is for `run`; a worker is one process: start 3" in str(
            ended.exception
        )
