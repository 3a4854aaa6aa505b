"""Files that appear whole or not at all, several together; and why a file could not be written, in words."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import OutputError
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: A temporary file lives for seconds; on a shared folder one of another machine's is left alone for this long.
_FOREIGN_AGE_S = 24 * 3600
_NEW, _OLD = "part", "old"

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


async def publish(files: Sequence[tuple[Path, Sequence[bytes] | Path]]) -> None:
    """Write files under hidden names in their folders, then rename them in the order given; in threads.

    So the last file stands for all of them: it is there only when the others are. A failure leaves no temporary
    file, and under the final names what was there before. So does a cancellation before the first rename; after
    it, all files get their names before the cancellation goes on.

    Parameters
    ----------
    files : path and content of each: bytes in pieces, or a scratch file, which is moved (from another file system:
        copied) and gone afterwards.

    Raises
    ------
    OutputError
        Naming the path, the bytes needed by all files, the bytes free, and the remedy.
    """
    paths = [path for path, _ in files]
    needed = sum([await in_thread(None, _size, content) for _, content in files])
    try:
        await in_thread(None, _write_all, files, needed)
        await in_thread(None, _rename_all, paths, needed)
    finally:
        _remove_all(paths)


def remove_stale(paths: Iterable[Path]) -> None:
    """Remove what writers of `paths` left that were killed; call it while nobody in this process writes them."""
    names: dict[Path, list[str]] = {}
    for path in paths:
        names.setdefault(path.parent, []).append(re.escape(path.name))
    for folder, known in names.items():
        pattern = re.compile(rf"\.(?:{'|'.join(known)})\.(?P<host>.*)\.(?P<pid>\d+)\.({_NEW}|{_OLD})")
        with suppress(OSError):
            for found in folder.iterdir():
                match = pattern.fullmatch(found.name)
                if match and _is_abandoned(found, match["host"], int(match["pid"])):
                    _remove(found)


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


def _hidden(path: Path, kind: str) -> Path:
    # Host and process: two workers on a shared folder must not write into each other's file.
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{kind}")


def _write_all(files: Sequence[tuple[Path, Sequence[bytes] | Path]], needed: int) -> None:
    for path, content in files:
        try:
            _write(_hidden(path, _NEW), content)
        except OSError as error:
            _remove_all(path for path, _ in files)  # now: what they took counts as free
            raise output_error(path, error, needed) from error


def _write(hidden: Path, content: Sequence[bytes] | Path) -> None:
    if isinstance(content, Path):
        shutil.move(content, hidden)
    else:
        with hidden.open("wb") as file:
            file.writelines(content)
    with hidden.open("rb") as file:
        os.fsync(file.fileno())


def _rename_all(paths: Sequence[Path], needed: int) -> None:
    """Give temporary files their names; if one cannot have it, bring back what the earlier ones replaced."""
    with ExitStack() as undo:
        for path in paths:
            try:
                if path.is_dir():  # moving it aside would succeed
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                if path != paths[-1]:  # the last one is replaced in one step, and nothing can fail after it
                    with suppress(FileNotFoundError):
                        path.replace(_hidden(path, _OLD))
                    undo.callback(_bring_back, path)
                _hidden(path, _NEW).replace(path)
            except OSError as error:
                raise output_error(path, error, needed) from error
        undo.pop_all()
    for path in paths:
        _remove(_hidden(path, _OLD))
    for folder in {path.parent for path in paths}:
        _sync_folder(folder)


def _bring_back(path: Path) -> None:
    old = _hidden(path, _OLD)
    if not old.exists():
        _remove(path)
        return
    with suppress(OSError):
        old.replace(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        _remove(_hidden(path, _NEW))


def _size(content: Sequence[bytes] | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else sum(map(len, content))


def _sync_folder(folder: Path) -> None:
    """Make renames survive a loss of power, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_abandoned(path: Path, host: str, pid: int) -> bool:
    if host != platform.node():
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE_S
    if pid == os.getpid():  # of an earlier process of this number: containers restart with the same ones
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
