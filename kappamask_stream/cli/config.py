"""``kappamask-stream config …``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kappamask_stream.cli import options as given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.cli.settings_origin import SettingOrigin

app = typer.Typer(
    no_args_is_help=True,
    help="""Settings: what they are, where each comes from, a file to begin with.

Example: kappamask-stream config show
""",
)

_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")


@app.command(short_help="Show every setting, its value and where that comes from.")
def show(
    output: given.Output = None,
    compression: given.Compression = None,
    triton: given.Triton = None,
    products_at_once: given.Concurrency = None,
    max_in_flight: given.MaxInFlight = None,
    memory_budget_mb: given.MemoryBudget = None,
    s3_endpoint: given.S3Endpoint = None,
    s3_region: given.S3Region = None,
    s3_profile: given.S3Profile = None,
    s3_anonymous: given.S3Anonymous = None,
    s3_requester_pays: given.S3RequesterPays = None,
    output_s3_endpoint: given.OutputS3Endpoint = None,
    output_s3_region: given.OutputS3Region = None,
    output_s3_profile: given.OutputS3Profile = None,
    server_env: Annotated[Path | None, typer.Option("--env", help="The local server's environment.")] = None,
    weights_url: Annotated[
        str | None, typer.Option("--url", help="Folder of the weights on a mirror, as for `models fetch`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every setting, its value, and where that value comes from.

    One configuration file, KAPPAMASK_* variables and flags are looked at, in increasing order of precedence. Flags of
    other commands may be given to see what they would do. docs/settings.md describes each setting.

    Example: kappamask-stream config show --memory-budget-mb 1024
    """
    from kappamask_stream.cli.settings_origin import origins

    found = origins(
        output=output, compression=compression, triton=triton, products_at_once=products_at_once,
        max_in_flight=max_in_flight, memory_budget_mb=memory_budget_mb, server_env=server_env, weights_url=weights_url,
        s3_endpoint=s3_endpoint, s3_region=s3_region, s3_profile=s3_profile, s3_anonymous=s3_anonymous,
        s3_requester_pays=s3_requester_pays, output_s3_endpoint=output_s3_endpoint,
        output_s3_region=output_s3_region, output_s3_profile=output_s3_profile,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({o.name: {**asdict(o), "value": _shown(o.value)} for o in found}))
    else:
        typer.echo(_table(found))


@app.command(short_help="Print where the configuration file is looked for.")
def path() -> None:
    """Print where the configuration file is looked for, whether it is there or not.

    KAPPAMASK_CONFIG names another file.

    Example: kappamask-stream config path
    """
    from kappamask_stream.settings import config_path

    typer.echo(config_path())
    if not config_path().is_file():
        typer.echo("(not there; `kappamask-stream config example` prints one to begin with)", err=True)


@app.command(short_help="Print a configuration file to begin with.")
def example() -> None:
    """Print a configuration file with every setting, its default and its meaning, all of them commented out.

    Example: kappamask-stream config example > config.toml
    """
    from kappamask_stream.cli.settings_origin import example_file

    typer.echo(example_file(), nl=False)


def _table(found: Sequence[SettingOrigin]) -> str:
    lines = [(o.name, json.dumps(_shown(o.value)), o.origin) for o in found]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in lines)


def _shown(value: Any) -> Any:
    """Return a value as JSON has it; what stands before the host of a URL may be a secret."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _CREDENTIALS_IN_URL.sub("***@", str(value))
