"""``kappamask-stream models …``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kappamask_stream.cli.check import check
from kappamask_stream.cli.completion import complete_served
from kappamask_stream.cli.fetch import fetch
from kappamask_stream.cli.server import Environment

if TYPE_CHECKING:
    from kappamask_stream.weights import WeightsCache

app = typer.Typer(
    no_args_is_help=True,
    help="""Networks: which there are, fetching weights, building, checking and removing models.

Example: kappamask-stream models list
""",
)

Repository = Annotated[
    Path | None, typer.Option(help="Triton model repository. [default: the local server's]", file_okay=False)
]


@app.command("list")
def list_models(
    env: Environment = None,
    repository: Repository = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
) -> None:
    """List the models that can be built, which are, and whether the weights that they need are fetched.

    Example: kappamask-stream models list
    """
    from kappamask_stream.server import ServerEnvironment

    cache = _cache()
    environment = ServerEnvironment.at(env)
    environment.require()
    for event in environment.call(["list", "--repository", str(repository or environment.repository)]):
        model = event | _weights_state(cache, event["name"])
        if as_json:
            model.pop("event")
            typer.echo(json.dumps(model))
        else:
            state = "built" if model["current"] else "to be built again" if model["built"] else "not built"
            weights = {None: "", True: "weights fetched", False: "weights not fetched"}[model["weights_fetched"]]
            typer.echo(f"{model['name']:<34} {state:<18} {weights:<20} {model['description']}")


def _cache() -> WeightsCache:
    from kappamask_stream.settings import load_settings
    from kappamask_stream.weights import WeightsCache

    return WeightsCache.at(load_settings().weights_dir)


def _weights_state(cache: WeightsCache, name: str) -> dict[str, Any]:
    """Say whether a model's weights are fetched (None: it needs none) and where they are."""
    from kappamask_stream.weights import of_model

    path = cache.fetched(name)
    return {
        "weights_fetched": None if of_model(name) is None else path is not None,
        "weights_file": str(path) if path else None,
    }


app.command("fetch")(fetch)
app.command("check")(check)


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="Name from `models list`.", autocompletion=complete_served)],
    env: Environment = None,
    repository: Repository = None,
    flavour: Annotated[
        Literal["python", "onnxruntime", "tensorrt", "torch"],
        typer.Option(
            help="python: the local server (CPU); onnxruntime: NVIDIA's container (GPU); tensorrt: there, KappaMask in "
            "float16; torch: KappaMask on a GPU with PyTorch, the fastest that was measured."
        ),
    ] = "python",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="KappaMask weights (Keras HDF5). [default: those that `models fetch` has brought]", dir_okay=False
        ),
    ] = None,
) -> None:
    """Build a model into a Triton model repository.

    Example: kappamask-stream models build csmask_l2a --repository /srv/models --flavour onnxruntime
    """
    from kappamask_stream.server import ServerEnvironment

    environment = ServerEnvironment.at(env)
    environment.require()
    weights = weights or _cache().verified(model)
    arguments = ["build", model, "--repository", str(repository or environment.repository), "--flavour", flavour]
    arguments += ["--weights", str(weights)] if weights else []
    *said, built = environment.call(arguments)
    for event in said:
        typer.echo(event["text"], err=True)
    typer.echo(built["path"])


@app.command()
def remove(
    model: Annotated[str, typer.Argument(help="Name of a built model.", autocompletion=complete_served)],
    env: Environment = None,
    repository: Repository = None,
    weights: Annotated[
        bool,
        typer.Option("--weights", help="Also remove its fetched weights, which all its precisions share."),
    ] = False,
) -> None:
    """Remove a built model from a repository; its fetched weights stay unless --weights is given.

    Example: kappamask-stream models remove kappamask_l2a_deeplabv3plus --weights
    """
    from kappamask_stream.errors import UsageError
    from kappamask_stream.server import ServerEnvironment
    from kappamask_stream.weights.fetching import remove_fetched

    folder = (repository or ServerEnvironment.at(env).repository) / model
    is_built = "/" not in model and (folder / "contract.json").is_file()
    removed = remove_fetched(model, _cache()) if weights else []
    if not is_built and not removed:
        none = ", nor are weights fetched for it" if weights else ""
        raise UsageError(f"{folder} is no model that kappamask-stream built{none}; see `kappamask-stream models list`")
    if is_built:
        parts = [mark.parent for mark in sorted(folder.parent.glob(f"{model}-*/part_of")) if mark.read_text() == model]
        for path in (folder, *parts):
            shutil.rmtree(path)
        removed = [folder, *parts, *removed]
    for path in removed:
        typer.echo(f"removed {path}")
