"""``kappamask-stream bench``: what is refused before anything is measured, what is printed and written, what is kept."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.bench import running, synthetic
from kappamask_stream.bench.document import from_document
from kappamask_stream.bench.types import LEVELS
from kappamask_stream.cli.bench import _concurrency, _levels
from kappamask_stream.cli.bench_running import BenchProgress
from kappamask_stream.errors import OutputError, ServerFaultError, ServerUnavailableError
from kappamask_stream.server.environment import cache_home
from kappamask_stream.synth import write_product
from tests.stream.fakes import FakeInference
from tests.stream.scene import coarse_l2a
from tests.unit.bench_reports import client_level, end_to_end_level, point, server_level
from tests.unit.test_cli import Ended, Pool, command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.bench.types import ServerLevel
    from kappamask_stream.contract import ModelContract

__all__ = ["coarse_l2a", "command"]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("product"), size=240, seed=1).product


class MeasuredPool(Pool):
    """A fake server that also tells where it is, and its version."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.metrics_urls = ("http://127.0.0.1:8002/metrics",)
        self.memory_key = "a key"

    def connected(self, level: str) -> Any:
        async def metadata(**_: object) -> Any:
            return SimpleNamespace(name="triton", version="9.9")

        one = SimpleNamespace(get_server_metadata=metadata)
        return SimpleNamespace(
            contract=self.client.contract, endpoint="grpc://127.0.0.1:1", connection=SimpleNamespace(one=one)
        )


