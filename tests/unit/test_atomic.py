"""Several files appear together or not at all, whatever ends the writing; what went wrong is said once."""

import asyncio
import errno
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kappamask_stream import atomic, leftovers
from kappamask_stream.atomic import publish
from kappamask_stream.errors import OutputError
from kappamask_stream.leftovers import tidy
from kappamask_stream.whereabouts import boot, pid_namespace
from tests.unit.places import files_in, small_disk


def write_atomically(files: Sequence[tuple[Path, Sequence[bytes] | Path]], stale: Sequence[Path] = ()) -> None:
    asyncio.run(publish(files, stale=stale))


# --- several files at once -------------------------------------------------------------------------------------------


def test_files_are_renamed_in_order_when_all_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, mask = tmp_path / "m.png", tmp_path / "m.tif"
    seen = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((target.name, self.read_bytes(), sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".")))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_atomically([(picture, [b"picture"]), (mask, [b"mask ", b"in pieces"])])
    assert seen == [("m.png", b"picture", []), ("m.tif", b"mask in pieces", ["m.png"])]
    assert files_in(tmp_path) == {"m.png": b"picture", "m.tif": b"mask in pieces"}


def test_overwriting_replaces_all_and_keeps_nothing_of_the_old(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically([(tmp_path / "m.png", [content]), (tmp_path / "m.tif", [content])])
        assert files_in(tmp_path) == {"m.png": content, "m.tif": content}


@pytest.mark.parametrize("there_before", [False, True])
def test_a_mask_that_cannot_be_renamed_takes_its_quicklook_back(tmp_path: Path, there_before) -> None:
    (tmp_path / "m.tif" / "in the way").mkdir(parents=True)
    if there_before:
        (tmp_path / "m.png").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"cannot write .*m\.tif: Is a directory .* a folder has that name"):
        write_atomically([(tmp_path / "m.png", [b"new"]), (tmp_path / "m.tif", [b"new"])])
    assert files_in(tmp_path) == ({"m.png": b"old"} if there_before else {})


def test_a_folder_with_the_quicklooks_name_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.png").mkdir()
    (tmp_path / "m.tif").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"m\.png: Is a directory"):
        write_atomically([(tmp_path / "m.png", [b"new"]), (tmp_path / "m.tif", [b"new"])])
    assert (tmp_path / "m.png").is_dir()
    assert files_in(tmp_path) == {"m.tif": b"old"}


def test_a_scratch_file_is_moved_and_does_not_stay(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch" / "p"
    scratch.parent.mkdir()
    scratch.write_bytes(b"probabilities")
    inode = scratch.stat().st_ino
    (tmp_path / "out").mkdir()
    write_atomically([(tmp_path / "out" / "p.tif", scratch), (tmp_path / "out" / "m.tif", [b"mask"])])
    assert files_in(tmp_path) == {"out/p.tif": b"probabilities", "out/m.tif": b"mask"}
    assert (tmp_path / "out" / "p.tif").stat().st_ino == inode


def test_a_scratch_file_of_another_file_system_is_copied(tmp_path: Path, disk: Path) -> None:
    (disk / "p").write_bytes(b"probabilities")
    write_atomically([(tmp_path / "p.tif", disk / "p"), (tmp_path / "m.tif", [b"mask"])])
    assert files_in(disk) == {}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tif")} == {
        "p.tif": b"probabilities",
        "m.tif": b"mask",
    }


def test_a_scratch_file_that_does_not_fit_is_counted_and_leaves_nothing(tmp_path: Path, disk: Path) -> None:
    scratch = tmp_path / "p"
    scratch.write_bytes(bytes(300_000))
    with pytest.raises(OutputError, match=r"p\.tif: No space left on device \(300100 bytes are needed, \d+ are free\)"):
        write_atomically([(disk / "m.tif", [bytes(100)]), (disk / "p.tif", scratch)])
    assert files_in(disk) == {}


def test_a_mask_that_cannot_be_renamed_takes_a_moved_file_back(tmp_path: Path) -> None:
    (tmp_path / "m.tif").mkdir()
    (tmp_path / "scratch").write_bytes(b"new")
    with pytest.raises(OutputError, match="Is a directory"):
        write_atomically([(tmp_path / "p.tif", tmp_path / "scratch"), (tmp_path / "m.tif", [b"new"])])
    assert files_in(tmp_path) == {}


