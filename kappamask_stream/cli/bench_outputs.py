"""What `bench` writes: looked at before anything is measured, written whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kappamask_stream.atomic import output_error, publish
from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from kappamask_stream.bench.types import BenchReport

_STDOUT = "-"
PLOT_FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where results go.

    Attributes
    ----------
    prints_json : True prints JSON on stdout, and not the page.
    json_file, plot, perf_analyzer : paths; None where not asked for.
    """

    prints_json: bool
    json_file: Path | None
    plot: Path | None
    perf_analyzer: Path | None

    @classmethod
    def of(cls, *, json_file: str | None, plot: Path | None, perf_analyzer: Path | None) -> Self:
        """Take what was given; ``-`` for the JSON file is stdout."""
        return cls(
            prints_json=json_file == _STDOUT,
            json_file=None if json_file in (None, _STDOUT) else Path(str(json_file)),
            plot=plot,
            perf_analyzer=perf_analyzer,
        )

    def require(self) -> None:
        """Find out now what would only be found out when everything is measured.

        Raises
        ------
        UsageError
            If a picture of this kind cannot be made, or two outputs have one name.
        OutputError
            If a file cannot be written where it should be.
        """
        if self.plot is not None:
            _require_plotting(self.plot)
        named = {"--json": self.json_file, "--plot": self.plot, "--perf-analyzer": self.perf_analyzer}
        seen: dict[Path, str] = {}
        for flag, path in named.items():
            if path is None:
                continue
            other = seen.setdefault(path.absolute(), flag)
            if other != flag:
                raise UsageError(f"{other} and {flag} both name {path}: give them files of their own")
            _require_writable(path, flag)

    async def write(self, report: BenchReport) -> None:
        """Write the JSON file and the picture.

        Raises
        ------
        OutputError
            Naming the file and the remedy.
        """
        from kappamask_stream.bench.document import to_json

        files: list[tuple[Path, list[bytes]]] = []
        if self.json_file is not None:
            files.append((self.json_file, [to_json(report).encode()]))
        if self.plot is not None:
            from kappamask_stream.bench.plot import plotted

            files.append((self.plot, [plotted(report, _format(self.plot))]))
        if files:
            await publish(files)


def _require_plotting(path: Path) -> None:
    if _format(path) not in PLOT_FORMATS:
        raise UsageError(f"--plot {path}: the name must end in .{', .'.join(PLOT_FORMATS[:-1])} or .{PLOT_FORMATS[-1]}")
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed: pip install 'kappamask-stream[plot]'")


def _require_writable(path: Path, flag: str) -> None:
    elsewhere = f"give another name with {flag}"
    if path.is_dir():
        raise output_error(path, IsADirectoryError(21, "Is a directory"), elsewhere=elsewhere)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise output_error(path, error, elsewhere=elsewhere) from error


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
