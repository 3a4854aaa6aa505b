"""``kappamask-stream models …``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from kappamask_stream.cli.server import Environment

app = typer.Typer(no_args_is_help=True, help="Networks: which there are, building and removing them.")

Repository = Annotated[
    Path | None, typer.Option(help="Triton model repository. [default: the local server's]", file_okay=False)
]


@app.command("list")
def list_models(
    env: Environment = None,
    repository: Repository = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
) -> None:
    """List the models that can be built, and which are.

    Example: kappamask-stream models list
    """
    from kappamask_stream.server import ServerEnvironment

    environment = ServerEnvironment.at(env)
    environment.require()
    for model in environment.call(["list", "--repository", str(repository or environment.repository)]):
        if as_json:
            model.pop("event")
            typer.echo(json.dumps(model))
        else:
            state = "built" if model["current"] else "to be built again" if model["built"] else "not built"
            typer.echo(f"{model['name']:<34} {state:<18} {model['description']}")


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="Name from `models list`.")],
    env: Environment = None,
    repository: Repository = None,
    flavour: Annotated[
        Literal["python", "onnxruntime"],
        typer.Option(help="python: the local server (CPU); onnxruntime: NVIDIA's container (GPU)."),
    ] = "python",
    weights: Annotated[Path | None, typer.Option(help="KappaMask weights (Keras HDF5).", dir_okay=False)] = None,
) -> None:
    """Build a model into a Triton model repository.

    Example: kappamask-stream models build csmask_l2a --repository /srv/models --flavour onnxruntime
    """
    from kappamask_stream.server import ServerEnvironment

    environment = ServerEnvironment.at(env)
    environment.require()
    arguments = ["build", model, "--repository", str(repository or environment.repository), "--flavour", flavour]
    arguments += ["--weights", str(weights)] if weights else []
    typer.echo(environment.call(arguments)[-1]["path"])


@app.command()
def remove(
    model: Annotated[str, typer.Argument(help="Name of a built model.")],
    env: Environment = None,
    repository: Repository = None,
) -> None:
    """Remove a built model from a repository.

    Example: kappamask-stream models remove csmask_l2a
    """
    from kappamask_stream.errors import UsageError
    from kappamask_stream.server import ServerEnvironment

    folder = (repository or ServerEnvironment.at(env).repository) / model
    if "/" in model or not (folder / "contract.json").is_file():
        raise UsageError(f"{folder} is no model that kappamask-stream built; see `kappamask-stream models list`")
    shutil.rmtree(folder)
    typer.echo(f"removed {folder}")