@pytest.fixture
def with_stale(tmp_path: Path) -> tuple[list[Path], list[tuple[Path, list[bytes]]]]:
    for name in ("m.html", "m.png", "m.tif"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    stale = [tmp_path / name for name in ("m.html", "m.png", "never.there", "m.tif/nor.this", "folder")]
    return stale, [(tmp_path / "m.png", [b"new"]), (tmp_path / "m.tif", [b"new"])]


def test_what_is_stale_goes_when_the_new_files_come(tmp_path: Path, with_stale) -> None:
    stale, files = with_stale
    write_atomically(files, stale)
    assert files_in(tmp_path) == {"m.png": b"new", "m.tif": b"new"}
    assert (tmp_path / "folder").is_dir(), "a folder is nobody's companion"


def test_what_is_stale_stays_where_the_new_files_cannot_come(tmp_path: Path, with_stale) -> None:
    stale, files = with_stale
    (tmp_path / "in the way").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_atomically([*files, (tmp_path / "in the way", [b"new"])], stale)
    assert files_in(tmp_path) == dict.fromkeys(("m.html", "m.png", "m.tif"), b"old")


def test_what_must_not_stand_beside_new_files_is_taken_away_first_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any time, the Item is there with all of its mask's files only, and a new one's beside no old mask."""
    item, picture, mask = (tmp_path / name for name in ("m.json", "m.png", "m.tif"))
    for path in (item, picture, mask):
        path.write_bytes(b"old")
    seen = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        seen.append({path.name: path.read_bytes() for path in (picture, mask, item) if path.exists()})
        return renamed

    monkeypatch.setattr(Path, "replace", watched)
    write_atomically([(picture, [b"new"]), (mask, [b"new"]), (item, [b"new"])], [item, picture, mask])
    assert seen == [
        {"m.png": b"old", "m.tif": b"old"}, {"m.tif": b"old"}, {},
        {"m.png": b"new"}, {"m.png": b"new", "m.tif": b"new"}, dict.fromkeys(("m.png", "m.tif", "m.json"), b"new"),
    ]  # fmt: skip
    assert set(files_in(tmp_path)) == {"m.json", "m.png", "m.tif"}


@pytest.mark.parametrize("fails_at", range(6))
def test_what_was_taken_away_comes_back_where_a_later_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    item, picture, mask = (tmp_path / name for name in ("m.json", "m.png", "m.tif"))
    for path in (item, picture, mask):
        path.write_bytes(b"old")
    steps, rename = [0], Path.replace

    def failing(self: Path, target: Path) -> Path:
        steps[0] += 1
        if steps[0] == fails_at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        write_atomically([(picture, [b"new"]), (mask, [b"new"]), (item, [b"new"])], [item, picture, mask])
    assert files_in(tmp_path) == dict.fromkeys(("m.json", "m.png", "m.tif"), b"old")


def test_a_scratch_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"cannot write .*m\.tif: its scratch file .*gone cannot be read: No such file"
    ):
        write_atomically([(tmp_path / "m.tif", tmp_path / "gone")])


async def test_tasks_that_write_the_same_files_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all, written = atomic._write_all, threading.Barrier(3)

    def together(*args: object) -> None:
        write_all(*args)  # type: ignore[arg-type]
        written.wait(30)  # all have written
        written.wait(30)  # and the test has looked

    monkeypatch.setattr(atomic, "_write_all", together)
    contents = [b"one", b"two"]
    tasks = [asyncio.create_task(publish([(tmp_path / "m.png", [c]), (tmp_path / "m.tif", [c])])) for c in contents]
    await asyncio.to_thread(written.wait, 30)
    tidy([tmp_path / "m.png", tmp_path / "m.tif"])  # a third job begins
    assert sorted(files_in(tmp_path).values()) == sorted(2 * contents)
    await asyncio.to_thread(written.wait, 30)
    await asyncio.gather(*tasks)
    assert set(files_in(tmp_path)) == {"m.png", "m.tif"}
    assert (tmp_path / "m.tif").read_bytes() in contents


# --- no space, no permission -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small") as folder:
        yield folder


def test_no_space_names_path_bytes_needed_and_free_and_the_old_files_survive(disk: Path) -> None:
    old = {"m.png": b"old picture", "m.tif": b"old mask"}
    for name, content in old.items():
        (disk / name).write_bytes(content)
    free = shutil.disk_usage(disk).free
    with pytest.raises(OutputError) as error:
        write_atomically([(disk / "m.png", [bytes(100_000)]), (disk / "m.tif", [bytes(100_000)] * 3)])
    assert str(error.value) == (
        f"cannot write {disk}/m.tif: No space left on device (400000 bytes are needed, {free} are free): "
        "make room or give another folder with --output"
    )
    assert error.value.exit_code == 5
    assert isinstance(error.value.__cause__, OSError)
    assert files_in(disk) == old


def test_a_limit_on_file_sizes_is_told_from_a_full_disk(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OutputError, match=r"File too large \(100000 bytes are needed, \d+ are free\): .*ulimit -f"):
            write_atomically([(tmp_path / "m.tif", [bytes(60_000), bytes(40_000)])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(tmp_path) == {}


def test_a_full_quota_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"quota exceeded \(3 bytes are needed, \d+ are free\): your quota is used"):
        write_atomically([(tmp_path / "m.tif", [b"123"])])
    assert files_in(tmp_path) == {}


def test_a_folder_that_vanished_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone/m\.tif: No such file or directory.*: its folder is gone"):
        write_atomically([(tmp_path / "gone" / "m.tif", [b"1"])])


# --- cancellation and death ------------------------------------------------------------------------------------------


class Pause:
    """Stands before or after one step of `publish`: says when it is reached, and waits until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        original: Callable[..., None] = getattr(atomic, step)

        def paused(*args: object) -> None:
            if step == "_write_all":
                original(*args)
            self.reached.set()
            assert self.go_on.wait(30)
            if step != "_write_all":
                original(*args)

        monkeypatch.setattr(atomic, step, paused)


@pytest.mark.parametrize(("step", "left"), [("_write_all", {"m.tif": b"old"}), ("_rename_all", {"m.png": b"new", "m.tif": b"new"})])  # fmt: skip
async def test_cancelled_before_the_first_rename_nothing_changes_after_it_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, left: dict[str, bytes]
) -> None:
    (tmp_path / "m.tif").write_bytes(b"old")
    pause = Pause(monkeypatch, step)
    task = asyncio.create_task(publish([(tmp_path / "m.png", [b"new"]), (tmp_path / "m.tif", [b"new"])]))
    await asyncio.to_thread(pause.reached.wait, 30)
    assert len(files_in(tmp_path)) == 3  # the old mask and two temporary files
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # an impatient user
    await asyncio.sleep(0)
    assert not task.done()
    pause.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files_in(tmp_path) == left


