"""What `bench` writes: looked at before anything is measured, written whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kappamask_stream.atomic import output_error, publish
from kappamask_stream.errors import OutputError, UsageError

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
    json_file, plot, perf_analyzer : paths as they were given; None where not asked for. What is written is what a
        symbolic link leads to, which stays one.
    """

    prints_json: bool
    json_file: Path | None
    plot: Path | None
    perf_analyzer: Path | None

    @classmethod
    def of(cls, *, json_file: str | None, plot: Path | None, perf_analyzer: Path | None) -> Self:
        """Take what was given; ``-`` for the JSON file is stdout.

        Raises
        ------
        UsageError
            If the JSON file has no name.
        """
        if json_file is not None and not json_file.strip():
            raise UsageError(f"--json {json_file!r}: give the name of a file, or - for stdout")
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
            other = seen.setdefault(_target(path), flag)
            if other != flag:
                raise UsageError(f"{other} and {flag} both name {path}: give them files of their own")
            _require_writable(path, flag)

    async def write(self, report: BenchReport) -> None:
        """Write the JSON file, then the picture: whatever ails the drawing, what was measured is kept.

        Raises
        ------
        OutputError
            Naming the file and the remedy.
        """
        from kappamask_stream.bench.document import to_json

        if self.json_file is not None:
            await publish([(_target(self.json_file), [to_json(report).encode()])])
        if self.plot is not None:
            from kappamask_stream.bench.plot import plotted

            await publish([(_target(self.plot), [plotted(report, _format(self.plot))])])

    @property
    def perf_analyzer_target(self) -> Path | None:
        """The file that receives tiles for `perf_analyzer`, behind whatever link."""
        return None if self.perf_analyzer is None else _target(self.perf_analyzer)


def _require_plotting(path: Path) -> None:
    if _format(path) not in PLOT_FORMATS:
        raise UsageError(f"--plot {path}: the name must end in .{', .'.join(PLOT_FORMATS[:-1])} or .{PLOT_FORMATS[-1]}")
    remedy = "pip install 'kappamask-stream[plot]'"
    try:
        import_module("kappamask_stream.bench.plot")
    except Exception as error:  # whatever ails matplotlib would throw the measurement away
        if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib":
            raise UsageError(f"--plot needs matplotlib, which is not installed: {remedy}") from error
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"--plot needs matplotlib, which cannot be imported ({said}): {remedy}") from error


def _require_writable(path: Path, flag: str) -> None:
    elsewhere = f"give another name with {flag}"
    if path.is_dir():
        raise output_error(path, IsADirectoryError(21, "Is a directory"), elsewhere=elsewhere)
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is no regular file, and would be replaced by one: {elsewhere}")
    try:
        with tempfile.TemporaryFile(dir=_target(path).parent):
            pass
    except OSError as error:
        raise output_error(path, error, elsewhere=elsewhere) from error


def _target(path: Path) -> Path:
    """Return what a path leads to: to write a link's own name would make a file of the link.

    Raises
    ------
    OutputError
        If links lead in a circle.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write {path}: its links lead nowhere: give another name") from error


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
