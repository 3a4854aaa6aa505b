"""``kappamask-stream models fetch``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kappamask_stream.cli.completion import complete_published

if TYPE_CHECKING:
    from kappamask_stream.settings import Settings
    from kappamask_stream.weights import PublishedWeights
    from kappamask_stream.weights.fetching import Fetched

_DEFAULT = "kappamask_l2a_deeplabv3plus"


def fetch(
    model: Annotated[
        str,
        typer.Argument(
            help="Model whose weights to fetch, from `models list` (one file serves all its precisions), or all. The "
            "default is what `run` uses for L2A products when it is told nothing else.",
            metavar="MODEL|all",
            autocompletion=complete_published,
        ),
    ] = _DEFAULT,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Folder of the files on a mirror. [default: KAPPAMASK_WEIGHTS_URL, or KappaZeta's]"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Fetch anew what is there, and take it even if it is another file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file, and nothing else.")] = False,
) -> None:
    """Download KappaMask's weights as KappaZeta publishes them (99 MB for DeepLabv3+, 124 MB for U-Net).

    They are kept in the user's cache folder (KAPPAMASK_WEIGHTS_DIR names another). What has arrived when it is
    interrupted stays, and the next call goes on from there. The file's sha256 is recorded the first time and compared
    whenever the file is used; another file under the same name is taken with --replace only. `run` and `models build`
    use it when no --weights is given. No licence is stated for the weights beyond the Apache-2.0 of km_predict.

    Example: kappamask-stream models fetch kappamask_l2a_deeplabv3plus
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.settings import load_settings
    from kappamask_stream.weights import LICENCE

    settings, wanted = load_settings(weights_url=url), _published(model)
    if not as_json:
        typer.echo(LICENCE, err=True)
    for published in wanted:
        fetched = run_command(_fetch_shown(published, settings, replace=replace, as_json=as_json))
        if as_json:
            document = asdict(fetched.record) | {"status": fetched.status, "warning": fetched.warning}
            typer.echo(
                json.dumps({"model": published.model, "path": str(fetched.path), **document, "licence": LICENCE})
            )
            continue
        if fetched.warning:
            typer.echo(f"warning: {fetched.warning}", err=True)
        there = "was there already; " if fetched.status == "there" else ""
        typer.echo(f"{fetched.path} ({there}{fetched.record.bytes} bytes, sha256 {fetched.record.sha256})")


def _published(model: str) -> list[PublishedWeights]:
    """Return the files that a name stands for."""
    from kappamask_stream.errors import UsageError
    from kappamask_stream.weights import PUBLISHED, of_model

    if model == "all":
        return list(PUBLISHED.values())
    published = of_model(model)
    if published is None:
        raise UsageError(f"no weights are published for {model!r}; there are those of {', '.join(PUBLISHED)}, and all")
    return [published]


async def _fetch_shown(published: PublishedWeights, settings: Settings, *, replace: bool, as_json: bool) -> Fetched:
    from kappamask_stream.cli.download_progress import download_progress
    from kappamask_stream.weights import WeightsCache
    from kappamask_stream.weights.fetching import fetch as fetch_file

    cache = WeightsCache.at(settings.weights_dir)
    with download_progress(published.file_name, enabled=not as_json) as (on_progress, say):
        return await fetch_file(
            published, cache, settings.weights_url, replace=replace, on_progress=on_progress, say=say
        )
