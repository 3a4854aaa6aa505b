"""A product of several tiles and blocks and all that is made of it: undisturbed once, then again with faults."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.warm_cli import WarmCli
from tests.stream.scene import _scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.faults.failing_calls import Failing
    from tests.faults.warm_cli import Ended
    from tests.integration.session import SessionServer

#: Everything that a run can write beside the mask.
ALL = ("--png", "--stac", "--probabilities", "--subtiles", "--report")
#: Pixels of 10 m of the product; the mask's 660 of 20 m are `TILES` tiles, one every 204, and 2 x 2 blocks of 512, cut
#: from 2 x 2 codestream tiles of 640.
SIZE = 1320
TILES = 16
#: Ends of the paths of tiles whose pictures are written by the same calls as the others', when calls are counted.
ALIKE = tuple(f"_tiles/tile_{col}_{row}/" for col in range(4) for row in range(4) if (col, row) not in ((0, 0), (2, 1)))
#: Where a run may be, told by the tiles that it has answered.
STAGES = ("before the first tile", "between tiles", "after the last tile")


class Plant:
    """One product, an output folder and a folder for temporary files.

    Attributes
    ----------
    folder : holds all of it.
    out, tmp : the two folders.
    whole : what an undisturbed run makes, by relative path.
    seconds : that a process of its own took for it.
    """

    def __init__(self, folder: Path, product: Path, cli: WarmCli) -> None:
        self.folder, self.out, self.tmp, self.cli = folder, folder / "out", folder / "tmp", cli
        self.product = product
        self.fresh()
        ended = self.run()
        assert ended.code == 0, ended.err
        self.whole = self.made()
        assert self.tiles() == TILES
        self.fresh()
        started = time.monotonic()
        process = self.start()
        assert process.wait(120) == 0
        self.seconds = time.monotonic() - started

    def arguments(self, options: Sequence[str] = ALL) -> list[str]:
        """Return the command line: on the session's server as the local one, so with a lease and shared memory."""
        return ["run", str(self.product), "--model", "null_l2a", "--output", str(self.out), *options]

    def run(self, options: Sequence[str] = ALL, *, failing: Failing | None = None) -> Ended:
        """Run it in a fork."""
        return self.cli(*self.arguments(options), failing=failing, TMPDIR=str(self.tmp))

    def start(self, options: Sequence[str] = ALL, **kept: object) -> subprocess.Popen[str]:
        """Start it as a process of its own; ``out`` and ``err`` beside the folders receive what it writes."""
        with (self.folder / "stdout").open("w") as out, (self.folder / "stderr").open("w") as err:
            given = {"stdout": out, "stderr": err, **kept}
            return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
                [sys.executable, "-m", "kappamask_stream", *self.arguments(options)],
                env={**os.environ, "TMPDIR": str(self.tmp)}, text=True, **given,
            )  # fmt: skip

    def tiles(self) -> int:
        """How many tiles the run has answered by now, or had when it ended: their pictures are there."""
        return sum(1 for _ in self.out.glob("*/*_tiles/tile_*/prediction.png"))

    def stage(self) -> str:
        """Return which of `STAGES` that is."""
        tiles = self.tiles()
        return STAGES[0 if tiles == 0 else 1 if tiles < TILES else 2]

    @property
    def said(self) -> str:
        """What the last process wrote to stderr."""
        return (self.folder / "stderr").read_text()

    def fresh(self) -> None:
        """Empty both folders."""
        for folder in (self.out, self.tmp):
            shutil.rmtree(folder, ignore_errors=True)
        self.tmp.mkdir(parents=True)

    def made(self) -> dict[str, bytes]:
        """What is in the output folder, hidden files too; but for the report, which tells how long it took."""
        found = {path.relative_to(self.out).as_posix(): path for path in self.out.rglob("*") if path.is_file()}
        return {name: b"" if name.endswith(".html") else path.read_bytes() for name, path in found.items()}

    def left(self) -> list[str]:
        """What a failed run must not leave: all but pictures of tiles, and what says of them that they are nobody's."""
        kept = ("_subtiles.json", "prediction.png", "prediction.pgw")
        return [*(name for name in self.made() if not name.endswith(kept)), *self.temporary()]

    def temporary(self) -> list[str]:
        """What is in the folder for temporary files, but for Python's own trial whether it can be written to."""
        return [path.name for path in self.tmp.iterdir() if not re.fullmatch("[a-z0-9_]{8}", path.name)]

    def require_whole(self) -> None:
        """Assert that the folders hold what an undisturbed run makes, and nothing else."""
        made = self.made()
        assert sorted(made) == sorted(self.whole)
        assert [name for name, content in self.whole.items() if made[name] != content] == []
        assert self.temporary() == []

    def require_again(self) -> None:
        """Assert that the same command now makes the set whole."""
        again = self.run()
        assert (again.code, "Traceback" in again.err) == (0, False), again.err
        self.require_whole()


@pytest.fixture(scope="session")
def plant(session_server: SessionServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """The plant of all tests, on the session's server: each begins with `Plant.fresh`, or ends with it."""
    folder, product = tmp_path_factory.mktemp("plant"), _scene(tmp_path_factory, "L2A", SIZE).path
    with WarmCli(folder) as cli:
        yield Plant(folder, product, cli)
