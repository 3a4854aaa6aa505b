"""The page of a benchmark: floors and ratios beside what was measured, the verdict last, never wider than a terminal."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kappamask_stream.bench.types import BenchReport, Latency
from kappamask_stream.bench.verdict import verdict_of
from kappamask_stream.bench.wording import bits_per_s, counted, data, duration, number, percent
from kappamask_stream.cli.bench_page import WIDTH, page
from tests.unit.bench_reports import SETTINGS, client_level, end_to_end_level, point, report, server_level, with_gpu


def judged(made: BenchReport) -> BenchReport:
    return replace(made, verdict=verdict_of(made))


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return re.split(r" {2,}", line.removeprefix(name).strip())


def test_floors_stand_beside_results_with_their_ratio() -> None:
    client, real = page(report()).split("END TO END")
    assert cells(client, "CPU of a product") == ["80 s", "74 s", "1.08"]
    assert cells(client, "  without the process's start") == ["79.1 s", "1.07"]
    assert cells(client, "wall time") == ["12 s", "10 s", "1.20"]
    assert cells(client, "decoded") == ["53.2 Mpx/s", "63.8 Mpx/s", "0.83"]
    assert cells(real, "products an hour") == ["180", "389"]
    assert cells(real, "wall time of a product") == ["20 s", "9.25 s", "2.16"]
    assert cells(real, "  of it decoding") == ["9.25 s", "2.16"]
    assert cells(real, "CPU of a product, client") == ["80 s", "74 s", "1.08"]


def test_points_are_in_a_row_each_and_the_best_is_marked() -> None:
    rows = [line.split() for line in page(report()).splitlines() if re.match(r" +\d+ ", line)]
    assert [row[0] for row in rows] == ["1", "4", "32"]
    assert rows[2] == ["32", "400", "40.0", "60.0", "80.0", "7.86", "10.0", "1.00", "20.0", "0.50", "1.25", "*"]
    assert [row[-1] == "*" for row in rows] == [False, False, True]


def test_the_gpu_has_its_own_rows_and_energy_is_a_products() -> None:
    text = page(with_gpu(report()))
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+ +1 +97 %", line)]
    assert [row[0] for row in rows] == ["1", "4", "32"]
    assert rows[-1][-2:] == ["205", "J"]  # 2500 J for 4000 tiles, 328 of them a product
    assert cells(text, "GPU energy a product") == ["625 J"]
    assert "GPU" not in page(report()).replace("whether it has a GPU is unknown", "")


def test_gpus_that_were_not_used_are_told_apart() -> None:
    made = with_gpu(report())
    assert made.server is not None
    points = [replace(p, gpu=p.gpu and replace(p.gpu, gpus_named=8)) for p in made.server.points]
    text = page(replace(made, server=replace(made.server, points=tuple(points))))
    assert len(re.findall(r"^ +\d+ +1 of 8 +97 %", text, re.MULTILINE)) == 3


def test_a_sweep_that_broke_off_has_no_best_and_says_why() -> None:
    text = page(report(server=server_level(broken_off="8 in flight: it ended", failures=("8 in flight: it ended",))))
    assert "broke off: 8 in flight: it ended" in text
    assert text.count("it ended") == 1
    assert " *" not in text
    assert "if the client keeps up" not in text


def test_where_a_gpu_decodes_cpu_seconds_have_no_ratio() -> None:
    client = page(report(settings=replace(SETTINGS, decoder="gpu"), end_to_end=None))
    assert cells(client, "CPU of a product") == ["80 s", "74 s"]
    assert cells(client, "  without the process's start") == ["79.1 s"]
    assert "8 cores are enough for 360 products an hour" in client, (
        "the GPU's 10 s are longer than 79.1 CPU s on 8 cores"
    )


def test_the_start_of_the_process_is_no_part_of_each_product() -> None:
    assert "8 cores are enough for 364 products an hour" in page(report(end_to_end=None))


def test_unknown_memory_is_a_dash() -> None:
    made = report(client=client_level(peak_rss_bytes=None), end_to_end=end_to_end_level(peak_rss_bytes=None))
    assert cells(page(made), "peak memory") == ["-"]


@pytest.mark.parametrize("left_out", [("server",), ("client",), ("end_to_end",), ("server", "client", "end_to_end")])
def test_levels_that_were_not_measured_are_not_shown(left_out: tuple[str, ...]) -> None:
    made = judged(replace(report(), **dict.fromkeys(left_out)))
    text = page(made)
    titles = {"server": "SERVER alone", "client": "CLIENT alone", "end_to_end": "END TO END"}
    for name, title in titles.items():
        assert (title in text) == (name not in left_out)


def test_the_verdict_is_last_and_notes_come_before() -> None:
    made = judged(report(notes=("the first", "the second")))
    assert made.verdict is not None
    paragraphs = page(made).split("\n\n")
    assert paragraphs[-1].replace("\n", " ") == made.verdict.text
    assert paragraphs[-2] == "note: the first\nnote: the second"


def test_it_is_never_wider_than_a_terminal() -> None:
    wide = point(
        4096, 123_456.7, latency=Latency(p50_s=12.3456, p95_s=99.9, p99_s=123.4), queue_s=12.345, compute_s=9.9
    )
    tiny = point(1, 0.123, input_s=1e-7, output_s=1e-6, client_cpu_s=1e-5, untold="no statistics " * 20)
    made = report(
        product="S2A_" * 40,
        server=server_level(wide, tiny, failures=("word " * 60,)),
        client=client_level(stages={f"stage{i}": 1234.5 * i for i in range(20)}),
        end_to_end=end_to_end_level(client_cpu_s=1e6, wall_s=1e6),
        notes=("long " * 100,),
    )
    lines = page(judged(with_gpu(made))).splitlines()
    words = [line for line in lines if len(line) > WIDTH and " " in line]
    assert words == []
    assert "not told: no statistics" in "\n".join(lines)
    assert "failed: word word" in "\n".join(lines)


def test_columns_do_not_run_into_each_other() -> None:
    tiny = point(1, 163.0, queue_s=0.00225, input_s=0.0000992, compute_s=0.00147, output_s=0.000278)
    (row,) = [
        line.split() for line in page(report(server=server_level(tiny))).splitlines() if line.startswith("     1 ")
    ]
    assert row[6:10] == ["2.25", "0.10", "1.47", "0.28"]


def test_what_is_unknown_is_a_dash() -> None:
    untold = point(1, queue_s=None, input_s=None, compute_s=None, output_s=None, batch_sizes=None)
    text = page(report(server=server_level(untold), client=None))
    (row,) = [line.split() for line in text.splitlines() if line.startswith("     1 ")]
    assert row[5:10] == ["-"] * 5
    assert cells(text, "wall time of a product") == ["20 s", "-", "-"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (number(1234567), "1,234,567"),
        (number(12.345), "12.3"),
        (number(7), "7"),
        (percent(0.71), "71 %"),
        (percent(0.004), "0.4 %"),
        (percent(0), "0 %"),
        (data(4_000_000), "4 MB"),
        (data(2e18), "2,000 PB"),
        (bits_per_s(65_600_000), "525 Mbit/s"),
        (data(999_700_000), "1 GB"),
        (bits_per_s(124_970_000), "1 Gbit/s"),
        (bits_per_s(124_900_000), "999 Mbit/s"),
        (duration(0.9996), "1 s"),
        (percent(1e-6), "< 0.1 %"),
        (duration(0.0235), "23.5 ms"),
        (duration(75), "75 s"),
        (counted(1, "core"), "1 core"),
        (counted(2, "client process", "client processes"), "2 client processes"),
    ],
)
def test_numbers_as_people_read_them(said: str, text: str) -> None:
    assert said == text
