"""Fuzz the parsers that see outside bytes: ``python -m tests.fuzz.run --runs N --seconds S --jobs J [NAME ...]``.

Each ``NAME_target.py`` beside this file has ``seeds()``, ``one_input(data)`` and, where it helps, ``dictionary()`` (words),
``mutate(data, rng)`` (another input, by rules of its own), ``LONGEST`` (bytes of an input, 4096 without it; where more are
allowed, a few inputs grow) and ``large()`` (inputs by name that are near the parser's limits and beyond `LONGEST`: each
child runs them once, and the regression test does, under the same limits of time and memory). It
is fuzzed in processes of its own (`child`), some targets side by side. Corpora stay in bench-output/fuzz/NAME, so that
runs accumulate; inputs that are findings go to tests/fuzz/findings/NAME, where test_fuzz_regressions.py runs them.
Exit 1 with findings.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.campaign import Campaign

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE = "tests.fuzz"
_PROGRESS_S = 10.0
_HEADERS = (
    "parser", "executions", "exec/s", "coverage", "new", "corpus", "findings", "worst/input", "most MB/input", "peak MB",
)  # fmt: skip


def targets(package: str = _PACKAGE) -> list[str]:
    """Return the names of all targets."""
    folder = Path(*package.split("."))
    return sorted(path.name.removesuffix("_target.py") for path in folder.glob("*_target.py"))


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz, print the table, write it as JSON."""
    options = _options(argv)
    names = options.names or targets(options.package)
    unknown = sorted(set(names) - set(targets(options.package)))
    if unknown:
        print(
            f"there is no target {', '.join(unknown)}: there are {', '.join(targets(options.package))}", file=sys.stderr
        )
        return 2
    campaigns = [
        Campaign(
            name=name, package=options.package, runs=options.runs, seconds=options.seconds,
            folder=options.output / "fuzz" / name, findings_folder=options.findings / name,
        )
        for name in names
    ]  # fmt: skip
    _run_all(campaigns, options.jobs)
    print(f"\n{table(campaigns)}")
    for campaign in campaigns:
        _explain(campaign)
    said = {campaign.name: _said(campaign) for campaign in campaigns}
    (options.output / "fuzz.json").write_text(json.dumps(said, indent=2) + "\n")
    return 1 if any(campaign.findings or campaign.broken for campaign in campaigns) else 0


def table(campaigns: Sequence[Campaign]) -> str:
    """Return a table, a line for each target."""
    rows = [_HEADERS, *(_row(campaign) for campaign in campaigns)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADERS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all without any")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seconds", type=float, default=3600, help="for each target at most")
    parser.add_argument("--jobs", type=int, default=2, help="targets side by side")
    parser.add_argument("--output", type=Path, default=Path("bench-output"), help="for corpora and fuzz.json")
    parser.add_argument(
        "--findings", type=Path, default=Path("tests/fuzz/findings"), help="for inputs that are findings"
    )
    parser.add_argument("--package", default=_PACKAGE, help="of the targets")
    return parser.parse_args(argv)


def _run_all(campaigns: Sequence[Campaign], jobs: int) -> None:
    over = threading.Event()
    begin = time.monotonic()

    def tell() -> None:
        while not over.wait(_PROGRESS_S):
            for campaign in campaigns:
                if campaign.is_running:
                    print(f"{time.monotonic() - begin:7.0f} s  {_progress(campaign)}", flush=True)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(campaign.run) for campaign in campaigns]
        try:
            for one in running:
                one.result()
        except BaseException:
            for one, campaign in zip(running, campaigns, strict=True):
                one.cancel()
                campaign.stop()
            raise
        finally:
            over.set()
            telling.join()


def _progress(campaign: Campaign) -> str:
    return (
        f"{campaign.name:<16} {campaign.executions:>12,} of {campaign.runs:,} inputs, coverage {campaign.coverage:,}, "
        f"{len(campaign.findings)} findings"
    )


def _row(campaign: Campaign) -> tuple[str, ...]:
    rate = campaign.executions / max(campaign.seconds_spent, 1e-3)
    told = campaign.told
    return (
        campaign.name, f"{campaign.executions:,}", f"{rate:,.0f}", f"{campaign.coverage:,}",
        f"+{campaign.coverage - campaign.coverage_before:,}", f"{campaign.corpus:,}",
        "broken" if campaign.broken else f"{len(campaign.findings)}", f"{1000 * told.get('worst_s', 0):,.1f} ms",
        f"{told.get('most_bytes', 0) / 2**20:,.0f}", f"{told.get('peak_rss_bytes', 0) / 2**20:,.0f}",
    )  # fmt: skip


def _explain(campaign: Campaign) -> None:
    if campaign.broken:
        print(f"\n{campaign.name}: {campaign.broken}")
    if campaign.passing:
        print(
            f"\n{campaign.name}: {campaign.passing} slow inputs are quick without instrumentation: none of the findings"
        )
    for found in campaign.findings:
        print(f"\n{campaign.name} {found.kind}: {found.said}\n  {found.file}\n{found.explained}")


def _said(campaign: Campaign) -> dict[str, Any]:
    return {
        "executions": campaign.executions, "seconds": round(campaign.seconds_spent, 1),
        "coverage": campaign.coverage, "coverage_before": campaign.coverage_before, "corpus": campaign.corpus,
        "findings": [asdict(found) for found in campaign.findings], "broken": campaign.broken, **campaign.told,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
