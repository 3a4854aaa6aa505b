"""What was sent to a queue, so that an interrupted backfill goes on, and nothing is sent twice. SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from kappamask_stream.errors import UsageError
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: "kmsb": tells a state file from other databases.
_APPLICATION = 0x6B6D7362
_VERSION = 1
#: Seconds to wait for another process that writes to the same file.
_BUSY_S = 10.0
#: Questions about so many names at once; SQLite takes 999 parameters everywhere.
_AT_ONCE = 500
_COLUMNS = "(queue TEXT, product TEXT, PRIMARY KEY (queue, product)) WITHOUT ROWID"


class SentProducts:
    """Names of products that a queue was sent; an async context manager.

    It grows on disk, not in memory. All work is done in threads, by one task at a time.

    Parameters
    ----------
    file : where it is kept; None: in a temporary file, which goes with this object.
    queue : URL of the queue; one file may hold several.
    keep : False: what is added is forgotten at the end, for a dry run.

    State: the connection.
    """

    def __init__(self, file: Path | None, queue: str, *, keep: bool = True) -> None:
        self.file, self.queue, self.keep = file, queue, keep
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<SentProducts {self.file or 'in a temporary file'}, {self.queue}>"

    async def __aenter__(self) -> Self:
        """Open the file, or make it.

        Raises
        ------
        UsageError
            If it cannot be opened, is none of these, or of another version.
        """
        self._connection = await in_thread(None, self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await in_thread(None, connection.close)

    async def unknown(self, names: Sequence[str]) -> set[str]:
        """Return those of the names that were not sent yet."""
        return set(names) - await in_thread(None, self._known, list(names))

    async def add(self, names: Sequence[str]) -> None:
        """Remember names; they are on disk when this returns.

        Raises
        ------
        UsageError
            If the file cannot be written.
        """
        await in_thread(None, self._add, list(names))

    def _open(self) -> sqlite3.Connection:
        is_kept = self.file is not None and (self.keep or self.file.exists())
        if is_kept and self.file is not None and not self.file.parent.is_dir():
            raise UsageError(f"--state {self.file}: there is no folder {self.file.parent}: make it")
        try:
            # "" is SQLite's own temporary database, which spills to disk.
            connection = sqlite3.connect(
                str(self.file) if is_kept else "", timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        try:
            self._prepare(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from error
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables, or check that they are those of this version."""
        connection.execute(f"CREATE TEMP TABLE seen {_COLUMNS}")
        with _transaction(connection):  # another process may be making the same file
            if connection.execute("SELECT count(*) FROM main.sqlite_master").fetchone()[0] == 0:
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute(f"CREATE TABLE sent {_COLUMNS}")
            said = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if said != [_APPLICATION, _VERSION]:
            raise UsageError(
                f"--state {self.file} is a database, but none that this version of `submit` wrote: name another file"
            )

    def _known(self, names: list[str]) -> set[str]:
        found: set[str] = set()
        try:
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                for table in ("main.sent", "temp.seen"):
                    query = f"SELECT product FROM {table} WHERE queue = ? AND product IN ({marks})"  # noqa: S608
                    found.update(row[0] for row in self._open_connection().execute(query, [self.queue, *some]))
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return found

    def _add(self, names: list[str]) -> None:
        connection, table = self._open_connection(), "main.sent" if self.keep else "temp.seen"
        rows = [(self.queue, name) for name in names]
        try:
            with _transaction(connection):
                connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", rows)  # noqa: S608 - one of two
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError("SentProducts is used as `async with SentProducts(...)`")
        return self._connection

    def _unusable(self, error: Exception) -> UsageError:
        return UsageError(f"--state {self.file} cannot be used: {error}; name another file")

    def _failed(self, error: sqlite3.Error) -> UsageError:
        where = self.file or "in a temporary file"
        return UsageError(f"--state {where} cannot be read or written: {error}; what was sent last may be sent again")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