async def test_publishing_says_in_the_loop_what_went_wrong_in_the_thread(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder is gone"):
        await publish([(tmp_path / "gone" / "m.tif", [b"1"])])


WRITER = """
import asyncio, sys, time
from pathlib import Path
from kappamask_stream import atomic, leftovers

def wait(paths, needed):
    print("written", flush=True)
    time.sleep(600)

atomic._rename_all = wait
asyncio.run(atomic.publish([(Path(sys.argv[1]), [b"picture"]), (Path(sys.argv[2]), [b"mask"])]))
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has written its temporary files and has not renamed them."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "m.png"), str(tmp_path / "m.tif")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


def test_temporary_files_of_a_killed_process_are_removed_and_those_of_a_live_one_stay(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    paths = [tmp_path / "m.png", tmp_path / "m.tif"]
    names = set(files_in(tmp_path))
    assert {name.partition(f".{platform.node()}.")[0] for name in names} == {".m.png", ".m.tif"}
    assert all(f".{writer.pid}." in name for name in names)
    tidy(paths)
    assert set(files_in(tmp_path)) == names
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    tidy(paths)
    assert files_in(tmp_path) == {}


def test_only_abandoned_files_of_this_mask_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, own = platform.node(), os.getpid()
    here = f"{host}.{leftovers._place()}"
    gone = [
        f".m.tif.{here}.{own}.{'0' * 8}-7.part", f".m.tif.{here}.99999999999.{'0' * 8}-0.old",
        f".m.tif.{here}.99999999999.{'0' * 8}-1.none",
    ]  # fmt: skip
    #: Of another machine, another container, another boot, and of a version that did not tell.
    aging = [
        f".m.tif.elsewhere.{leftovers._place()}.{own}.{'0' * 8}-0.part", f".m.tif.else.where.{own}.part",
        f".m.tif.{host}.{boot()[:8]}-1.{own}.{'0' * 8}-0.part", f".m.tif.{host}.{boot()[:8]}-1.1.{'0' * 8}-0.old",
        f".m.tif.{host}.{'0' * 8}-{pid_namespace()}.{own}.{'0' * 8}-0.part", f".m.tif.{host}.99999999999.part",
    ]  # fmt: skip
    stay = ["m.tif", ".m.tif", ".m.tif.part", f".other.tif.{here}.{own}.{'0' * 8}-9.part", f".m.tif.{here}.x.part"]
    for name in [*gone, *aging, *stay]:
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (1, 1))  # a file that was moved aside has the time of its content
    tidy([tmp_path / "m.tif"])
    assert set(files_in(tmp_path)) == {*aging, *stay}
    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + 2 * 24 * 3600)
    tidy([tmp_path / "m.tif"])
    assert set(files_in(tmp_path)) == set(stay)


#: Is killed at the n-th renaming, for every n, and shows what is there before and after the next one has tidied up.
KILLED = """
import asyncio, itertools, json, os, shutil, sys
from pathlib import Path
from kappamask_stream import atomic, leftovers
from kappamask_stream.leftovers import tidy
from kappamask_stream.whereabouts import boot, pid_namespace

os.fsync = lambda _: None  # takes long, and the power stays on
folder = Path(sys.argv[1])
OLD = ("m.json", "t/p.png", "m_p.tif", "m_q.png", "m.tif")
NEW = ("m_q.png", "m.png", "m.tif", "m.json")

def content():
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}

