"""The command line: `main` is what `__main__` runs."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any, NoReturn, cast

import typer

from kappamask_stream import __version__
from kappamask_stream.cli.event_loop import leave_on_signals, say
from kappamask_stream.errors import KappaMaskError
from kappamask_stream.names import printable

EXIT_CODES = (
    "Exit codes: 0 all good; 2 usage; 3 input (a product or weights cannot be read); 4 server (Triton); 5 output (a "
    "file cannot be written); 6 queue (a queue or topic refuses), when all failures are of that kind; 1 when they are "
    "mixed or some products succeeded; 129, 130 and 143 on SIGHUP, SIGINT and SIGTERM."
)
_HELP = """Cloud masks for Sentinel-2 products, streamed through NVIDIA Triton Inference Server.

Example: kappamask-stream run S2A_MSIL2A_….SAFE --model csmask --output masks
"""
#: What typer raises for a wrong command line; it is click's or typer's own class, by version.
_CommandLineError = cast("type[Exception]", typer.BadParameter.__bases__[0])


def _version(value: bool) -> None:
    if value:
        typer.echo(f"kappamask-stream {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """Assemble the commands; each imports what it needs when it runs."""
    from kappamask_stream.cli.bench import app as bench_app
    from kappamask_stream.cli.bench_group import BenchGroup
    from kappamask_stream.cli.config import app as config_app
    from kappamask_stream.cli.demo import demo
    from kappamask_stream.cli.evaluate import evaluate
    from kappamask_stream.cli.info import info
    from kappamask_stream.cli.km_predict import km_predict
    from kappamask_stream.cli.models import app as models_app
    from kappamask_stream.cli.plan import plan
    from kappamask_stream.cli.queue import app as queue_app
    from kappamask_stream.cli.run import run
    from kappamask_stream.cli.server import app as server_app
    from kappamask_stream.cli.submit import submit
    from kappamask_stream.cli.synth import synth
    from kappamask_stream.cli.teaching_help import TeachingCommand, TeachingGroup
    from kappamask_stream.cli.worker import worker

    app = typer.Typer(
        name="kappamask-stream",
        cls=TeachingGroup,
        help=_HELP,
        epilog=EXIT_CODES,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Rich's markup would swallow the brackets of "[default: …]", its boxes would leave little room for words.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.command("run", short_help="Mask products.")(run)
    app.command("info", short_help="Show what a product holds.")(info)
    app.command("km-predict", short_help="Run a configuration of km_predict.")(km_predict)
    app.command("evaluate", short_help="Compare a mask with labels.")(evaluate)
    app.command("worker", short_help="Mask what a queue asks for, day and night.")(worker)
    app.command("submit", short_help="Fill a queue with products.")(submit)
    app.command("plan", short_help="Plan machines for a load.")(plan)
    app.command("synth", short_help="Make a synthetic product and its truth.")(synth)
    app.command("demo", short_help="Show all of it once.")(demo)
    groups = {"server": server_app, "models": models_app, "config": config_app, "queue": queue_app}
    for name, group in groups.items():
        app.add_typer(group, name=name, cls=TeachingGroup, epilog=EXIT_CODES)
    app.add_typer(
        bench_app, name="bench", cls=BenchGroup, epilog=EXIT_CODES, short_help="Measure, and say what limits."
    )
    for group in (app, bench_app, *groups.values()):
        for command in group.registered_commands:
            command.epilog, command.cls = EXIT_CODES, TeachingCommand

    @app.callback()
    def _root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        del version  # has ended the program where it was given
        _warn_of_variables()

    return app


def _warn_of_variables() -> None:
    """Say which KAPPAMASK_* variables nobody reads: a misspelt one would leave a default in force, in silence."""
    if any(name.upper().startswith("KAPPAMASK_") for name in os.environ):
        from kappamask_stream.cli.settings_origin import unknown_variables

        for warning in unknown_variables():
            typer.echo(f"warning: {warning}", err=True)


def main() -> NoReturn:
    """Run the command line; a user's mistake ends in one line on stderr and its exit code."""
    leave_on_signals()
    # gRPC writes lines of its own to stderr, between progress and JSON logs; what they say is said in our words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        code: Any = build_app()(prog_name="kappamask-stream", standalone_mode=False)
    except _CommandLineError as error:
        code = _explain(error)
    except KappaMaskError as error:
        say(f"error: {printable(str(error))}")
        code = error.exit_code
    raise SystemExit(code or 0)


def _explain(error: Any) -> int:
    """Say in one line what is wrong with a command line; where no command was given, show its help."""
    message, command = error.format_message().rstrip("."), error.ctx.command_path if error.ctx else "kappamask-stream"
    is_help = message.startswith("Usage:")
    say(f"{message}." if is_help else f"error: {printable(message)} (`{command} --help` explains)")
    return int(error.exit_code)
