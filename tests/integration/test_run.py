"""`kappamask-stream run` as people start it: real products, a real Triton, real signals, and what is left."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import tty
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import rasterio
from rio_cogeo import cog_validate

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2 import ImagecodecsDecoder
from kappamask_stream.synth import write_product
from tests.integration.holding_proxy import HoldingProxy
from tests.integration.local_state import CLI, PATIENCE_S, wait_until
from tests.stream.scene import Scene, band_file, l1c_scene, l2a_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.fault_table import Fault
    from tests.integration.local_state import LocalState
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

__all__ = ["l1c_scene", "l2a_scene"]


def run(*arguments: object, prefix: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*prefix, str(CLI), "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S * 3, **options)


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []


def small(folder: Path, seed: int, level: str = "L2A") -> Path:
    """Make a product of one tile; every seed another name."""
    return write_product(folder, size=240, seed=seed, level=level).product  # type: ignore[arg-type]


@pytest.fixture
def at_null(session_server: SessionServer) -> list[str]:
    """Options for the threshold model on the session's server."""
    return ["--model", "null_l2a", "--triton", f"grpc://{session_server.address}"]


# Masks


def test_a_mask_is_what_the_network_says_of_every_pixel(l2a_scene: Scene, at_null: list[str], tmp_path: Path) -> None:
    ended = run(l2a_scene.path, "--output", tmp_path, *at_null, "--json", "--verify")
    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert document["status"] == "done"
    assert (document["tiles"], document["tiles_inferred"], document["tiles_empty"]) == (4, 4, 0)
    assert document["codestream_tiles_decoded_twice"] == 0
    # Triton counts an execution after it has answered it: the last may be missing.
    assert 1 <= sum(int(size) * n for size, n in document["batch_sizes"].items()) <= 4
    assert document["canary"] is True, "a model that this version has built knows a tile's answer"
    bands = [l2a_scene.pixels(band, 20) for band in ("B02", "B03", "B04", "B8A", "B11", "B12")]
    expected = np.where((bands[0].astype(np.float64) - 1000) / 10_000 > 0.3, 4, 1)
    expected[~np.stack(bands).any(axis=0)] = 5
    with rasterio.open(document["output"]) as mask:
        np.testing.assert_array_equal(mask.read(1), expected)
        assert mask.crs.to_epsg() == 32632
        assert mask.transform == rasterio.Affine(20, 0, 399960, 0, -20, 5300040)
    assert set(np.unique(expected)) == {1, 4, 5}
    valid, errors, warnings = cog_validate(document["output"], strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    name = l2a_scene.name
    assert files_in(tmp_path) == [
        name,
        f"{name}/L2A_T32ZZZ_20240823T101031_NULL_20m.tif",
        f"{name}/L2A_T32ZZZ_20240823T101031_NULL_20m_quicklook.png",
    ]
    again = run(l2a_scene.path, "--output", tmp_path, *at_null)
    assert again.returncode == 0
    assert again.stdout == f"{document['output']} (was there already)\n"


@pytest.mark.usefixtures("csmask_address")
def test_both_levels_with_csmask_on_the_server_of_this_machine(
    l2a_scene: Scene, l1c_scene: Scene, tmp_path: Path
) -> None:
    """Without --triton; the two products are in work at once, each with its own model."""
    ended = run(l2a_scene.path, l1c_scene.path, "--model", "csmask", "--output", tmp_path, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    documents = {document["product"]: document for document in map(json.loads, ended.stdout.splitlines())}
    for scene, level in ((l2a_scene, "L2A"), (l1c_scene, "L1C")):
        document = documents[scene.name]
        assert document["model"] == f"csmask_{level.lower()}"
        assert Path(document["output"]).name == f"{level}_T32ZZZ_20240823T101031_CS_20m.tif"
        with rasterio.open(document["output"]) as mask, rasterio.open(scene.truth) as truth:
            found, known = mask.read(1), truth.read(1)[::2, ::2]
        seen = np.isin(known, (1, 2, 4))
        assert (found == known)[seen].mean() > 0.7
        assert ((found == 5) == (known == 5)).mean() > 0.99


# What goes wrong with a product


#: Ten entities, each ten of the one before.
ENTITIES = ['<!ENTITY {} "{}">'.format(new, f"&{old};" * 10) for old, new in zip("abcdefghi", "bcdefghij", strict=True)]
BILLION_LAUGHS = f'<!DOCTYPE l [<!ENTITY a "ha">{"".join(ENTITIES)}]><l>&j;</l>'


def damaged_products(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return, by what was done to it, a product of its own and what its message must name."""
    products = iter(range(1, 20))
    made: dict[str, tuple[Path, str]] = {}

    def product(what: str) -> Path:
        return small(folder / what.replace(" ", "-"), next(products))

    def with_file(what: str, damage: Callable[[Path], None]) -> None:
        file = band_file(product(what), "B8A", 20)
        damage(file)
        made[what] = (file.parents[4], file.name)

    with_file("band missing", Path.unlink)
    with_file("band truncated", lambda file: os.truncate(file, file.stat().st_size - 2000))
    with_file("band cut in its header", lambda file: os.truncate(file, 300))
    with_file("band empty", lambda file: os.truncate(file, 0))
    with_file("band corrupt", corrupt_as_openjpeg_notices)
    with_file("band is a folder", lambda file: (file.unlink(), file.mkdir())[0])
    with_file("band is text", lambda file: file.write_text("<html>Error 503</html>" * 100) and None)
    xml = product("no metadata") / "MTD_MSIL2A.xml"
    xml.unlink()
    made["no metadata"] = (xml.parent, "MTD_MSIL2A.xml")
    for what, text in {
        "laughs": BILLION_LAUGHS,
        "external": '<!DOCTYPE l [<!ENTITY e SYSTEM "file:///etc/passwd">]><l>&e;</l>',
        "unreadable": "<n1:Level-2A_User_Product",
    }.items():
        xml = product(f"XML {what}") / "MTD_MSIL2A.xml"
        xml.write_text(text)
        made[f"XML {what}"] = (xml.parent, "MTD_MSIL2A.xml")
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.jpg").touch()
    made["wrong folder"] = (folder / "photos", "photos is no Sentinel-2 product")
    made["nowhere"] = (folder / "nowhere", "nowhere does not exist")
    file = folder / "product.zip"
    file.touch()
    made["file"] = (file, "product.zip is no zip archive that can be read")
    made["L1C for an L2A model"] = (small(folder, 30, "L1C"), "is a L1C product, the model null_l2a was trained on L2A")
    return made


def corrupt_as_openjpeg_notices(file: Path) -> None:
    """Flip one bit in the data of a codestream tile, such that the decoder complains (it mostly does not)."""
    whole = file.read_bytes()
    start = whole.index(b"\xff\x4f\xff\x51")
    first = whole.index(b"\xff\x93", start) + 2
    draw = random.Random(1)
    for _ in range(5000):
        data = bytearray(whole)
        data[draw.randrange(first, len(whole) - 2)] ^= 1 << draw.randrange(8)
        try:
            ImagecodecsDecoder().decode(bytes(data[start:]), height=120, width=120, name=file.name)
        except CodestreamError:
            file.write_bytes(data)
            return
    raise AssertionError("no flipped bit is noticed")


def test_each_bad_product_fails_with_one_message_that_names_the_file_and_the_others_go_on(
    at_null: list[str], tmp_path: Path
) -> None:
    bad = damaged_products(tmp_path / "in")
    good = [small(tmp_path / "in", 40), small(tmp_path / "in", 41)]
    paths = [good[0], *(path for path, _ in bad.values()), good[1]]
    out = tmp_path / "out"
    ended = run(*paths, "--output", out, *at_null, "--json")
    assert (ended.returncode, ended.stderr) == (1, "")
    documents = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(documents) == len(paths)
    for what, (path, names) in bad.items():
        (document,) = [d for d in documents if d["product"] in (str(path), path.name.removesuffix(".SAFE"))]
        assert (document["status"], document["exit_code"], document["output"]) == ("failed", 3, None), what
        assert names in document["error"], what
        assert "\n" not in document["error"], what
        assert "fault of kappamask-stream" not in document["error"], what
    assert sorted(p.name for p in out.iterdir()) == [p.name.removesuffix(".SAFE") for p in good]

    alone = run(*(path for path, _ in bad.values()), "--output", tmp_path / "none", *at_null)
    assert (alone.returncode, alone.stdout) == (3, "")
    assert sum(": error: " in line for line in alone.stderr.splitlines()) == len(bad)
    assert "Traceback" not in alone.stderr
    assert files_in(tmp_path / "none") == []


def test_damage_that_the_decoder_does_not_notice_is_found_by_verify(at_null: list[str], tmp_path: Path) -> None:
    product = small(tmp_path / "in", 1)
    file = band_file(product, "B8A", 20)
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    file.write_bytes(data)
    assert run(product, "--output", tmp_path / "a", *at_null).returncode == 0
    ended = run(product, "--output", tmp_path / "b", *at_null, "--verify")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert f"{file.name} has the sha3_256 checksum" in ended.stderr
    assert files_in(tmp_path / "b") == []


# What goes wrong with the output


@pytest.mark.fault("Output", "a place where nothing can be written: a file, /proc, no permission")
def test_places_where_no_mask_can_be_written(at_null: list[str], tmp_path: Path, fault: Fault) -> None:
    product = small(tmp_path / "in", 1)
    (tmp_path / "file").touch()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / product.name.removesuffix(".SAFE")).touch()
    for place in (tmp_path / "file", taken, Path("/proc/kappamask-stream")):
        ended = run(product, "--output", place, *at_null)
        assert (ended.returncode, ended.stdout) == (5, "")
        (line,) = [line for line in ended.stderr.splitlines() if "error" in line]
        assert str(place) in line
        fault.injected()
        fault.outcome("exit 5 with file and cause, nothing left")
    assert files_in(taken) == [product.name.removesuffix(".SAFE")]


@pytest.mark.fault("Output", "a place where nothing can be written: a file, /proc, no permission")
def test_folders_without_permission(at_null: list[str], tmp_path: Path, fault: Fault) -> None:
    product, hidden, part = (small(tmp_path / name, seed) for seed, name in enumerate("abc"))
    hidden.chmod(0)
    band = band_file(part, "B8A", 20)
    band.chmod(0)
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    ended = run(product, "--output", out, *at_null, prefix=as_anybody())
    assert (ended.returncode, ended.stdout) == (5, "")
    assert f"{out}/" in ended.stderr
    assert "Permission denied" in ended.stderr
    fault.injected()
    fault.outcome("exit 5 with file and cause, nothing left")
    ended = run(hidden, product, part, "--output", tmp_path / "out2", *at_null, prefix=as_anybody())
    assert ended.returncode == 1
    failures = [line for line in ended.stderr.splitlines() if ": error: " in line]
    assert len(failures) == 2
    assert all("Permission denied" in line for line in failures)
    assert any(str(hidden) in line for line in failures)
    assert any(band.name in line for line in failures)
    assert len(list((tmp_path / "out2").rglob("*.tif"))) == 1
    hidden.chmod(0o700)


def as_anybody() -> list[str]:
    """Start a command such that permissions count, which the superuser may ignore."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("the superuser's rights cannot be laid down here")
    return command


@pytest.mark.fault("Output", "a really full disk; a limit on the size of files")
def test_no_space_leaves_nothing(l2a_scene: Scene, at_null: list[str], tmp_path: Path, fault: Fault) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    ended = run(l2a_scene.path, "--output", tmp_path, *at_null, preexec_fn=limited)
    assert (ended.returncode, ended.stdout) == (5, "")
    (line,) = [line for line in ended.stderr.splitlines() if "error" in line]
    assert re.search(r"cannot write .*NULL_20m\w*\.\w{3}: File too large \(\d+ bytes are needed, \d+ are free\)", line)
    fault.injected()
    fault.refused(ended.stderr, tmp_path, "ulimit -f")


@pytest.mark.fault("Output", "a really full disk; a limit on the size of files")
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk")
def test_a_full_disk_leaves_nothing(l2a_scene: Scene, at_null: list[str], tmp_path: Path, fault: Fault) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ended = run(l2a_scene.path, "--output", disk, *at_null)
        assert (ended.returncode, ended.stdout) == (5, "")
        fault.injected()
        fault.refused(ended.stderr, disk, f"MB to the file system of {disk}", "0 MB are free there", "make room")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# What goes wrong with the server


def test_a_server_that_is_not_there_or_holds_no_such_model(session_server: SessionServer, tmp_path: Path) -> None:
    product = small(tmp_path / "in", 1)
    impatient = {**os.environ, "KAPPAMASK_SERVER_WAIT_S": "0"}
    for triton, model, code, says in (
        ("grpc://127.0.0.1:1", "csmask", 4, "no server answers at grpc://127.0.0.1:1"),
        (f"grpc://{session_server.address}", "nothing_of_the_kind", 4, "does not serve nothing_of_the_kind"),
        ("http://127.0.0.1:8000", "csmask", 2, "grpc://HOST:PORT"),
    ):
        ended = run(product, "--output", tmp_path / "out", "--model", model, "--triton", triton, env=impatient)
        assert (ended.returncode, ended.stdout) == (code, "")
        (line,) = [line for line in ended.stderr.splitlines() if "error" in line]
        assert says in line
        assert files_in(tmp_path / "out") == []


class Streaming:
    """A `run` that is in the middle of its product: tiles are read, and no answer comes until `proxy.let_go`."""

    def __init__(
        self, scene: Scene, server: str, out: Path, *, stderr: int = subprocess.PIPE, **variables: str
    ) -> None:
        self.proxy = HoldingProxy(server)
        self.proxy.__enter__()
        self.process = subprocess.Popen(
            [
                str(CLI), "run", str(scene.path), "--output", str(out),
                "--model", "null_l2a", "--triton", f"grpc://{self.proxy.address}",
            ],
            stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, **variables},
        )  # fmt: skip
        assert self.proxy.held.wait(PATIENCE_S), "no tile was sent"

    def end(self) -> Ended:
        """Wait for its end; the patience tells cleaning up from waiting for an answer (120 s), no more."""
        out, err = self.process.communicate(timeout=30)
        return Ended(self.process.returncode, out, err or "")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.proxy.__exit__()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def streaming(session_server: SessionServer, l2a_scene: Scene, tmp_path: Path) -> Iterator[Callable[..., Streaming]]:
    with ExitStack() as stack:

        def start(**options: Any) -> Streaming:
            one = Streaming(l2a_scene, session_server.address, tmp_path / "out", **options)
            stack.callback(one.close)
            return one

        yield start


def test_a_server_that_dies_fails_the_product_and_leaves_nothing(
    streaming: Callable[..., Streaming], tmp_path: Path
) -> None:
    one = streaming(KAPPAMASK_SERVER_WAIT_S="0.5")
    one.proxy.cut()
    ended = one.end()
    assert (ended.code, ended.out) == (4, "")
    (line,) = [line for line in ended.err.splitlines() if "error" in line]
    assert re.search(r"error: tile at row \d, column \d of S2A_\S+: no server answers at grpc://127.0.0.1:", line)
    assert files_in(tmp_path / "out") == []


# Signals


@pytest.mark.parametrize(
    ("signals", "codes"),
    [
        ([signal.SIGINT], {130}),
        ([signal.SIGTERM], {143}),
        ([signal.SIGINT] * 2, {130}),
        # Where both are pending before the process runs again, the system hands over the lower number first.
        ([signal.SIGTERM, signal.SIGINT], {130, 143}),
    ],
)
@pytest.mark.fault("Process", "SIGINT and SIGTERM, once and twice, while tiles are in flight")
def test_interrupted_in_the_middle_it_leaves_nothing(
    streaming: Callable[..., Streaming], tmp_path: Path, signals: list[signal.Signals], codes: set[int], fault: Fault
) -> None:
    one = streaming()
    for number in signals:
        one.process.send_signal(number)
        fault.injected()
    ended = one.end()
    assert ended.code in codes
    assert ended.out == ""
    assert f"{signal.Signals(ended.code - 128).name}: stopping" in ended.err
    fault.refused(ended.err, tmp_path / "out")


def test_killed_in_the_middle_it_leaves_no_mask_and_the_next_run_works(
    streaming: Callable[..., Streaming], l2a_scene: Scene, at_null: list[str], tmp_path: Path
) -> None:
    one = streaming()
    one.process.kill()
    assert one.end().code == -signal.SIGKILL
    assert files_in(tmp_path / "out") in ([], [l2a_scene.name])
    assert run(l2a_scene.path, "--output", tmp_path / "out", *at_null).returncode == 0
    assert len(files_in(tmp_path / "out")) == 3


@pytest.mark.parametrize("moment", ["building null_l2a", "starting Triton"])
def test_interrupted_while_the_server_is_made_ready_it_leaves_nothing(
    state: LocalState, null_repository: Path, tmp_path: Path, moment: str
) -> None:
    if moment == "starting Triton":
        shutil.copytree(null_repository, state.environment / "models")
    product = small(tmp_path / "in", 1)
    with subprocess.Popen(
        [str(CLI), "run", str(product), "--output", str(tmp_path / "out"), "--model", "null_l2a"],
        env=state.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any(moment in line for line in process.stderr), "it ended before"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert files_in(tmp_path / "out") == []
    state.wait_until_gone()


# What people see


def test_on_a_terminal_a_live_line_and_the_result_whole_on_stdout(
    streaming: Callable[..., Streaming], l2a_scene: Scene, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    one = streaming(stderr=slave, TERM="xterm-256color", COLUMNS="160")
    os.close(slave)
    seen = read_until(master, rf"{l2a_scene.name}  0/4 tiles done, \d read, \d in flight, \d+\.\d Mpx/s")
    assert "\x1b[2K" in seen or "\x1b[?25l" in seen
    one.proxy.let_go()
    ended = one.end()
    os.close(master)
    assert ended.code == 0
    (mask,) = (tmp_path / "out").rglob("*.tif")
    assert re.fullmatch(rf"{mask} \(\d+\.\d s; .*\)\n", ended.out)


def read_until(terminal: int, pattern: str) -> str:
    """Read what a terminal shows until it matches."""
    os.set_blocking(terminal, False)
    seen = ""

    def matches() -> bool:
        nonlocal seen
        with suppress(BlockingIOError):
            seen += os.read(terminal, 1 << 16).decode()
        return re.search(pattern, seen) is not None

    wait_until(matches, f"{pattern} on the terminal")
    return seen


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_when_nobody_reads_the_results_it_ends_quietly(
    l2a_scene: Scene, at_null: list[str], tmp_path: Path, options: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [str(CLI), "run", str(l2a_scene.path), "--output", str(tmp_path / "out"), *at_null, *options],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    os.close(writing)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr
    assert len(files_in(tmp_path / "out")) == 3, "the mask was finished before"
