"""The command line: help that teaches, usage errors in one line, results on stdout and everything else on stderr."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pytest
import rasterio
import typer

from kappamask_stream import cli
from kappamask_stream.cli.event_loop import run_command
from kappamask_stream.errors import InputError, OutputError, ServerUnavailableError, UsageError
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.resources import ServedModel
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from kappamask_stream.weights import WeightsCache
from tests.stream.fakes import FakeInference
from tests.stream.scene import coarse_l2a

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

__all__ = ["coarse_l2a"]

#: What the issue promises for each product, and what says why a value is null or a product failed.
PROMISED = {
    "product", "status", "output", "seconds", "tiles", "tiles_inferred", "tiles_empty", "codestream_tiles_decoded",
    "codestream_tiles_empty", "codestream_tiles_decoded_twice", "bytes_read", "tail_seconds", "peak_rss_bytes",
    "classes", "stages", "model", "batch_sizes",
}  # fmt: skip
EXPLAINING = {
    "files",
    "notes",
    "requests",
    "batch_sizes_reason",
    "canary",
    "error",
    "exit_code",
    "quicklook",
    "retries",
    "fingerprint",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Ended]]:
    """Run the command line in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name in [name for name in os.environ if name.startswith("KAPPAMASK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object, stdout: io.TextIOBase | None = None) -> Ended:
        monkeypatch.setattr(sys, "argv", ["kappamask-stream", *map(str, arguments)])
        if stdout is not None:
            monkeypatch.setattr(sys, "stdout", stdout)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(ended.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Pool:
    """Stands for the models of a run: a fake server behind each level."""

    client: FakeInference

    def __init__(self, choice: ModelChoice, settings: Settings, **_: object) -> None:
        self._model = ServedModel.of(self.client, settings.max_in_flight)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def get(self, level: str) -> ServedModel:
        return self._model


@pytest.fixture
def server(coarse_l2a: ModelContract, monkeypatch: pytest.MonkeyPatch) -> FakeInference:
    """Have `run` use a fake server with the 60 m model."""
    monkeypatch.setattr(Pool, "client", FakeInference(coarse_l2a), raising=False)
    monkeypatch.setattr("kappamask_stream.models.ModelPool", Pool)
    return Pool.client


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=240, seed=seed).product for seed in (1, 2)]


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def walk(group: Any, path: tuple[str, ...]) -> None:
        for name, sub in group.commands.items():
            walk(sub, (*path, name)) if hasattr(sub, "commands") else found.append((*path, name))

    walk(typer.main.get_command(cli.build_app()), ())
    return found


def test_these_commands_there_are() -> None:
    assert {path[0] for path in commands()} == {
        "run", "info", "km-predict", "evaluate", "worker", "submit", "queue", "plan", "synth", "demo", "server", "models",
        "config", "bench",
    }  # fmt: skip


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_teaches(command: Callable[..., Ended], path: tuple[str, ...]) -> None:
    shown = command(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    text = " ".join(shown.out.split())
    assert f"Example: kappamask-stream {' '.join(path)}" in text
    assert "Exit codes: 0 all good; 2 usage; 3 input" in text
    assert "129, 130 and 143 on SIGHUP, SIGINT and SIGTERM" in text
    # Every option and argument explains itself: its line goes on with words.
    listed = re.split(r"^(?:Arguments|Options):\n", shown.out, flags=re.MULTILINE)[1:]
    names = re.findall(r"^  (?:-\w, )?(--?[\w-]+|[A-Za-z]+)", "\n".join(listed), flags=re.MULTILINE)
    assert "--help" in names
    click_command = typer.main.get_command(cli.build_app())
    for name in path:
        click_command = click_command.commands[name]  # type: ignore[attr-defined]
    silent = [p.name for p in click_command.params if not getattr(p, "help", None)]
    assert silent == []


@pytest.mark.parametrize("path", [(), ("server",), ("models",), ("config",), ("queue",), ("bench",)], ids=" ".join)
def test_help_of_a_group_shows_an_example(command: Callable[..., Ended], path: tuple[str, ...]) -> None:
    text = " ".join(command(*path, "--help").out.split())
    assert f"Example: kappamask-stream {' '.join(path)}".rstrip() in text
    assert "Exit codes: 0 all good" in text


def test_examples_are_shown_line_by_line_as_they_are_typed(command: Callable[..., Ended]) -> None:
    examples = [
        line.strip().removeprefix("Example: ")
        for line in command("run", "--help").out.splitlines()
        if "kappamask-stream run" in line and "Usage" not in line
    ]
    assert len(examples) == 5
    assert all(re.match(r"(find .* \| )?kappamask-stream run \S", example) for example in examples)


def test_options_are_grouped(command: Callable[..., Ended]) -> None:
    shown = command("run", "--help").out
    groups = re.findall(r"^(\w.*):$", shown, flags=re.MULTILINE)
    assert groups == [
        "Arguments", "Which products, which part of them", "Network", "Mask", "What is written, and where",
        "Server and limits", "Object stores (s3://)", "What is said", "Options",
    ]  # fmt: skip
    assert re.search(r"^Options:\n  -h, --help ", shown, flags=re.MULTILINE), "every other option has a group"


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_speaks_no_types(command: Callable[..., Ended], path: tuple[str, ...]) -> None:
    """Values have words or their choices, numbers their limits in words, arguments capitals."""
    shown = command(*path, "--help").out
    listed = re.split(r"^\w[^\n]*:$", shown, flags=re.MULTILINE)[1:]
    left = [re.split(r" {2,}", line.strip())[0] for part in listed for line in part.splitlines()]
    assert not [words for words in left if re.search(r"[<>{}]", words)]
    assert not re.search(r"x[<>]=|<=x|\{", shown)
    usage = shown.split("\n\n")[0]
    (names,) = re.findall(r"\[OPTIONS\](.*)", usage, flags=re.DOTALL)
    assert names.replace("|all", "") == names.replace("|all", "").upper()


def test_numbers_have_their_limits_in_words(command: Callable[..., Ended]) -> None:
    assert "[1 or more]" in command("run", "--help").out
    assert "1 to 65535]" in command("server", "start", "--help").out
    assert re.search(r"^  DEST  ", command("synth", "--help").out, flags=re.MULTILINE)
    assert re.search(r"^  MODEL\|all  ", command("models", "fetch", "--help").out, flags=re.MULTILINE)


def test_help_says_defaults_that_another_place_knows(command: Callable[..., Ended]) -> None:
    text = " ".join(command("run", "--help").out.split())
    for default in ("[default: .]", "[default: DeepLabv3Plus]", "[default: 448]", "[default: one is started on this"):
        assert default in text


def test_without_a_command_help_is_shown_and_it_is_a_usage_error(command: Callable[..., Ended]) -> None:
    for path in ((), ("server",), ("models",), ("config",), ("queue",)):
        shown = command(*path)
        assert (shown.code, shown.out) == (2, "")
        assert shown.err.startswith(f"Usage: {' '.join(('kappamask-stream', *path))} [OPTIONS] COMMAND")


def test_version(command: Callable[..., Ended]) -> None:
    assert re.fullmatch(r"kappamask-stream \d+\.\d+\.\d+\S*\n", command("--version").out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "no product is named: give paths, URLs or names, or --products-file FILE"),
        (["run", "-", "--products-file", "-"], "stdin can be read once"),
        (["run", "*.SAFE"], "*.SAFE matches nothing"),
        (["run", "P", "--dilate", "CLOUD"], "--dilate CLOUD: give CLASS=METRES with a positive number of metres"),
        (["run", "P", "--dilate", "CLOUD=-1"], "--dilate CLOUD=-1: give CLASS=METRES"),
        (["run", "P", "--aoi", "1,2,3"], "--aoi"),
        (["run", "P", "--concurrency", "0"], "greater than or equal to 1"),
        (["run", "P", "--s3-endpoint", "ftp://here"], "the S3 endpoint 'ftp://here' is not of the form"),
        (["config", "show", "--memory-budget-mb", "1"], "greater than or equal to 16"),
        (["km-predict"], "-c FILE is missing"),
        (["km-predict", "-c", "nowhere.json"], "the configuration nowhere.json cannot be read: "),
        (["run", "P", "--mosaic", "average"], "'average' is not one of 'crop', 'blend'"),
        (["run", "P", "--radiometry", "raw"], "'raw' is not one of"),
        (["run", "P", "--memory-budget-mb", "1"], "greater than or equal to 16"),
        (["run", "P", "--max-in-flight", "0"], "greater than or equal to 1"),
        (["run", "P", "--weights", "nowhere.hdf5"], "does not exist"),
        (["run", "P", "--colour"], "No such option: --colour"),
        (["info"], "Missing argument"),
        (["info", "A", "B"], "unexpected extra argument"),
        (["evaluate", "MASK"], "Missing argument"),
        (["evaluate", "MASK", "LABELS", "--crosswalk", "none"], "'none' is not one of"),
        (["synth", "DEST", "--size", "100"], "size 100 is not a multiple of 6"),
        (["synth", "DEST", "--seed", "-1"], "seed -1 is not between 0 and"),
        (["nope"], "No such command 'nope'"),
        (["server", "nope"], "No such command 'nope'"),
        (["run", "P", "--model", "csmask", "--radiometry", "km_predict"], "km_predict is KappaMask's; csmask was"),
        (["run", "P", "--model", "csmask", "--architecture", "Unet"], "--architecture Unet is for --model kappamask"),
        (
            ["models", "fetch", "csmask_l2a"],
            "no weights are published for 'csmask_l2a'; there are those of kappamask_l1c",
        ),
        (
            ["models", "fetch", "all", "--url", "ftp://here/"],
            "'ftp://here/' (from flag --url): must begin",
        ),
        (["run", "P", "--model", "csmask", "--precision", "bf16"], "--precision bf16 is for --model kappamask"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--model", "kappamask"], ["--architecture", "Unet"], ["--precision", "bf16"]])
def test_kappamask_without_weights_says_what_to_do(
    command: Callable[..., Ended], products: list[Path], tmp_path: Path, options: list[str]
) -> None:
    ended = command("run", *products, "--output", tmp_path / "masks", *options)
    assert (ended.code, ended.out) == (2, "")
    assert "needs KappaMask's weights" in ended.err
    network = "unet" if "Unet" in options else "deeplabv3plus"
    assert f"`kappamask-stream models fetch kappamask_l2a_{network}`" in ended.err
    assert "--weights FILE" in ended.err
    assert "--triton" in ended.err
    assert "--model csmask" in ended.err
    assert ended.err.count("\n") == 1, "once, not for each product"
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    "options",
    [["--precision", "fp16"], ["--model", "kappamask_l1c_unet_fp16"], ["--precision", "fp16", "--weights", "w"]],
)
def test_half_precision_is_not_for_the_server_on_this_machine(
    command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").touch()
    ended = command("run", "P", *options)
    assert (ended.code, ended.out) == (2, "")
    assert "_fp16 is for GPUs, the server that runs on this machine computes on the CPU" in ended.err
    assert "--precision f32 or bf16" in ended.err
    assert "--triton" in ended.err
    ModelPool(ModelChoice(precision="fp16"), Settings(triton="grpc://127.0.0.1:1"))


def test_weights_are_for_the_server_on_this_machine(command: Callable[..., Ended], tmp_path: Path) -> None:
    weights = tmp_path / "weights.hdf5"
    weights.touch()
    ended = command("run", "P", "--weights", weights, "--triton", "grpc://127.0.0.1:1")
    assert ended.code == 2
    assert "--weights is for the server that runs on this machine" in ended.err


async def test_kappamask_that_was_built_before_needs_no_weights(tmp_path: Path) -> None:
    built = tmp_path / "env" / "models" / "kappamask_l2a_deeplabv3plus"
    built.mkdir(parents=True)
    settings = Settings(server_env=tmp_path / "env", weights_dir=tmp_path / "none")
    with pytest.raises(UsageError, match="needs KappaMask's weights"):
        ModelPool(ModelChoice(), settings)
    (built / "contract.json").touch()
    pool = ModelPool(ModelChoice(), settings)
    with pytest.raises(UsageError, match="kappamask_l1c_deeplabv3plus needs KappaMask's weights"):
        await pool.get("L1C")
    ModelPool(ModelChoice(), Settings(triton="grpc://127.0.0.1:1", server_env=tmp_path / "none"))


async def test_fetched_weights_are_taken_only_if_they_are_what_was_recorded(tmp_path: Path) -> None:
    settings = Settings(server_env=tmp_path / "env", weights_dir=tmp_path)
    (tmp_path / "l1c_deeplabv3plus.hdf5").write_bytes(b"weights")
    cache = WeightsCache.at(tmp_path)
    assert cache.verified("kappamask_l1c_deeplabv3plus_bf16") == tmp_path / "l1c_deeplabv3plus.hdf5"
    (tmp_path / "l1c_deeplabv3plus.hdf5").write_bytes(b"Weights")
    pool = ModelPool(ModelChoice(), settings)
    with pytest.raises(InputError, match=r"l1c_deeplabv3plus\.hdf5 has the sha256 .*it has changed since"):
        await pool.get("L1C")
    with pytest.raises(UsageError, match="kappamask_l2a_deeplabv3plus needs KappaMask's weights"):
        await pool.get("L2A")


@pytest.mark.parametrize(
    ("choice", "level", "name"),
    [
        (ModelChoice(), "L2A", "kappamask_l2a_deeplabv3plus"),
        (ModelChoice(architecture="Unet"), "L1C", "kappamask_l1c_unet"),
        (ModelChoice(precision="bf16"), "L2A", "kappamask_l2a_deeplabv3plus_bf16"),
        (ModelChoice(precision="f32"), "L1C", "kappamask_l1c_deeplabv3plus"),
        (ModelChoice(model="csmask"), "L1C", "csmask_l1c"),
        (ModelChoice(model="my_network"), "L2A", "my_network"),
    ],
)
def test_the_served_name_follows_from_choice_and_level(choice: ModelChoice, level: str, name: str) -> None:
    assert choice.served_name(level) == name


def test_json_is_one_object_per_product_and_nothing_else(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    ended = command("run", *products, tmp_path / "nowhere", "--output", tmp_path / "masks", "--json", "-v")
    assert ended.err == ""
    assert ended.code == 1, "some succeeded"
    documents = {document["product"]: document for document in map(json.loads, ended.out.splitlines())}
    assert {p.name.removesuffix(".SAFE") for p in products} | {str(tmp_path / "nowhere")} == documents.keys()
    for document in documents.values():
        assert set(document) == PROMISED | EXPLAINING
    done = documents[products[0].name.removesuffix(".SAFE")]
    assert (done["status"], done["exit_code"], done["error"]) == ("done", 0, None)
    assert (done["model"], done["tiles"], done["codestream_tiles_decoded_twice"]) == ("test_l2a", 1, 0)
    assert done["batch_sizes"] is None
    assert done["batch_sizes_reason"] == "a fake forms no batches"
    assert sum(done["classes"].values()) == pytest.approx(1, abs=1e-5)
    with rasterio.open(done["output"]) as mask:
        assert mask.shape == (40, 40)
    lost = documents[str(tmp_path / "nowhere")]
    assert (lost["status"], lost["exit_code"], lost["output"]) == ("failed", 3, None)
    assert lost["error"].endswith("does not exist: check the path to the product")


def test_results_are_lines_on_stdout_and_failures_on_stderr(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    first = command("run", products[0], "--output", tmp_path)
    assert first.code == 0
    assert re.fullmatch(rf"{tmp_path}/\S+_XX_60m\.tif \(\d+\.\d s; clear \d.*%.*\)\n", first.out)
    ended = command("run", products[0], tmp_path / "nowhere", "--output", tmp_path)
    assert ended.code == 1
    assert ended.out == first.out.split(" (")[0] + " (was there already)\n"
    (failure,) = [line for line in ended.err.splitlines() if "error" in line]
    assert failure == f"{tmp_path}/nowhere: error: {tmp_path}/nowhere does not exist: check the path to the product"


def test_products_come_from_a_file_and_are_summed_up(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(f"# two\n{products[0]}\n{products[0].parent}/*.SAFE\n{tmp_path}/nowhere\n")
    ended = command("run", "--products-file", tmp_path / "list", "--output", tmp_path / "masks", "--concurrency", "1")
    assert ended.code == 1
    assert len(ended.out.splitlines()) == 2
    assert "3 products: 2 done, 1 failed; " in ended.err
    for product in products:
        assert re.search(
            rf"^{product.name.removesuffix('.SAFE')} +done +\d+\.\d +\d +\d+\.\d%", ended.err, re.MULTILINE
        )
    assert ended.err.count("nowhere does not exist") == 1, "said when it happened, and not again"


def test_items_get_a_collection_around_them(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    assert command("run", products[0], "--output", tmp_path, "--stac").code == 0
    assert command("run", *products, "--output", tmp_path, "--stac").code == 0
    items = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*_60m.json")}
    assert {item.partition("/")[0] for item in items} == {p.name.removesuffix(".SAFE") for p in products}
    links = json.loads((tmp_path / "collection.json").read_text())["links"]
    assert {link["href"].removeprefix("./") for link in links if link["rel"] == "item"} == items
    assert command("run", products[0], "--output", tmp_path / "plain").code == 0
    assert not (tmp_path / "plain" / "collection.json").exists()


def test_a_misspelt_variable_is_told_and_others_are_not(
    command: Callable[..., Ended],
    server: FakeInference,
    products: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAPPAMASK_MEMORY_BUDGET", "100")
    monkeypatch.setenv("KAPPAMASK_SOMETHING", "1")
    for name in ("TRITON_SERVICE_HOST", "PORT_8001_TCP_ADDR", "STREAM_PORT", "SHARED", "STORES_ENV", "AUDIT_ENV"):
        monkeypatch.setenv(f"KAPPAMASK_{name}", "x")
    monkeypatch.setenv("KAPPAMASK_TYPO", "")
    monkeypatch.setenv("kappamask_compression", "zstd")
    ended = command("run", products[0], "--output", tmp_path, "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["status"] == "done"
    says = "is no setting and has no effect"
    assert ended.err.splitlines() == [
        f"warning: variable KAPPAMASK_MEMORY_BUDGET {says}: did you mean KAPPAMASK_MEMORY_BUDGET_MB?",
        f"warning: variable KAPPAMASK_SOMETHING {says}: `kappamask-stream config show` lists them",
    ]


def test_one_product_is_not_summed_up(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    assert "1 products" not in command("run", products[0], "--output", tmp_path).err


def test_an_empty_list_of_products_is_no_failure(
    command: Callable[..., Ended], server: FakeInference, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("# nothing new today\n")
    ended = command("run", "--products-file", tmp_path / "list")
    assert (ended.code, ended.out, ended.err) == (0, "", "no product to mask: the list is empty\n")


def test_fail_fast_ends_with_the_first_failure(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    arguments = ["run", tmp_path / "nowhere", *products, "--output", tmp_path / "masks", "--concurrency", "1"]
    ended = command(*arguments, "--fail-fast")
    assert (ended.code, ended.out) == (3, "")
    assert "2 more were not masked" in ended.err
    assert list(tmp_path.rglob("*.tif")) == []
    assert command(*arguments).code == 1
    assert len(list(tmp_path.rglob("*.tif"))) == 2


def test_progress_is_plain_lines_where_stderr_is_no_terminal(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    server.delay_s = 0.4
    ended = command("run", products[0], "--output", tmp_path, "--max-in-flight", "1")
    name = products[0].name.removesuffix(".SAFE")
    lines = [line for line in ended.err.splitlines() if line.startswith(f"{name}: ")]
    assert any(re.search(r"\d/1 tiles done, \d read, \d in flight, .* Mpx/s", line) for line in lines)
    assert "\x1b" not in ended.err


def test_another_mask_under_the_name_is_refused_and_overwrite_replaces_it(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    command("run", products[0], "--output", tmp_path)
    (mask,) = tmp_path.rglob("*.tif")
    before = mask.read_bytes()
    refused = command("run", products[0], "--output", tmp_path, "--mosaic", "blend")
    assert (refused.code, refused.out) == (OutputError.exit_code, "")
    assert f"{mask} is a mask of another origin (fingerprint " in refused.err
    assert "give another --output or --overwrite" in refused.err
    assert mask.read_bytes() == before
    replaced = command("run", products[0], "--output", tmp_path, "--mosaic", "blend", "--overwrite")
    assert replaced.code == 0
    with rasterio.open(mask) as file:
        assert file.tags()["MOSAIC"] == "blend"


@pytest.mark.parametrize(
    ("failure", "code"), [(ServerUnavailableError("nobody answers"), 4), (ZeroDivisionError("division by zero"), 1)]
)
def test_the_exit_code_tells_the_kind_of_failure(
    command: Callable[..., Ended],
    server: FakeInference,
    products: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    code: int,
) -> None:
    monkeypatch.setenv("KAPPAMASK_SERVER_WAIT_S", "0")
    server.fail_tile = ("tile", failure)
    ended = command("run", *products, "--output", tmp_path / "masks")
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count(": error: ") == 2
    assert "Traceback" not in ended.err
    assert not (tmp_path / "masks").exists()


def test_a_fault_of_the_program_shows_its_traceback_when_asked_to_say_more(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    server.fail_tile = ("tile", ZeroDivisionError("division by zero"))
    ended = command("run", products[0], "--output", tmp_path, "-v")
    assert "this is a fault of kappamask-stream, please report it with what -v prints" in ended.err
    assert "Traceback (most recent call last)" in ended.err
    assert "in infer" in ended.err


class Stdout(io.TextIOWrapper):
    """A stdout that takes ASCII only; after `leave`, nobody reads it any more."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", errors="strict")
        self._left = False

    def leave(self) -> None:
        self._left = True

    def write(self, text: str, /) -> int:
        if self._left:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return super().write(text)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_when_nobody_reads_the_results_any_more_it_ends_quietly(
    command: Callable[..., Ended],
    server: FakeInference,
    products: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    stdout = Stdout()
    stdout.leave()
    ended = command("run", *products, "--output", tmp_path, *options, stdout=stdout)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_name_that_the_terminal_cannot_show_is_no_reason_to_fail(
    command: Callable[..., Ended], server: FakeInference, products: list[Path], tmp_path: Path
) -> None:
    folder, stdout = tmp_path / "Wölfe", Stdout()
    ended = command("run", products[0], tmp_path / "Bären", "--output", folder, stdout=stdout)
    stdout.flush()
    assert ended.code == 1
    assert rb"W\xf6lfe/S2A_MSIL2A_" in stdout.buffer.getvalue()  # type: ignore[attr-defined]
    assert len(list(folder.rglob("*.tif"))) == 1


def test_info_of_a_zip_is_that_of_the_directory(
    command: Callable[..., Ended], products: list[Path], tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / products[0].stem), "zip", products[0].parent, products[0].name)
    of_directory, of_zip = command("info", products[0]), command("info", tmp_path / f"{products[0].stem}.zip")
    assert of_zip.code == 0, of_zip.err
    assert of_zip.out == of_directory.out
    by_name = command("info", products[0].stem, "--source", tmp_path)
    assert by_name.out == of_directory.out


def test_info_of_what_is_no_product(command: Callable[..., Ended], tmp_path: Path) -> None:
    ended = command("info", tmp_path / "nowhere")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == f"error: {tmp_path}/nowhere does not exist: check the path to the product\n"


def test_evaluate_tells_how_well_a_mask_agrees(command: Callable[..., Ended], products: list[Path]) -> None:
    truth = products[0].with_name(products[0].name.replace(".SAFE", "_truth_10m.tif"))
    perfect = json.loads(command("evaluate", truth, truth, "--json").out)
    assert perfect["agreement"] == 1.0
    assert perfect["classes"]["CLEAR"]["recall"] == 1.0
    table = command("evaluate", truth, truth)
    assert table.code == 0
    assert "agreement 1.0000" in table.out
    assert "any cloud (3 and 4)" in table.out


@pytest.mark.parametrize("side", [0, 1])
def test_evaluate_names_a_file_that_cannot_be_read(
    command: Callable[..., Ended], products: list[Path], tmp_path: Path, side: int
) -> None:
    truth = products[0].with_name(products[0].name.replace(".SAFE", "_truth_10m.tif"))
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    for broken in (text, tmp_path / "nowhere.tif"):
        pair = [truth, truth]
        pair[side] = broken
        ended = command("evaluate", *pair)
        assert (ended.code, ended.out) == (3, "")
        assert str(broken) in ended.err
        assert ended.err.count("\n") == 1


def test_evaluate_of_places_apart(command: Callable[..., Ended], products: list[Path], tmp_path: Path) -> None:
    truth = products[0].with_name(products[0].name.replace(".SAFE", "_truth_10m.tif"))
    moved = tmp_path / "moved.tif"
    with rasterio.open(truth) as file:
        profile, pixels = file.profile, file.read()
    shift = rasterio.Affine.translation(50_000, 0)
    with rasterio.open(moved, "w", **{**profile, "transform": shift @ profile["transform"]}) as file:
        file.write(pixels)
    ended = command("evaluate", truth, moved)
    assert ended.code == 3
    assert "share no labelled pixel: do they show the same place?" in ended.err


@pytest.mark.parametrize(("dtype", "odd"), [("float32", float("nan")), ("int16", -254), ("uint16", 258)])
def test_evaluate_ignores_labels_that_are_no_class(
    command: Callable[..., Ended], products: list[Path], tmp_path: Path, dtype: str, odd: float
) -> None:
    truth = products[0].with_name(products[0].name.replace(".SAFE", "_truth_10m.tif"))
    with rasterio.open(truth) as file:
        profile, pixels = file.profile, file.read().astype(dtype)
    without = int((pixels[:, 120:] != 5).sum())
    pixels[:, :120] = odd  # which a careless cast would make class 2
    labels = tmp_path / "labels.tif"
    with rasterio.open(labels, "w", **{**profile, "dtype": dtype, "nodata": None}) as file:
        file.write(pixels)
    scores = json.loads(command("evaluate", truth, labels, "--json").out)
    assert (scores["pixels"], scores["agreement"]) == (without, 1.0)
    swapped = command("evaluate", labels, truth)
    assert swapped.code == 3
    assert f"labels.tif holds {dtype}, a mask holds uint8: is it the first of the two?" in swapped.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_a_command_and_a_second_one_lets_it_clean_up(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    cleaned_up = []
    before = signal.getsignal(number)

    async def work() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(20):
                await asyncio.sleep(0.001)
            cleaned_up.append(True)

    with pytest.raises(SystemExit) as ended:
        run_command(work())
    assert ended.value.code == code
    assert cleaned_up
    said = capsys.readouterr().err.split("\n")
    assert said[1] == f"{number.name}: stopping"
    assert said[3] == "still cleaning up; once more ends it at once"
    assert signal.getsignal(number) is before


def test_what_fails_while_a_command_is_ended_does_not_hide_the_signal(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OutputError("cannot clean up") from None

    with pytest.raises(SystemExit) as ended:
        run_command(work())
    assert ended.value.code == 130


def test_a_cancellation_without_a_signal_and_an_error_stay_what_they_are() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def failing() -> None:
        raise OutputError("no space")

    with pytest.raises(asyncio.CancelledError):
        run_command(cancelled())
    with pytest.raises(OutputError, match="no space"):
        run_command(failing())


def test_the_third_signal_ends_a_command_that_does_not_clean_up() -> None:
    code = (
        "import asyncio, os, signal\nfrom kappamask_stream.cli.event_loop import run_command\n"
        "async def work():\n"
        "    while True:\n"
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "            await asyncio.sleep(0.01)\n"
        "        except asyncio.CancelledError:\n"
        "            pass\n"
        "run_command(work())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 143
    assert ended.stderr.split("\n")[1::2] == ["SIGTERM: stopping", "still cleaning up; once more ends it at once"]
