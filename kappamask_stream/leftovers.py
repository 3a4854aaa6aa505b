"""Temporary files beside their final names, and what becomes of those whose writers were killed."""

from __future__ import annotations

import glob
import itertools
import os
import platform
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.whereabouts import boot, pid_namespace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

#: What a temporary file is: new content; what has the name, moved aside; an empty one, which says that nothing had it.
NEW, OLD, NOTHING = "part", "old", "none"

#: A temporary file lives for seconds; on a shared folder one of another machine's is left alone for this long.
_FOREIGN_AGE_S = 24 * 3600
#: Tells this process from an earlier one of the same number (containers restart with the same ones), and its writers
#: from each other.
_RUN, _WRITERS = os.urandom(4).hex(), itertools.count()
#: Earlier versions' writers told less.
_WRITER = r"(?P<host>.*?)\.(?:(?P<place>[0-9a-f]+-\d+)\.)?(?P<pid>\d+)(?:\.(?P<run>[0-9a-f]{8})-\d+)?"


def new_writer() -> str:
    """Return a name that no other writer has: its machine, namespace of process ids, process, and a number."""
    return f"{platform.node()}.{_place()}.{os.getpid()}.{_RUN}-{next(_WRITERS)}"


def temporary(path: Path, writer: str, kind: str) -> Path:
    """Return the temporary name that a writer uses in the place of `path`."""
    return path.with_name(f".{path.name}.{writer}.{kind}")


def tidy(paths: Sequence[Path]) -> None:
    """Undo what killed writers of `paths` had begun, and remove what they left.

    A writer that still has new content to be renamed was killed before its files were there together: what it had moved
    aside comes back, unless somebody else has written the same names since. What cannot be done is left.

    Parameters
    ----------
    paths : the first one comes back first, the last one last, the writer's other files before it.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    for folder, known in folders.items():
        with suppress(OSError):
            for writer in _abandoned(folder, known):
                _Left.of(folder, writer, known).tidy()


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What one writer left in a folder and those in it: final names by temporary ones."""

    known: Sequence[Path]
    new: dict[Path, Path]
    old: dict[Path, Path]
    nothing: dict[Path, Path]

    @classmethod
    def of(cls, folder: Path, writer: str, known: Sequence[Path]) -> _Left:
        def found(kind: str) -> dict[Path, Path]:
            end = f".{writer}.{kind}"
            hidden = folder.rglob(f".*{glob.escape(end)}")
            return {path: path.with_name(path.name[1 : -len(end)]) for path in hidden}

        return cls(known=known, new=found(NEW), old=found(OLD), nothing=found(NOTHING))

    def tidy(self) -> None:
        if not self.new or self._are_replaced():
            for path in (*self.old, *self.nothing, *self.new):
                remove(path)
        elif self._undo():
            # Last: as long as new content is there, whoever comes next goes on with undoing.
            for path in self.new:
                remove(path)

    def _undo(self) -> bool:
        """Bring back what can be; tell whether that is all."""
        is_all = True
        for mark, path in self.nothing.items():
            remove(path)
            remove(mark)
        for old, path in sorted(self.old.items(), key=lambda both: self._rank(both[1])):
            try:
                old.replace(path)
            except FileNotFoundError:
                continue  # another process undoes it as well
            except OSError:
                is_all = False
        return is_all

    def _are_replaced(self) -> bool:
        """Tell whether something was written under the final names after the writer's death.

        A renamed file keeps the time of its content and gets a new one of its change.
        """
        moved = max((path.stat().st_ctime_ns for path in (*self.old, *self.nothing)), default=0)
        return any(_written(path) > moved > 0 for path in {*self.known, *self.old.values()})

    def _rank(self, path: Path) -> int:
        last = len(self.known) - 1
        return self.known.index(path) * 2 if path in self.known else last * 2 - 1


def remove(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _abandoned(folder: Path, known: Iterable[Path]) -> list[str]:
    """Return the writers of known names that are dead."""
    names = "|".join(re.escape(path.name) for path in known)
    pattern = re.compile(rf"\.(?:{names})\.(?P<writer>{_WRITER})\.(?:{NEW}|{OLD}|{NOTHING})")
    dead: dict[str, bool] = {}
    for found in folder.iterdir():
        match = pattern.fullmatch(found.name)
        if match is not None:
            with suppress(FileNotFoundError):  # its writer has just ended its work
                dead[match["writer"]] = dead.get(match["writer"], True) and _is_abandoned(found, match)
    return [writer for writer, is_dead in dead.items() if is_dead]


def _is_abandoned(path: Path, writer: re.Match[str]) -> bool:
    if (writer["host"], writer["place"]) != (platform.node(), _place()):
        # Of its change: a file that was moved aside has the time of its content, long ago.
        return time.time() - path.stat().st_ctime > _FOREIGN_AGE_S
    pid = int(writer["pid"])
    if pid == os.getpid():
        return writer["run"] != _RUN
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _place() -> str:
    return f"{boot()[:8]}-{pid_namespace()}"


def _written(path: Path) -> int:
    with suppress(OSError):
        said = path.stat()
        return said.st_mtime_ns if stat.S_ISREG(said.st_mode) else 0
    return 0
