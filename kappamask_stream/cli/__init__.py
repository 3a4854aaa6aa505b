"""The command line: `main` is the console script."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kappamask_stream import __version__
from kappamask_stream.errors import KappaMaskError

EXIT_CODES = """
Exit codes: 0 all good; 2 usage; 3 input (a product cannot be read); 4 server (Triton); 5 output (a mask cannot be
written), when all failures are of that kind; 1 when they are mixed or some products succeeded; 130 and 143 on
SIGINT and SIGTERM.
"""


def _version(value: bool) -> None:
    if value:
        typer.echo(f"kappamask-stream {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """Assemble the commands; each imports what it needs when it runs."""
    from kappamask_stream.cli.evaluate import evaluate
    from kappamask_stream.cli.info import info
    from kappamask_stream.cli.models import app as models_app
    from kappamask_stream.cli.run import run
    from kappamask_stream.cli.server import app as server_app
    from kappamask_stream.cli.synth import synth

    app = typer.Typer(
        name="kappamask-stream",
        help="Cloud masks for Sentinel-2 products, streamed through NVIDIA Triton Inference Server.",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command("run", epilog=EXIT_CODES)(run)
    app.command("info")(info)
    app.command("evaluate")(evaluate)
    app.command("synth")(synth)
    app.add_typer(server_app, name="server")
    app.add_typer(models_app, name="models")

    @app.callback()
    def _root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        pass

    return app


def main() -> None:
    """Run the command line; a user's mistake ends in one message on stderr and its exit code."""
    try:
        build_app()()
    except KappaMaskError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