for number in itertools.count(1):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "t").mkdir(parents=True)
    for name in OLD:
        (folder / name).write_text("old")
    child = os.fork()
    if child == 0:
        rename, numbers = Path.replace, itertools.count(1)
        def killing(self, target):
            if next(numbers) == number:
                os.kill(os.getpid(), 9)
            return rename(self, target)
        Path.replace = killing
        stale = [folder / name for name in OLD]
        asyncio.run(atomic.publish([(folder / name, [b"new"]) for name in NEW], stale=stale))
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    if len(sys.argv) > 2:  # somebody else has written a mask meanwhile
        asyncio.run(atomic.publish([(folder / name, [b"theirs"]) for name in ("m_q.png", "m.tif")]))
    tidy([folder / name for name in ("m.tif", "m_q.png", "m_p.tif", "m.png", "m.json")])
    print(json.dumps(content()), flush=True)
    if ended == 0:
        break
"""


def killed_at_every_renaming(folder: Path, *more: str) -> list[dict[str, str]]:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(folder), *more], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_set_that_was_being_replaced_by_a_killed_process_is_whole_again(tmp_path: Path) -> None:
    *killed, ended = killed_at_every_renaming(tmp_path / "m")
    old = dict.fromkeys(("m.json", "t/p.png", "m_p.tif", "m_q.png", "m.tif"), "old")
    assert killed == [old] * len(killed)
    assert len(killed) == 5 + 2 * 3 + 1  # of a new name first what is there is moved, which of the last one is replaced
    assert ended == dict.fromkeys(("m_q.png", "m.png", "m.tif", "m.json"), "new")


def test_what_a_killed_process_had_moved_aside_does_not_replace_what_came_later(tmp_path: Path) -> None:
    for left in killed_at_every_renaming(tmp_path / "m", "theirs")[:-1]:
        assert (left["m.tif"], left["m_q.png"]) == ("theirs", "theirs")
        assert not any("/." in f"/{name}" for name in left)


def test_what_cannot_come_back_stays_where_it_is_until_it_can(tmp_path: Path) -> None:
    dead = f"{leftovers.new_writer().rpartition('.')[0]}.00000000-0"
    mask = tmp_path / "m.tif"
    old, new = (leftovers.temporary(mask, dead, kind) for kind in (leftovers.OLD, leftovers.NEW))
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    mask.mkdir()
    tidy([mask])
    assert files_in(tmp_path) == {old.name: b"old", new.name: b"new"}
    mask.rmdir()
    tidy([mask])
    assert files_in(tmp_path) == {"m.tif": b"old"}


async def test_two_that_take_the_same_old_mask_away_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look whether a file is there and its renaming another writer has renamed it."""
    (tmp_path / "m.json").write_bytes(b"old")
    is_file = Path.is_file

    def late(self: Path) -> bool:
        there = is_file(self)
        if self.name == "m.json":
            self.unlink(missing_ok=True)
        return there

    monkeypatch.setattr(Path, "is_file", late)
    await publish([(tmp_path / "m.tif", [b"new"])], stale=[tmp_path / "m.json"])
    monkeypatch.undo()
    assert files_in(tmp_path) == {"m.tif": b"new"}
