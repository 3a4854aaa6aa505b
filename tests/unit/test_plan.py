"""``kappamask-stream plan``: numbers for people and programs, and the page that shows them."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import cli
from kappamask_stream.errors import InputError, UsageError
from tests.unit.documents import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN = "benchmarks/results_2cores_kappamask_deeplab.json"
GPU = "benchmarks/gpu/results_h200.json"
SOURCES = "benchmarks/sources_2cores.json"
ALL = ("--bench", RUN, "--bench", GPU, "--bench", SOURCES)
PAGE = ROOT / "docs" / "capacity.md"
_SHOWN = re.compile(r"```sh\n(?P<command>kappamask-stream plan .*?)\n```\n+```text\n(?P<output>.*?)\n```", re.DOTALL)


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in the checkout, and return what it prints."""
    monkeypatch.chdir(ROOT)

    def run(*words: str) -> str:
        cli.build_app()(["plan", *words], prog_name="kappamask-stream", standalone_mode=False)
        return capsys.readouterr().out

    return run


def row(page: str, name: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"{name}  ")]
    return re.split(r"\s{2,}", line.strip())[1:]


def test_json_is_exact_and_complete(plan: Callable[..., str]) -> None:
    said = json.loads(plan(*ALL, "--json", "--price-core-hour", "0.05", "--price-gpu-hour", "4"))
    run, gpu = (json.loads((ROOT / name).read_bytes()) for name in (RUN, GPU))
    ours = run["ours"]
    assert (said["schema"], said["version"]) == ("kappamask-stream/plan", 1)
    assert said["load"] == {"products_per_day": 15_000, "peak_factor": 2, "utilisation": 0.8}
    peak = 15_000 / 86_400 * 2
    assert said["workers"]["busy_peak"] == pytest.approx(peak * ours["client_cpu_s"], rel=1e-15)
    assert said["workers"]["provided"] == 2 * said["workers"]["processes"] == 30
    assert said["workers"]["memory_bytes"] == 15 * ours["peak_rss_bytes"]
    rows = gpu["parts"]["through_triton"]["rows"]
    rate = max(row["tiles_per_s"] for row in rows if row["transport"] == "gRPC" and not row.get("note"))
    assert said["server"]["seconds_per_product"] == pytest.approx(ours["tiles_inferred"] / rate, rel=1e-15)
    assert said["server"]["provided"] == 1
    assert said["flows"]["bytes_read"]["per_day"] == 15_000 * ours["bytes_read"]
    assert said["cost"]["per_day"] == {"gpu_hour": 96, "core_hour": 36}
    assert said["cost"]["total_per_product"] == 132 / 15_000
    assert said["cost"]["without_price"] == ["gb_in", "gb_egress", "gb_month", "thousand_requests"]


def test_every_figure_says_where_it_comes_from(plan: Callable[..., str]) -> None:
    figures = json.loads(plan(*ALL, "--json"))["figures"]
    names = {"results_2cores_kappamask_deeplab.json", "results_h200.json", "sources_2cores.json", "default"}
    assert {said["source"].partition(":")[0] for said in figures.values()} == names
    assert figures["requests"] == {"value": 1182, "source": "sources_2cores.json: whole.s3.requests"}
    assert "server_cpu_s" not in figures  # a GPU serves


def test_the_page_shows_the_same_numbers(plan: Callable[..., str]) -> None:
    page = plan(*ALL)
    assert row(page, "GPUs") == ["0.243 s", "0.0421", "0.0842", "1", "4%, 8%", "142,455"]
    assert row(page, "cores of workers") == ["67.7 s", "11.8", "23.5", "30", "39%, 78%", "15,310"]
    assert row(page, "read from the store") == ["424 MB", "6.36 TB", "589 Mbit/s", "1.18 Gbit/s"]
    assert "what limits are the cores of workers, which decode JPEG 2000" in page
    assert "No cost: no price was given" in page
    assert row(plan(*ALL, "--price-core-hour", "0.05"), "core hours") == ["720", "0.05", "36.00", "0.0024"]
    assert "for want of a price: --price-gpu-hour, --price-gb-in" in plan(*ALL, "--price-core-hour", "0.05")


