"""Planning machines: never too few, exact but for whole machines, and every figure says where it comes from."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.capacity import (
    BenchFigures,
    Figure,
    Load,
    Prices,
    cost_of,
    joined,
    plan_capacity,
    read_bench,
)
from kappamask_stream.capacity.bench_file import BenchFile
from kappamask_stream.capacity.defaults import with_defaults
from kappamask_stream.capacity.figures import Network
from kappamask_stream.errors import InputError, UsageError
from tests.unit.documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

BENCHMARKS = ROOT / "benchmarks"


def figure(value: float | Fraction) -> Figure:
    return Figure(value=Fraction(value), source="a test")


def figures(**rest: float | Fraction) -> BenchFigures:
    """A product of 300 tiles, 60 CPU seconds on 2 cores; 1000 tiles a second on a GPU, 240 CPU seconds without."""
    plain = {"tiles": 500, "tiles_inferred": 300, "client_cpu_s": 60, "client_cores": 2, "client_rss_bytes": 10**9,
             "server_cpu_s": 240, "server_cores": 8, "gpu_tiles_per_s": 1000, "bytes_read": 4 * 10**8,
             "requests": 1200, "bytes_written": 3 * 10**6, **rest}  # fmt: skip
    return BenchFigures(network=Network.of_model("kappamask_l2a_unet"), **{n: figure(v) for n, v in plain.items()})


def loads(**rest: Any) -> st.SearchStrategy[Load]:
    parts = {
        "products_per_day": st.fractions(Fraction(1, 1000), 10**6),
        "peak_factor": st.fractions(1, 50, max_denominator=100),
        "utilisation": st.fractions(Fraction(1, 100), 1, max_denominator=100),
        "serve": st.sampled_from(["gpu", "cpu", None]),
        "worker_cores": st.none() | st.integers(1, 64),
        **rest,
    }
    return st.builds(Load, **parts)


positive = st.fractions(Fraction(1, 1000), 10**5, max_denominator=1000)
measured = st.builds(
    figures, tiles_inferred=positive, client_cpu_s=positive, client_cores=st.integers(1, 64), server_cpu_s=positive,
    server_cores=st.integers(1, 64), gpu_tiles_per_s=positive,
)  # fmt: skip


@given(measured, loads())
def test_never_too_few(measured: BenchFigures, load: Load) -> None:
    plan = plan_capacity(measured, load)
    for resource in (plan.worker, plan.server):
        assert resource.peak <= resource.provided * load.utilisation
        assert resource.enough_for >= load.products_per_day
    assert plan.enough_for >= load.products_per_day


@given(measured, loads())
def test_one_process_less_would_be_too_few(measured: BenchFigures, load: Load) -> None:
    plan = plan_capacity(measured, load)
    for resource, step in ((plan.worker, plan.workers.cores), (plan.server, plan.servers.cores if plan.servers else 1)):
        assert resource.provided == step or resource.peak > (resource.provided - step) * load.utilisation


@given(measured, loads(), st.fractions(1, 1000))
def test_more_products_never_need_fewer_machines(measured: BenchFigures, load: Load, more: Fraction) -> None:
    less = plan_capacity(measured, load)
    plan = plan_capacity(measured, replace(load, products_per_day=load.products_per_day * more))
    assert plan.worker.provided >= less.worker.provided
    assert plan.server.provided >= less.server.provided
    assert plan.flows["bytes_read"].per_day == less.flows["bytes_read"].per_day * more


@given(measured, loads(), st.integers(1, 100))
def test_so_many_times_the_products_need_so_many_times_the_machines(
    measured: BenchFigures, load: Load, times: int
) -> None:
    one = plan_capacity(measured, load)
    many = plan_capacity(measured, replace(load, products_per_day=load.products_per_day * times))
    for resource, alone, step in (
        (many.worker, one.worker, one.workers.cores),
        (many.server, one.server, one.servers.cores if one.servers else 1),
    ):
        assert resource.peak == alone.peak * times  # linear
        # Rounding up once instead of so many times: at most as many, and more than with one process less in each.
        assert times * (alone.provided - step) < resource.provided <= times * alone.provided


@given(measured, loads(), st.fractions(1, 10))
def test_higher_peaks_and_more_room_never_need_fewer(measured: BenchFigures, load: Load, more: Fraction) -> None:
    plan = plan_capacity(measured, load)
    higher = plan_capacity(measured, replace(load, peak_factor=load.peak_factor * more))
    idler = plan_capacity(measured, replace(load, utilisation=max(load.utilisation / more, Fraction(1, 100))))
    for other in (higher, idler):
        assert other.worker.provided >= plan.worker.provided
        assert other.server.provided >= plan.server.provided


@given(measured, loads())
def test_what_piled_up_is_worked_off_in_the_time_that_is_told(measured: BenchFigures, load: Load) -> None:
    plan = plan_capacity(measured, load)
    most = min(plan.worker.most_per_s, plan.server.most_per_s)
    if plan.catch_up_hours is None:
        assert most == load.mean_per_s  # peak 1, busy at 100 %, and no machine rounded up
    else:
        done = most * plan.catch_up_hours * 3600
        assert done == load.products_per_day + load.mean_per_s * plan.catch_up_hours * 3600


def test_numbers_of_a_plan_that_one_can_follow() -> None:
    # 8640 a day are 0.1 a second; twice that at the peak; 60 CPU s each: 12 cores, 15 at 80 %, 16 in twos.
    plan = plan_capacity(figures(), Load(products_per_day=Fraction(8640)))
    assert (plan.worker.mean, plan.worker.peak, plan.worker.provided, plan.workers.count) == (6, 12, 16, 8)
    assert plan.workers.memory_bytes == 8 * 10**9
    # 0.3 s of a GPU each
    assert (plan.server.name, plan.server.peak, plan.server.provided) == ("gpu", Fraction("0.06"), 1)
    assert plan.server.enough_for == Fraction(86400) * Fraction("0.8") / (Fraction("0.3") * 2)
    assert plan.worker_cores_per_server == 200
    assert plan.worker_seconds == 30
    assert plan.flows["bytes_read"].peak_per_s == Fraction("0.2") * 4 * 10**8
    assert plan.flows["bytes_to_server"].per_product == 300 * 3_961_060
    # 16 cores do 0.2667 a second, so 0.1667 are spare for the 8640.
    assert plan.catch_up_hours == Fraction("14.4")


def test_without_a_gpu_the_server_has_cores_and_memory() -> None:
    plan = plan_capacity(figures(server_rss_bytes=5 * 10**8), Load(products_per_day=Fraction(8640), serve="cpu"))
    assert (plan.server.name, plan.server.peak, plan.server.provided) == ("server_cores", 48, 64)
    assert plan.servers is not None
    assert (plan.servers.count, plan.servers.cores, plan.servers.memory_bytes) == (8, 8, 4 * 10**9)
    assert {"gpu_tiles_per_s"}.isdisjoint(plan.figures.figures())


def test_fuller_products_are_more_work() -> None:
    plan = plan_capacity(figures(), Load(products_per_day=Fraction(8640), data_share=Fraction(1)))
    assert plan.tiles == 500
    assert plan.worker.seconds == 100
    assert plan.flows["bytes_read"].per_product == Fraction(4 * 10**8 * 5, 3)
    assert plan.flows["bytes_written"].per_product == 3 * 10**6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"products_per_day": Fraction(0)}, "products a day: 0 was given"),
        ({"products_per_day": Fraction(10**10)}, "products a day"),
        ({"peak_factor": Fraction(1, 2)}, "the peak factor: 0.5 was given, 1 to 1000"),
        ({"utilisation": Fraction(0)}, "the utilisation"),
        ({"utilisation": Fraction(3, 2)}, "the utilisation: 1.5 was given"),
        ({"data_share": Fraction(2)}, "the share of tiles with data"),
        ({"worker_cores": 0}, "a worker's cores"),
    ],
)
def test_impossible_loads_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Load(**{"products_per_day": Fraction(1), **wrong})


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        (("tiles_inferred",), "how many tiles of a product go to the server"),
        (("client_cpu_s",), "CPU seconds of the client"),
        (("client_cores",), "cores that the client had"),
        (("gpu_tiles_per_s", "server_cpu_s"), "tiles a second of a GPU, or CPU seconds"),
        (("gpu_tiles_per_s", "server_cores"), "cores that the server had"),
    ],
)
def test_figures_that_lack_something_are_refused(lacks: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=f"no file says .*{says}.*--bench"):
        plan_capacity(replace(figures(), **dict.fromkeys(lacks)), Load(products_per_day=Fraction(1)))


def test_costs_are_of_all_machines_around_the_clock() -> None:
    plan = plan_capacity(figures(), Load(products_per_day=Fraction(8640)))
    prices = Prices(gpu_hour=Fraction(4), core_hour=Fraction("0.05"), gb_egress=Fraction("0.1"), gb_month=Fraction(1))
    cost = cost_of(plan, prices, keep_days=365)
    lines = {line.name: line.cost_per_day for line in cost.lines}
    assert lines["gpu_hour"] == 96
    assert lines["core_hour"] == 16 * 24 * Fraction("0.05")
    assert lines["gb_egress"] == Fraction(8640 * 3, 1000) * Fraction("0.1")
    assert lines["gb_month"] == Fraction(8640 * 3, 1000) * 365 / (Fraction("365.25") / 12)
    assert cost.without_price == ("gb_in", "thousand_requests")
    assert cost.per_day == sum(lines.values())
    assert cost.per_product == cost.per_day / 8640


def test_without_prices_there_is_no_cost() -> None:
    cost = cost_of(plan_capacity(figures(), Load(products_per_day=Fraction(1))), Prices(), keep_days=1)
    assert cost.lines == ()
    assert set(cost.without_price) == {item.name for item in fields(Prices)}


@pytest.mark.parametrize("price", [Fraction(-1), Fraction(10**10)])
def test_impossible_prices_are_refused(price: Fraction) -> None:
    with pytest.raises(UsageError, match="the price gb_in is"):
        Prices(gb_in=price)


def test_the_first_file_with_a_figure_counts() -> None:
    one = BenchFigures(network=Network(family="kappamask", level="l2a"), tiles=figure(1))
    two = BenchFigures(network=Network(family="kappamask", architecture="unet"), tiles=figure(2), requests=figure(3))
    both = joined([one, two])
    assert both == BenchFigures(
        network=Network(family="kappamask", level="l2a", architecture="unet"), tiles=figure(1), requests=figure(3)
    )


@pytest.mark.parametrize("other", ["csmask_l2a", "kappamask_l1c_deeplabv3plus", "kappamask_l2a_unet_fp16", "mine"])
def test_figures_of_different_networks_are_not_mixed(other: str) -> None:
    one, two = (BenchFigures(network=Network.of_model(m)) for m in ("kappamask_l2a_deeplabv3plus", other))
    with pytest.raises(InputError, match="different networks, kappamask l2a deeplabv3plus and"):
        joined([one, two])


def test_sizes_of_tiles_are_those_of_the_contracts(
    kappamask_contract: ModelContract, csmask_contract: ModelContract, l1c_csmask_contract: ModelContract
) -> None:
    for contract, level in ((kappamask_contract, "l2a"), (csmask_contract, "l2a"), (l1c_csmask_contract, "l1c")):
        family = "kappamask" if contract is kappamask_contract else "csmask"
        found = with_defaults(BenchFigures(network=Network(family=family, level=level)))
        assert found.request_bytes is not None
        assert found.request_bytes.value == sum(2 * len(g.bands) * g.tile**2 for g in contract.inputs)
        assert found.answer_bytes is not None
        assert found.answer_bytes.value == contract.tile_size**2
    assert with_defaults(BenchFigures(network=Network.of_model("mine_l2a_net"))).request_bytes is None


# ---------------------------------------------------------------- files


def raw(name: str) -> Any:
    return json.loads((BENCHMARKS / name).read_bytes())


def test_a_whole_run_is_read_as_it_is_written() -> None:
    name = "results_2cores_kappamask_deeplab.json"
    read, ours = read_bench(BENCHMARKS / name), raw(name)["ours"]
    assert read.network == Network(family="kappamask", level="l2a", architecture="deeplabv3plus")
    assert read.client_cpu_s == Figure(value=Fraction(repr(ours["client_cpu_s"])), source=f"{name}: ours.client_cpu_s")
    assert {n: float(f.value) for n, f in read.figures().items()} == {
        "tiles": ours["tiles"], "tiles_inferred": ours["tiles_inferred"], "client_cpu_s": ours["client_cpu_s"],
        "client_cores": 2, "client_rss_bytes": ours["peak_rss_bytes"], "server_cpu_s": ours["server_cpu_s"],
        "server_cores": 2, "bytes_read": ours["bytes_read"],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["results_2cores_csmask.json", "results_2cores_csmask_second.json"])
def test_runs_of_csmask_are_read(name: str) -> None:
    assert str(read_bench(BENCHMARKS / name).network) == "csmask l2a"


def test_reading_from_s3_tells_requests() -> None:
    read, s3 = read_bench(BENCHMARKS / "sources_2cores.json"), raw("sources_2cores.json")["whole"]["s3"]
    found = {n: float(f.value) for n, f in read.figures().items()}
    assert found == {
        "client_rss_bytes": s3["peak_rss_bytes"],
        "bytes_read": s3["bytes_read"],
        "requests": s3["requests"],
    }


@pytest.mark.parametrize("transport", ["gRPC", "shared memory"])
def test_of_a_gpu_the_fastest_arrangement_counts(transport: str) -> None:
    read = read_bench(BENCHMARKS / "gpu" / "results_h200.json", shared_memory=transport == "shared memory")
    rows = raw("gpu/results_h200.json")["parts"]["through_triton"]["rows"]
    best = max(row["tiles_per_s"] for row in rows if row["transport"] == transport and not row.get("note"))
    assert read.gpu == "NVIDIA H200"
    assert read.gpu_tiles_per_s is not None
    assert float(read.gpu_tiles_per_s.value) == best
    assert transport in read.gpu_tiles_per_s.source


@pytest.mark.parametrize("name", ["server_sweep_2cores_deeplab.json", "server_sweep_2cores_deeplab_quiet.json"])
def test_memory_of_a_server_is_that_of_its_fastest_arrangement(name: str) -> None:
    fastest = max(raw(name)["sweep"], key=lambda row: row["tiles_per_s"])
    read = read_bench(BENCHMARKS / name)
    assert {n: float(f.value) for n, f in read.figures().items()} == {
        "server_rss_bytes": fastest["server_mb"] * 1024 * 1024
    }


def of_schema(**rest: Any) -> dict[str, Any]:
    return {
        "schema": "kappamask-stream/bench",
        "version": 1,
        "model": "kappamask_l2a_unet_fp16",
        "machine": {"cpu": "a CPU", "gpu": "a GPU"},
        "product": {"name": "S2A_…", "tiles": 529, "tiles_inferred": 328},
        "client": {"cores": 4, "cpu_s": 66.5, "peak_rss_bytes": 7, "bytes_read": 8, "requests": 9, "bytes_written": 10},
        "server": {"tiles_per_s": 1000.5, "cores": 11, "cpu_s": 12, "rss_bytes": 13, "request_bytes": 14,
                   "answer_bytes": 15},
        **rest,
    }  # fmt: skip


def written(folder: Path, content: object) -> Path:
    path = folder / "bench.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_figure_of_the_schema_is_read(tmp_path: Path) -> None:
    read = read_bench(written(tmp_path, of_schema()))
    known = {item.name for item in fields(BenchFigures)} - {"network", "gpu"}
    assert set(read.figures()) == known
    assert (str(read.network), read.gpu) == ("kappamask l2a unet", "a GPU")
    assert read.gpu_tiles_per_s == Figure(value=Fraction("1000.5"), source="bench.json: server.tiles_per_s")
    assert float(read.client_rss_bytes.value if read.client_rss_bytes else 0) == 7


def test_a_writer_of_the_schema_is_understood(tmp_path: Path) -> None:
    file = BenchFile.model_validate(of_schema())
    text = file.model_dump_json(by_alias=True)
    assert read_bench(written(tmp_path, text)) == read_bench(written(tmp_path, of_schema()))


def test_what_a_file_leaves_out_is_not_known(tmp_path: Path) -> None:
    few = {"schema": "kappamask-stream/bench", "version": 1, "model": "csmask_l2a", "server": {"tiles_per_s": None}}
    assert read_bench(written(tmp_path, few)).figures() == {}


def test_fields_of_later_writers_are_passed_over(tmp_path: Path) -> None:
    assert read_bench(written(tmp_path, of_schema(colour="red"))) == read_bench(written(tmp_path, of_schema()))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "holds no JSON object"),
        ({}, "holds no measurements that are known here"),
        ({"sweep": []}, "holds no measurements"),
        (of_schema(schema="other"), "has schema other, version 1; kappamask-stream/bench, version 1 is read"),
        (of_schema(version=2), "version 2"),
        (of_schema(model=""), "model: "),
        (of_schema(model=None), "model: "),
        (of_schema(product={"tiles_inferred": "328"}), "product.tiles_inferred: .*328"),
        (of_schema(product={"tiles_inferred": 0}), "product.tiles_inferred: .*greater than 0"),
        (of_schema(client={"cpu_s": -1}), "client.cpu_s"),
        (of_schema(client=[]), "client"),
        (json.dumps(of_schema()).replace("66.5", "NaN"), "client.cpu_s"),
        (json.dumps(of_schema()).replace("66.5", "Infinity"), "client.cpu_s"),
        (json.dumps(of_schema()).replace("66.5", "1e300"), "client.cpu_s is 1e.300, a number from 1e-09 to 1e.18"),
        ({"ours": {"model": "m"}}, "damaged: KeyError 'cores'"),
        ({"ours": [], "cores": 2}, "damaged"),
        ({"ours": {"model": "m", "tiles": True}, "cores": 2}, "ours.tiles is True, a number"),
        ({"ours": {"model": 7}, "cores": 2}, "damaged"),
        ({"whole": {}}, "damaged"),
        ({"parts": {"through_triton": []}}, "damaged"),
        ({"parts": []}, "holds no measurements"),
        ({"parts": {"through_triton": {"rows": []}}}, "no row of through_triton over gRPC"),
        ({"sweep": [], "model": "m"}, "damaged"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused_in_words(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_bench(written(tmp_path, content))


def test_files_that_are_not_there_or_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_bench(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"cannot read .*Is a directory"):
        read_bench(tmp_path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(InputError, match="more than 16777216 bytes"):
        read_bench(large)
