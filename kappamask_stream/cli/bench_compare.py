"""``kappamask-stream bench compare``."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.bench.compare import Compared, Comparison
    from kappamask_stream.bench.types import BenchReport

_WIDTH = 100
_NAME = 42
_PERCENT = 100


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="File that `bench --json` wrote.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one, later or elsewhere.", show_default=False)],
    noise: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            min=0,
            help="Changes up to this are taken for noise; twice as much for the ends of distributions (p99).",
        ),
    ] = 5.0,
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above",
            metavar="PERCENT",
            min=0,
            help="Exit with 1 when throughput, CPU time, latency or memory got worse by more than this, a level or a "
            "point is not measured any more, something new failed, or model, product, transport or settings differ.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing rounded.")] = False,
) -> None:
    """Compare two benchmarks: each figure, its change, and whether that is more than noise.

    Differences of machine, model, product and versions are told first: ratios carry over from machine to machine,
    times do not.

    Example: kappamask-stream bench compare before.json after.json
             kappamask-stream bench compare main.json branch.json --fail-above 10
    """
    from kappamask_stream.bench.compare import compare as compare_reports
    from kappamask_stream.bench.document import read_report
    from kappamask_stream.errors import InputError

    one, other = read_report(before), read_report(after)
    found = compare_reports(one, other, noise=noise / _PERCENT)
    if not any(figure.change is not None for figure in found.figures):
        raise InputError(f"{before.name} and {after.name} have no figure in common: they measured different levels")
    worse = [] if fail_above is None else found.worse_than(fail_above / _PERCENT)
    typer.echo(json.dumps(_document(one, other, found, worse)) if as_json else _page(one, other, found))
    stopped = [] if fail_above is None else _reasons(found, worse, fail_above)
    for reason in stopped:
        typer.echo(reason, err=True)
    if stopped:
        raise typer.Exit(1)


def _reasons(found: Comparison, worse: Sequence[Compared], fail_above: float) -> list[str]:
    """Say why the second benchmark does not pass, a line for each kind of reason."""
    reasons = []
    if found.unlike:
        reasons.append(f"nothing can be concluded, these differ: {'; '.join(found.unlike)}")
    if worse:
        reasons.append(f"worse by more than {fail_above:g} %: {_names(worse)}")
    if found.gone:
        reasons.append(f"not measured any more: {', '.join(found.gone)}")
    if found.gone_figures:
        reasons.append(f"not measured any more: {_names(found.gone_figures)}")
    reasons += [f"failed, and did not before: {' '.join(failure.split())}" for failure in found.new_failures]
    return reasons


def _names(figures: Sequence[Compared]) -> str:
    return ", ".join(f"{each.figure.level}: {each.figure.name}" for each in figures)


def _document(one: BenchReport, other: BenchReport, found: Comparison, worse: Sequence[Compared]) -> dict[str, Any]:
    """Return the comparison for programs."""
    return {
        "schema": "kappamask-stream/bench-comparison",
        "version": 1,
        "before": _origin(one),
        "after": _origin(other),
        "noise": found.noise,
        "differences": list(found.differences),
        "unlike": list(found.unlike),
        "levels_gone": list(found.gone),
        "new_failures": list(found.new_failures),
        "figures": [
            {
                "level": each.figure.level,
                "name": each.figure.name,
                "unit": each.figure.unit or None,
                "better": each.figure.better,
                "before": each.before,
                "after": each.after,
                "change": each.change,
                "verdict": each.verdict,
                "too_much_worse": each in worse,
            }
            for each in found.figures
        ],
    }


def _origin(report: BenchReport) -> dict[str, Any]:
    return {
        "model": report.model,
        "product": report.product,
        "commit": report.environment.commit,
        "time": report.environment.time,
        "limit": None if report.verdict is None else report.verdict.limit,
    }


def _page(one: BenchReport, other: BenchReport, found: Comparison) -> str:
    lines = [f"{name} {_what(report)}" for name, report in (("A", one), ("B", other))]
    if found.differences:
        lines += ["", "Not the same in both; ratios carry over from machine to machine, times do not:"]
        for difference in found.differences:
            lines += textwrap.wrap(difference, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    level = ""
    for each in found.figures:
        if each.figure.level != level:
            level = each.figure.level
            lines += ["", f"{level.upper():<{_NAME}}{'A':>14}{'B':>14}{'change':>12}"]
        lines.append(_line(each))
    percent = _PERCENT * found.noise
    lines += ["", f"Up to {percent:g} % ({2 * percent:g} % for p99 and the time to write) is taken for noise."]
    return "\n".join(lines)


def _what(report: BenchReport) -> str:
    commit = (report.environment.commit or "unknown commit")[:12]
    dirty = "+" if (report.environment.commit or "").endswith("+") else ""
    return f"{report.environment.time}  {commit}{dirty}  {report.model}"


def _line(each: Compared) -> str:
    from kappamask_stream.bench.wording import number

    unit = f" {each.figure.unit}" if each.figure.unit and each.figure.unit != "tiles/s" else ""
    before, after = ("-" if v is None else number(v) + unit for v in (each.before, each.after))
    change = "" if each.change is None else f"{_PERCENT * each.change:+.1f} %"
    said = "" if each.verdict == "same" else each.verdict
    return f"{each.figure.name:<{_NAME}}{before:>14}{after:>14}{change:>12}  {said}".rstrip()
