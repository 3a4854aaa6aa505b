"""``kappamask-stream config …``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kappamask_stream.cli.queue_options import QUEUE_FLAGS
from kappamask_stream.cli.setting_flags import MASKING_FLAGS, NO_FLAGS, SettingFlags, takes_setting_flags
from kappamask_stream.cli.worker_options import TRITON_FLAGS, WORKER_FLAGS

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
@takes_setting_flags(MASKING_FLAGS, QUEUE_FLAGS, WORKER_FLAGS, TRITON_FLAGS)
def show(
    flags: SettingFlags = NO_FLAGS,
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

    found = origins(**flags, server_env=server_env, weights_url=weights_url)
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
    if isinstance(value, tuple):
        return [_shown(one) for one in value]
    return _CREDENTIALS_IN_URL.sub("***@", str(value))