def test_without_a_gpu_inference_needs_cores(plan: Callable[..., str]) -> None:
    page = plan("--bench", RUN, "--bench", GPU, "--serve", "cpu", "--products-per-day", "500")
    assert "without a GPU" in page
    assert "GPUs" not in page
    assert "what limits are the cores of inference" in page
    assert "no file tells their memory" in page
    sweep = "benchmarks/server_sweep_2cores_deeplab.json"
    assert "2 cores, 1.08 GB each" in plan("--bench", RUN, "--bench", sweep, "--products-per-day", "500")


def test_a_worker_beside_the_gpu_has_shared_memory(plan: Callable[..., str]) -> None:
    over = {flag: json.loads(plan(*ALL, "--json", *flag)) for flag in ((), ("--shared-memory",))}
    rates = {flag: said["figures"]["gpu_tiles_per_s"]["value"] for flag, said in over.items()}
    assert rates[("--shared-memory",)] > rates[()]


def test_options_change_what_they_say(plan: Callable[..., str]) -> None:
    plain = json.loads(plan(*ALL, "--json"))
    full = json.loads(plan(*ALL, "--json", "--data-share", "1"))
    assert full["tiles_per_product"] == 529
    assert full["workers"]["seconds_per_product"] == pytest.approx(plain["workers"]["seconds_per_product"] * 529 / 328)
    large = json.loads(plan(*ALL, "--json", "--worker-cores", "16"))
    assert (large["workers"]["cores_each"], large["workers"]["processes"]) == (16, 2)
    calm = json.loads(plan(*ALL, "--json", "--peak-factor", "1", "--utilisation", "1"))
    assert calm["workers"]["provided"] == 12  # 11.8 cores are busy on average


def test_no_spare_time_is_said(plan: Callable[..., str], tmp_path: Path) -> None:
    # 1200 a day with 72 CPU seconds each are one core, exactly.
    path = tmp_path / "one_core.json"
    client, product = {"cpu_s": 72, "cores": 1}, {"tiles_inferred": 300}
    server = {"tiles_per_s": 1000}
    path.write_text(
        json.dumps(
            {"schema": "kappamask-stream/bench", "version": 1, "model": "mine", "client": client, "product": product,
             "server": server}
        )
    )  # fmt: skip
    words = ("--bench", str(path), "--products-per-day", "1200", "--peak-factor", "1", "--utilisation", "1")
    assert "never worked off" in plan(*words)
    assert json.loads(plan(*words, "--json"))["catch_up_hours"] is None


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (("--bench", GPU), InputError, "no file says how many tiles of a product"),
        (("--bench", SOURCES), InputError, "no file says how many tiles of a product"),
        (("--bench", RUN, "--serve", "gpu"), InputError, "no file says the tiles a second of a GPU"),
        (("--bench", "pyproject.toml"), InputError, "is no JSON"),
        (("--bench", "none.json"), InputError, "cannot read none.json"),
        (("--bench", RUN, "--bench", "benchmarks/results_2cores_csmask.json"), InputError, "different networks"),
        (("--bench", RUN, "--peak-factor", "0.5"), UsageError, "the peak factor: 0.5"),
        (("--bench", RUN, "--products-per-day", "nan"), UsageError, "nan was given"),
        (("--bench", RUN, "--products-per-day", "inf"), UsageError, "inf was given"),
        (("--bench", RUN, "--price-gb-in", "-1"), UsageError, "the price gb_in is -1"),
    ],
)
def test_what_cannot_be_planned_is_said(
    plan: Callable[..., str], words: tuple[str, ...], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        plan(*words)


def shown() -> list[tuple[str, str]]:
    return [(found["command"], found["output"]) for found in _SHOWN.finditer(PAGE.read_text())]


@pytest.mark.parametrize(("command", "output"), shown(), ids=lambda text: text[:60])
def test_the_documented_plans_come_out(plan: Callable[..., str], command: str, output: str) -> None:
    words = shlex.split(command.replace("\\\n", " "))[2:]
    assert plan(*words).rstrip() == output


def test_the_page_shows_a_machine_a_cluster_and_the_constellation() -> None:
    assert len(shown()) >= 3
    assert PAGE.read_text().count("kappamask-stream plan --") == len(shown()), "one has no output below it"


def test_the_page_describes_the_schema_of_files() -> None:
    from kappamask_stream.capacity.bench_file import BenchFile

    described: Any = BenchFile.model_json_schema(by_alias=True)
    text = PAGE.read_text()
    for part in described["$defs"].values():
        for name in part["properties"]:
            assert f"`{name}`" in text, name
