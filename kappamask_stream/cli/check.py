"""``kappamask-stream models check``."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kappamask_stream.cli.completion import complete_served
from kappamask_stream.cli.server import Environment
from kappamask_stream.cli.setting_flags import NO_FLAGS, SettingFlags, takes_setting_flags
from kappamask_stream.cli.worker_options import TRITON_FLAGS

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.server import ServerEnvironment
    from kappamask_stream.settings import Settings


@takes_setting_flags(TRITON_FLAGS)
def check(
    model: Annotated[
        str,
        typer.Argument(
            help="Name from `models list`, or any model that the server holds.", autocompletion=complete_served
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="KappaMask weights (Keras HDF5) for the server on this machine. [default: those fetched]",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(
            help="Tiles of your own (.npz): DN_*, OFFSET, SCALE and maybe LABELS. [default: built-in ones]",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    product: Annotated[Path | None, typer.Option(help="SAFE directory to cut tiles from.", metavar="PRODUCT")] = None,
    count: Annotated[int, typer.Option(min=1, max=64, help="Tiles to cut from the product.")] = 4,
    radiometry: Annotated[
        Literal["corrected", "km_predict"], typer.Option(help="Of the tiles that are cut; as for `run`.")
    ] = "corrected",
    triton: Annotated[
        str | None,
        typer.Option(help="grpc://HOST:PORT of a Triton server; grpcs:// for TLS. [default: the one on this machine]"),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(help="With --triton: model repository with the float32 graph to compare with.", file_okay=False),
    ] = None,
    flags: SettingFlags = NO_FLAGS,
    env: Environment = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a served model at every batch size: that it computes what its float32 graph computes.

    Sends tiles one by one and then in batches of every size up to the model's largest, and wants (1) no value that is
    not finite, (2) classes equal to the reference's on at least the share of the pixels that the model's contract
    names, in the worst tile, (3) answers in a batch equal to those of the tiles alone on all but 0.01 % of the pixels.
    The reference is LABELS of your tiles; without them, the float32 graph on onnxruntime on this CPU.

    On this machine the result is recorded: a model that `models build` or `run` has built and that fails is not served
    until it passes. The check runs by itself, with built-in tiles, before such a model is served for the first time and
    whenever its graph, the engine or the CPU has changed. Of a model of your own nothing is recorded. A server at
    --triton is checked and told nothing; with neither --repository nor LABELS only (1) and (3) are looked at. LABELS
    are for another implementation's classes; labels by people are for `evaluate`.

    Example: kappamask-stream models check kappamask_l2a_deeplabv3plus_bf16 --product S2A_MSIL2A_….SAFE
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.errors import ServerError, UsageError
    from kappamask_stream.settings import load_settings

    settings = load_settings(triton=triton, server_env=env, **flags)
    if tiles is not None and product is not None:
        raise UsageError("--tiles and --product both say what to check on: leave one of the two out")
    if weights is not None and settings.triton is not None:
        raise UsageError(
            "--weights is for the server on this machine, --triton names another: leave one of the two out"
        )
    if repository is not None and settings.triton is None:
        raise UsageError(
            "--repository is for a server at --triton; the one on this machine has a repository of its own"
        )
    job = _Check(
        model=model, weights=weights, tiles=tiles, product=product, count=count, radiometry=radiometry,
        repository=repository, settings=settings, as_json=as_json,
    )  # fmt: skip
    report = run_command(job.run())
    if not report["passed"]:
        raise ServerError(f"{model} at {settings.triton} fails its check: {'; '.join(report['faults'])}")


@dataclass(frozen=True, kw_only=True)
class _Check:
    """One run of the command; the fields are its options."""

    model: str
    weights: Path | None
    tiles: Path | None
    product: Path | None
    count: int
    radiometry: Radiometry
    repository: Path | None
    settings: Settings
    as_json: bool

    async def run(self) -> dict[str, Any]:
        """Check, show the report, and return it; the local server refuses a model that fails by an error."""
        from kappamask_stream.errors import ServerSetupError
        from kappamask_stream.server import ServerEnvironment

        environment = ServerEnvironment.at(self.settings.server_env)
        try:
            await asyncio.to_thread(environment.require)
        except ServerSetupError as error:
            if self.settings.triton is None:
                raise
            raise ServerSetupError(
                "the check of a server elsewhere, too, is computed in the local server's environment at "
                f"{environment.path}, which is not there: `kappamask-stream server install` makes it (Linux x86-64, "
                "glibc 2.35 or newer)"
            ) from error
        with tempfile.TemporaryDirectory(prefix="kappamask-check-") as folder:
            if self.settings.triton is None:
                return await self._local(environment, Path(folder))
            return await self._remote(environment, Path(folder))

    async def _local(self, environment: ServerEnvironment, folder: Path) -> dict[str, Any]:
        from kappamask_stream.contract import ModelContract
        from kappamask_stream.errors import ServerSetupError
        from kappamask_stream.server import lease_local_server
        from kappamask_stream.server.commands import follow
        from kappamask_stream.weights import WeightsCache

        cache = WeightsCache.at(self.settings.weights_dir)
        weights = self.weights or await asyncio.to_thread(cache.verified, self.model)
        tiles = self.tiles
        if self.product is not None:  # what a tile is stands in the contract
            arguments = ["contract", self.model, "--repository", str(environment.repository)]
            event = await follow(environment, arguments, self._say)
            tiles = await self._cut(ModelContract.from_json(event["contract"]), folder)
        reports: list[dict[str, Any]] = []
        try:
            async with lease_local_server(
                model=self.model,
                weights=weights,
                env=environment.path,
                on_progress=self._say,
                on_checked=reports.append,
                check_tiles=tiles,
            ):
                pass
        finally:
            for report in reports:
                self._show(report)
        if not reports:
            raise ServerSetupError(
                "the local server that runs was started by another version, which cannot check: end it with "
                "`kappamask-stream server stop`"
            )
        return reports[-1]

    async def _remote(self, environment: ServerEnvironment, folder: Path) -> dict[str, Any]:
        from kappamask_stream.inference import connect
        from kappamask_stream.server.commands import follow

        async with await connect(self.settings, self.model, canary=False) as client:
            contract, connection = client.contract, client.connection
        tiles = self.tiles if self.product is None else await self._cut(contract, folder)
        arguments = ["check", self.model, "--endpoint", connection.endpoint.target]
        arguments += ["--access", json.dumps(connection.access())]
        arguments += ["--tiles", str(tiles.absolute())] if tiles else []
        arguments += ["--repository", str(self.repository.absolute())] if self.repository else []
        report: dict[str, Any] = (await follow(environment, arguments, self._say))["report"]
        self._show(report)
        return report

    async def _cut(self, contract: ModelContract, folder: Path) -> Path:
        from kappamask_stream.product import open_product
        from kappamask_stream.sampling import write_tiles
        from kappamask_stream.sources import DirectorySource

        assert self.product is not None  # noqa: S101 - for the type checker
        source = DirectorySource(self.product)
        try:
            product = await open_product(source)
            self._say(f"cutting tiles from {product.name}")
            path = folder / product.name
            await write_tiles(product, contract, path, count=self.count, radiometry=self.radiometry)
        finally:
            await source.aclose()
        return path

    def _say(self, text: str) -> None:
        if not self.as_json:
            typer.echo(text, err=True)

    def _show(self, report: dict[str, Any]) -> None:
        typer.echo(json.dumps(report) if self.as_json else _page(report))


def _page(report: dict[str, Any]) -> str:
    """Lay a report out for people."""
    reference = report["reference"]
    against = f"compared with {reference}" if reference else "compared with nothing but themselves"
    lines = [
        f"{report['model']}: {report['tiles']} {report['source']}, {against}",
        "",
        f"{'batch':>5}{'agreement':>12}{'unlike alone':>14}{'seconds':>10}",
    ]
    lines += [
        f"{b['batch']:>5}{_share(b['agreement'], '.5f'):>12}{_share(b['differing'], '.4%'):>14}{b['seconds']:>10.2f}"
        for b in report["batches"]
    ]
    lines.append("")
    if report["batches"] and reference:
        alone = report["batches"][0]
        lines.append(
            f"agreement {_share(alone['agreement'], '.5f')} in the worst tile, {_share(alone['agreement_all'], '.5f')} "
            f"in all; the contract wants {report['min_agreement']:g}"
        )
    elif not reference:
        lines.append("no reference is known: --repository DIR, or LABELS in --tiles FILE, would give one")
    if report.get("canary") is not None:
        lines.append(f"canary: {report['canary']:.5f} of the pixels have the class that the contract knows")
    elif report.get("has_canary", True):
        lines.append("canary: not asked")
    else:
        lines.append("no canary: the contract knows no tile's answer, clients cannot see whether answers are right")
    lines.append("passed" if report["passed"] else f"failed: {'; '.join(report['faults'])}")
    return "\n".join(lines)


def _share(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
