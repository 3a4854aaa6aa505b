"""Files that appear whole or not at all, several together; and why a file could not be written, in words."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import OutputError
from kappamask_stream.leftovers import NEW, NOTHING, OLD, new_writer, remove, temporary
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ELSEWHERE = "give another folder with --output"
_REMEDIES = {
    errno.ENOSPC: f"make room or {_ELSEWHERE}",
    errno.EDQUOT: f"your quota is used up: make room or {_ELSEWHERE}",
    errno.EFBIG: f"a limit on the size of files (ulimit -f) is in the way: raise it or {_ELSEWHERE}",
    errno.EISDIR: f"a folder has that name: rename it or {_ELSEWHERE}",
    errno.ENOENT: f"its folder is gone: make it again or {_ELSEWHERE}",
    errno.ENOTDIR: f"a file stands where its folder should be: rename it or {_ELSEWHERE}",
    errno.EEXIST: f"a file stands where its folder should be: rename it or {_ELSEWHERE}",
}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What happens to one name: `new` becomes `path`, what was there is `old` meanwhile; without content it goes.

    `nothing` says, while others are replaced, that nothing was there.
    """

    path: Path
    new: Path
    old: Path
    nothing: Path
    content: Sequence[bytes] | Path | None


async def publish(files: Sequence[tuple[Path, Sequence[bytes] | Path]], *, stale: Sequence[Path] = ()) -> None:
    """Write files under hidden names in their folders, then rename them in the order given; in threads.

    So the last file stands for all of them: it is there only when the others are. A failure leaves no temporary
    file, and under the final names what was there before. So does a cancellation before the first rename; after
    it, all files get their names before the cancellation goes on. Several may write the same names at once: the files
    of one of them stay.

    A process that is killed between two renames leaves the earlier ones done, until `leftovers.tidy` undoes them: what
    must not stand beside new files belongs into `stale`.

    Parameters
    ----------
    files : path and content of each: bytes in pieces, or a scratch file, which is moved (from another file system:
        copied) and gone afterwards.
    stale : taken away in this order before the first rename, and brought back where one fails; also files that are
        to be replaced by some of `files`.

    Raises
    ------
    OutputError
        Naming the path, the bytes needed by all files, the bytes free, and the remedy.
    """
    writer = new_writer()
    steps = [_step(path, writer, None) for path in stale]
    steps += [_step(path, writer, content) for path, content in files]
    try:
        needed = await in_thread(None, _needed, steps)
        await in_thread(None, _write_all, steps, needed)
        await in_thread(None, _rename_all, steps, needed)
    finally:
        _remove_all(steps)


def output_error(path: Path, error: OSError, needed: int | None = None, *, elsewhere: str = _ELSEWHERE) -> OutputError:
    """Say why a file or folder could not be written: what, the bytes needed and free, the remedy.

    Parameters
    ----------
    elsewhere : how another place is chosen.
    """
    room = ""
    if needed is not None:
        with suppress(OSError):
            room = f" ({needed} bytes are needed, {shutil.disk_usage(path.parent).free} are free)"
    remedy = _REMEDIES.get(error.errno or 0, _ELSEWHERE).replace(_ELSEWHERE, elsewhere)
    return OutputError(f"cannot write {path}: {error.strerror or error}{room}: {remedy}")


def _step(path: Path, writer: str, content: Sequence[bytes] | Path | None) -> _Step:
    new, old, nothing = (temporary(path, writer, kind) for kind in (NEW, OLD, NOTHING))
    return _Step(path=path, new=new, old=old, nothing=nothing, content=content)


def _write_all(steps: Sequence[_Step], needed: int) -> None:
    for step in steps:
        try:
            if step.content is not None:
                _write(step.new, step.content)
        except OSError as error:
            _remove_all(steps)  # now: what they took counts as free
            raise output_error(step.path, error, needed) from error


def _write(hidden: Path, content: Sequence[bytes] | Path) -> None:
    if isinstance(content, Path):
        shutil.move(content, hidden)
    else:
        with hidden.open("wb") as file:
            file.writelines(content)
    with hidden.open("rb") as file:
        os.fsync(file.fileno())


def _rename_all(steps: Sequence[_Step], needed: int) -> None:
    """Give temporary files their names; if one cannot have it, bring back what the earlier ones replaced."""
    replaces = any(step.content is None for step in steps)
    with ExitStack() as undo:
        for step in steps:
            try:
                if step.content is None:
                    _take_away(step, undo)
                else:
                    _rename(step, undo, is_last=step is steps[-1], replaces=replaces)
            except OSError as error:
                raise output_error(step.path, error, needed) from error
        undo.pop_all()
    for step in steps:
        remove(step.old)
        remove(step.nothing)
    for folder in {step.path.parent for step in steps}:
        _sync_folder(folder)


def _take_away(step: _Step, undo: ExitStack) -> None:
    if step.path.is_file():
        with suppress(FileNotFoundError):  # another writer has just taken it away
            step.path.replace(step.old)
            undo.callback(_restore, step)


def _rename(step: _Step, undo: ExitStack, *, is_last: bool, replaces: bool) -> None:
    if step.path.is_dir():  # moving it aside would succeed
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(step.path))
    if not is_last:  # the last one is replaced in one step, and nothing can fail after it
        undo.callback(_bring_back, step)
        try:
            step.path.replace(step.old)
        except FileNotFoundError:
            if replaces and not step.old.exists():
                step.nothing.touch()
    step.new.replace(step.path)


def _bring_back(step: _Step) -> None:
    if not step.new.exists() and not step.old.exists():
        remove(step.path)
    _restore(step)
    remove(step.nothing)


def _restore(step: _Step) -> None:
    with suppress(OSError):  # brought back already, with the file that was to replace it
        step.old.replace(step.path)


def _remove_all(steps: Iterable[_Step]) -> None:
    for step in steps:
        remove(step.new)


def _needed(steps: Iterable[_Step]) -> int:
    needed = 0
    for step in steps:
        if isinstance(step.content, Path):
            try:
                needed += step.content.stat().st_size
            except OSError as error:
                raise OutputError(
                    f"cannot write {step.path}: its scratch file {step.content} cannot be read: {error.strerror}: run "
                    "again, and let nobody tidy up TMPDIR meanwhile"
                ) from error
        elif step.content is not None:
            needed += sum(map(len, step.content))
    return needed


def _sync_folder(folder: Path) -> None:
    """Make renames survive a loss of power, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
