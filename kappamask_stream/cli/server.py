"""``kappamask-stream server …``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from kappamask_stream.cli.completion import complete_served

app = typer.Typer(
    no_args_is_help=True,
    help="""The Triton server on this machine: install, start, stop, look.

Example: kappamask-stream server install
""",
)

_ENV_HELP = "The server's environment. [default: KAPPAMASK_SERVER_ENV, or in the user's data folder]"
Environment = Annotated[Path | None, typer.Option("--env", envvar="KAPPAMASK_SERVER_ENV", help=_ENV_HELP)]


@app.command()
def install(env: Environment = None) -> None:
    """Make the server's Python environment (about 1 GB on disk), once.

    Example: kappamask-stream server install
    """
    from kappamask_stream.server import ServerEnvironment, install_environment, server_status

    environment = ServerEnvironment.at(env)
    install_environment(
        environment,
        lambda text: typer.echo(text, err=True),
        in_use=lambda: asyncio.run(server_status(env)) is not None,
    )
    typer.echo(environment.path)


@app.command()
def start(
    model: Annotated[
        str, typer.Option(help="Model to load, e.g. csmask_l2a.", autocompletion=complete_served)
    ] = "csmask_l2a",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="gRPC port on 127.0.0.1. [default: any free one]")
    ] = None,
    env: Environment = None,
) -> None:
    """Start the server and keep it running until `server stop`.

    Example: kappamask-stream server start --model csmask_l2a --port 8001
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.server import lease_local_server
    from kappamask_stream.settings import load_settings
    from kappamask_stream.weights import WeightsCache

    weights = WeightsCache.at(load_settings().weights_dir).verified(model)

    async def hold() -> str:
        async with lease_local_server(
            model=model,
            weights=weights,
            env=env,
            keep=True,
            port=port,
            on_progress=lambda text: typer.echo(text, err=True),
        ) as server:
            return server.grpc_address

    typer.echo(f"grpc://{run_command(hold())}")


@app.command()
def status(
    env: Environment = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether the server runs, where, with which models and for whom.

    Example: kappamask-stream server status --json
    """
    from kappamask_stream.server import server_status

    found = asyncio.run(server_status(env)) or {"running": False}
    found.pop("event", None)
    if as_json:
        typer.echo(json.dumps(found))
    elif not found["running"]:
        typer.echo("not running")
    else:
        typer.echo(
            f"running at grpc://{found['grpc']}, models: {', '.join(found['models']) or 'none'}; "
            f"{found['leases']} leases{', kept' if found['hold'] else ''}; log: {found['log']}"
        )


@app.command()
def stop(env: Environment = None) -> None:
    """End the server, also for runs that use it.

    Example: kappamask-stream server stop
    """
    from kappamask_stream.server import stop_server

    typer.echo("stopped" if asyncio.run(stop_server(env)) else "not running")


@app.command()
def logs(
    env: Environment = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines from the end.")] = 40,
) -> None:
    """Print the end of Triton's log.

    Example: kappamask-stream server logs -n 100
    """
    from kappamask_stream.errors import ServerSetupError
    from kappamask_stream.server import ServerEnvironment
    from kappamask_stream.server.lease import state_folder

    path = state_folder(ServerEnvironment.at(env)) / "tritonserver.log"
    if not path.exists():
        raise ServerSetupError(f"there is no log at {path}: the server has not run yet")
    text = path.read_text(encoding="utf-8", errors="replace")
    typer.echo("\n".join(text.splitlines()[-lines:]))