@pytest.fixture
def levels(coarse_l2a: ModelContract, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have levels return, or raise, what the test puts here; `asked` holds what they were asked for, in order."""
    result: dict[str, Any] = {"server": server_level(), "client": client_level(tiles=4, tiles_inferred=4)}
    result["end_to_end"] = end_to_end_level(tiles_inferred=16)
    result["asked"] = []
    monkeypatch.setattr(Pool, "client", FakeInference(coarse_l2a), raising=False)
    monkeypatch.setattr(running, "ModelPool", MeasuredPool)
    monkeypatch.setattr("kappamask_stream.cli.bench_running.require_servable", lambda *_: None)

    def level(name: str) -> Callable[..., Any]:
        async def measure(*given: Any, on_progress: Callable[[str], None], **options: Any) -> Any:
            on_progress("measuring [it]")
            result["asked"].append((name, given, options))
            await asyncio.sleep(0)
            if isinstance(result[name], BaseException):
                raise result[name]
            return result[name]

        return measure

    for name in ("server", "client", "end_to_end"):
        monkeypatch.setattr(running, f"measure_{name}", level(name))
    return result


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--levels", "gpu"], "--levels 'gpu': give one or more of server, client, end-to-end, divided by commas"),
        (["--levels", ","], "--levels ',': give one or more of"),
        (["--concurrency", "0"], "--concurrency '0': give numbers of requests in flight, 1 to 4096, divided by commas"),
        (["--concurrency", "1,,2"], "--concurrency '1,,2'"),
        (["--concurrency", "²"], "--concurrency '²'"),
        (["--concurrency", "99999"], "--concurrency '99999'"),
        (["--duration", "0"], "--duration 0: give more than 0 and at most 86400 seconds"),
        (["--duration", "nan"], "--duration nan: give more than 0"),
        (["--rounds", "0"], "--rounds"),
        (["--radiometry", "km_predict"], "--radiometry km_predict is KappaMask's"),
        (["--json", ""], "--json '': give the name of a file, or - for stdout"),
        (["--plot", "curves.jpg"], "--plot curves.jpg: the name must end in .png, .svg or .pdf"),
        (["--plot", "curves"], "--plot curves: the name must end in"),
        (["--plot", "a.svg", "--json", "a.svg"], "--json and --plot both name a.svg: give them files of their own"),
        (["--weights", "/no/such"], "--weights"),
        (["--size", "601"], "size 601 is not a multiple of 6"),
        (["--processes", "2"], "No such option: --processes"),
        (
            ["--json", "a.json", "compare", "a", "b"],
            "--json is an option of measuring, which `bench compare` does not do",
        ),
        (["measure"], "No such command 'measure'"),
    ],
)
def test_a_wrong_command_line_is_one_line_before_anything_is_measured(
    options: list[str], says: str, command: Callable[..., Ended], levels: dict[str, Any]
) -> None:
    model = [] if "compare" in options or "measure" in options else ["--model", "csmask"]
    ended = command("bench", *model, *options)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert levels["asked"] == []


@pytest.mark.parametrize(
    ("is_there", "says"),
    [
        (False, "--plot needs matplotlib, which is not installed: pip install 'kappamask-stream[plot]'"),
        (
            True,
            "--plot needs matplotlib, which cannot be imported (it is broken): pip install 'kappamask-stream[plot]'",
        ),
    ],
)
def test_a_picture_without_a_matplotlib_that_works_is_refused_before_anything_is_measured(
    says: str, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    *, is_there: bool,
) -> None:  # fmt: skip
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("kappamask_stream.bench.plot", "kappamask_stream.bench.plot_panels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if is_there:
        (tmp_path / "matplotlib").mkdir()
        (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('it is\\nbroken')")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = command("bench", "--model", "csmask", "--plot", tmp_path / "a.png")
    assert (ended.code, ended.err) == (2, f"error: {says}\n")
    assert levels["asked"] == []


def test_what_was_measured_is_kept_where_the_picture_fails(
    product: Path,
    command: Callable[..., Ended],
    levels: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> bytes:
        raise ValueError("it cannot be drawn")

    monkeypatch.setattr("kappamask_stream.bench.plot.plotted", broken)
    with pytest.raises(ValueError, match="it cannot be drawn"):
        command(
            "bench", "--product", product, "--model", "test_l2a", "--json", tmp_path / "a.json",
            "--plot", tmp_path / "a.png",
        )  # fmt: skip
    assert from_document(json.loads((tmp_path / "a.json").read_bytes()), "a.json").server == levels["server"]


@pytest.mark.parametrize("flag", ["--json", "--plot", "--perf-analyzer"])
def test_what_is_no_regular_file_is_not_replaced_by_one(
    flag: str, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    pipe, link = tmp_path / "pipe.svg", tmp_path / "link.svg"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        ended = command("bench", "--model", "csmask", flag, path)
        assert ended.code == 5
        assert ended.err == (
            f"error: cannot write {path}: it is no regular file, and would be replaced by one: give another name with "
            f"{flag}\n"
        )
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert levels["asked"] == []


def test_a_link_stays_and_what_it_leads_to_is_written(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    there, gone = tmp_path / "elsewhere" / "a.json", tmp_path / "elsewhere" / "b.png"
    there.write_text("before")
    links = tmp_path / "a.json", tmp_path / "a.png"
    for link, target in zip(links, (there, gone), strict=True):
        link.symlink_to(target)
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", links[0], "--plot", links[1])
    assert ended.code == 0, ended.err
    assert all(link.is_symlink() for link in links)
    assert json.loads(there.read_bytes())["model"] == "test_l2a"
    assert gone.read_bytes().startswith(b"\x89PNG")
    assert levels["asked"]


def test_two_links_to_one_file_and_links_in_a_circle_are_refused(
    command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    link, circle = tmp_path / "b.svg", tmp_path / "c.svg"
    link.symlink_to(tmp_path / "a.svg")
    circle.symlink_to(circle)
    ended = command("bench", "--model", "csmask", "--json", tmp_path / "a.svg", "--plot", link)
    assert "--json and --plot both name" in ended.err
    ended = command("bench", "--model", "csmask", "--json", circle)
    assert (ended.code, ended.err.count("\n")) == (5, 1)
    assert "its links lead nowhere" in ended.err
    assert levels["asked"] == []


def test_the_time_and_commit_are_those_of_the_beginning(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "kappamask_stream.bench.environment"
    monkeypatch.setattr(f"{module}.commit", lambda: "changed meanwhile" if levels["asked"] else "as measured")
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", "-")
    assert json.loads(ended.out)["environment"]["commit"] == "as measured"
    assert levels["asked"]


def test_missing_weights_are_those_of_the_products_level(command: Callable[..., Ended]) -> None:
    for options in (
        ("--level", "L1C"),
        ("--product", "S2A_MSIL1C_20230404T094031_N0509_R036_T35VLF_20230404T101544.SAFE"),
    ):
        err = command("bench", *options).err
        assert "kappamask_l1c_deeplabv3plus needs KappaMask's weights" in err
        assert "l2a" not in err.lower()


@pytest.mark.parametrize("flag", ["--json", "--plot", "--perf-analyzer"])
@pytest.mark.parametrize(
    ("name", "says"), [("no/such/folder/a.svg", "its folder is gone"), ("folder.svg", "a folder has")]
)
def test_a_file_that_cannot_be_written_is_found_before_anything_is_measured(
    flag: str, name: str, says: str, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "folder.svg").mkdir()
    ended = command("bench", "--model", "csmask", flag, tmp_path / name)
    assert ended.code == 5
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert levels["asked"] == []


def test_what_cannot_be_served_is_found_before_a_product_is_made(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "write_product", lambda *_, **__: pytest.fail("a product was made"))
    assert "needs KappaMask's weights" in command("bench").err
    ended = command("bench", "--model", "csmask")
    assert ended.code == 4
    assert "the local server's environment is not installed" in ended.err


def test_levels_are_measured_in_their_order_with_what_was_asked_for(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any]
) -> None:
    ended = command(
        "bench", "--product", product, "--levels", "end-to-end, server,client", "--concurrency", "8,1,8",
        "--duration", "0.5", "--rounds", "3", "--model", "test_l2a", "--products-at-once", "3",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (server, client, real) = levels["asked"]
    assert [server[0], client[0], real[0]] == ["server", "client", "end_to_end"]
    place, tiles = server[1]
    assert (place.endpoint, place.model) == ("grpc://127.0.0.1:1", "test_l2a")
    assert (place.metrics_urls, place.memory_key) == (("http://127.0.0.1:8002/metrics",), "a key")
    assert 1 <= tiles.count <= 4
    assert not tiles.folder.exists()
    assert (server[2]["concurrency"], server[2]["duration_s"]) == ((1, 8), 0.5)
    assert client[1][0] == str(product)
    assert client[2]["rounds"] == 3
    assert real[1][0] == [str(product)]
    assert (real[2]["least"], real[2]["duration_s"]) == (6, 0.5)


def test_the_page_is_on_stdout_and_progress_on_stderr(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any]
) -> None:
    ended = command("bench", "--product", product, "--model", "test_l2a")
    assert ended.code == 0
    assert ended.out.startswith("test_l2a\n")
    assert "triton 9.9" in ended.out
    assert ended.out.rstrip().splitlines()[-1].endswith(".")
    assert "No limit found" in ended.out or "-bound" in ended.out
    assert ended.err.splitlines()[0].startswith("measuring takes about ")
    assert "client: measuring [it]" in ended.err


def test_files_are_written_whole_and_read_back(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    json_file, plot = tmp_path / "a.json", tmp_path / "A.SVG"
    json_file.write_text("before")
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", json_file, "--plot", plot)
    assert ended.code == 0
    made = from_document(json.loads(json_file.read_bytes()), "a.json")
    assert (made.server, made.client, made.end_to_end) == (levels["server"], levels["client"], levels["end_to_end"])
    assert (made.product_tiles, made.product_tiles_inferred, made.local_server) == (4, 4, True)
    assert made.verdict is not None
    assert plot.read_bytes().startswith(b"<?xml")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"a.json", "A.SVG"}


def test_json_on_stdout_is_all_there_is_on_stdout(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any]
) -> None:
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", "-")
    assert from_document(json.loads(ended.out), "-").model == "test_l2a"


def test_a_level_that_fails_is_told_and_the_others_are_kept(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    levels["client"] = OutputError("cannot write there")
    levels["end_to_end"] = ServerFaultError("the server broke")
    path = tmp_path / "a.json"
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", path)
    assert ended.code == 5, "that of the first failure"
    assert ended.err.splitlines()[-1] == "error: cannot write there"
    assert "note: client was not measured: cannot write there" in ended.out
    assert "note: end-to-end was not measured: the server broke" in ended.out
    made = from_document(json.loads(path.read_bytes()), "a.json")
    assert made.server == levels["server"]
    assert made.client is None
    assert made.end_to_end is None


def test_where_all_fail_nothing_is_printed_or_written(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    levels |= dict.fromkeys(("server", "client", "end_to_end"), ServerUnavailableError("nobody answers"))
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", tmp_path / "a.json")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.splitlines()[-1] == "error: nobody answers"
    assert not (tmp_path / "a.json").exists()


def test_a_fault_of_the_program_is_not_hidden(
    product: Path, command: Callable[..., Ended], levels: dict[str, Any], tmp_path: Path
) -> None:
    levels["client"] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        command("bench", "--product", product, "--model", "test_l2a", "--json", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(("load", "is_told"), [(50.0, True), (0.1, False)])
def test_notes_tell_what_not_to_conclude(
    load: float, product: Path, command: Callable[..., Ended], levels: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch, *, is_told: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    out = " ".join(command("bench", "--product", product, "--model", "test_l2a").out.split())
    assert "measured with a product of 4 tiles, a full one has 3,364" in out
    assert ("the machine was not quiet: 50 processes wanted its" in out) == is_told


@pytest.mark.parametrize(
    ("level", "says"),
    [
        (
            server_level(broken_off="64 in flight: it ended"),
            "note: what the server can do is unknown, its level broke off after 32 in flight: nothing is compared",
        ),
        (
            server_level(point(1, 10.0), point(2, 20.0)),
            "note: the server had at most 2 in flight, where its rate still grew and products end to end may have 32: what",
        ),
        (server_level(), None),
    ],
    ids=["broken off", "too few", "enough"],
)
def test_a_sweep_that_does_not_tell_what_the_server_can_do_has_a_note(
    level: ServerLevel, says: str | None, product: Path, command: Callable[..., Ended], levels: dict[str, Any]
) -> None:
    levels["server"] = level
    out = " ".join(command("bench", "--product", product, "--model", "test_l2a").out.split())
    if says is None:
        assert "broke off" not in out
        assert "still grew" not in out
    else:
        assert says in out


def test_the_synthetic_product_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    first = synthetic.synthetic_product("L2A", 96, lambda doing, *_: said.append(doing))
    assert first.parent == cache_home() / "bench" / "L2A_96"
    assert said
    said.clear()
    assert synthetic.synthetic_product("L2A", 96, lambda doing, *_: said.append(doing)) == first
    assert said == []


def test_a_product_that_another_benchmark_has_made_meanwhile_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def another_was_quicker(folder: Path, **_: object) -> None:
        (folder / "S2.SAFE").mkdir(parents=True)
        raise OutputError("it exists")

    monkeypatch.setattr(synthetic, "write_product", another_was_quicker)
    assert synthetic.synthetic_product("L1C", 96).name == "S2.SAFE"


def test_words_of_levels_and_numbers_are_put_in_order() -> None:
    assert _levels("end-to-end,server") == ("server", "end-to-end")
    assert _levels(",".join(LEVELS)) == LEVELS
    assert _concurrency("16, 1,4,4") == (1, 4, 16)
    assert _concurrency(None) is None


def test_progress_repeats_itself_only_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with BenchProgress() as progress:
        for tiles in range(30):
            progress.show(f"masking: {tiles} of 30 tiles")
        progress.show("4 in flight: warming up")
        progress.show("4 in flight: measuring")
    assert capsys.readouterr().err.splitlines() == [
        "masking: 0 of 30 tiles", "4 in flight: warming up", "4 in flight: measuring",
    ]  # fmt: skip


def test_progress_is_one_live_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with BenchProgress() as progress:
        progress.show("reading [red]files[/red]")
        assert progress._status is not None
        assert str(progress._status.status) == "reading [red]files[/red]"
    capsys.readouterr()


def test_help_teaches_measuring_and_comparing(command: Callable[..., Ended]) -> None:
    ended = command("bench", "--help")
    assert (ended.code, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    assert "Example: kappamask-stream bench --model csmask" in text
    assert "compare Compare two benchmarks" in text
    for group in ("What is measured", "Server and limits", "What is said", "Network", "Commands"):
        assert f"\n{group}:\n" in ended.out
    assert "x>=" not in text
    assert "--concurrency N[,…]" in text
    assert max(map(len, ended.out.splitlines())) <= 100
