"""A report as JSON and back: schema ``kappamask-stream/bench``, version 1, nothing rounded.

`capacity.bench_file.BenchFile` is the part that `plan` reads, per product; ``environment``, ``settings``, ``levels``,
``verdict`` and ``notes`` are added to it and hold the report as it is. Reading is strict: what is missing, of another
type, infinite or 0 where it cannot be is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.types import (
    BenchReport,
    BenchSettings,
    ClientLevel,
    EndToEndLevel,
    Environment,
    ServerLevel,
    Verdict,
)
from kappamask_stream.capacity.bench_file import (
    SCHEMA,
    VERSION,
    BenchFile,
    Client,
    Machine,
    MeasuredProduct,
    Server,
    loaded,
    require_version,
)
from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
#: Sequences of a frozen report are tuples; JSON's lists become that.
_Tuple = tuple[T, ...]


class _Levels(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    server: ServerLevel | None = None
    client: ClientLevel | None = None
    end_to_end: EndToEndLevel | None = None


class _WholeFile(BenchFile):
    """All that `bench` writes."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False, serialize_by_alias=True)

    local_server: bool = Field(description="True where the server ran on the client's machine.")
    environment: Environment
    settings: BenchSettings | None = Field(default=None, description="With what it was measured.")
    levels: _Levels
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()


# The names that the annotations of `bench.types` use and its module has only for type checkers.
for _model in (_Levels, _WholeFile):
    _model.model_rebuild(force=True, _types_namespace={"Mapping": Mapping, "Sequence": _Tuple})


def to_document(report: BenchReport) -> dict[str, Any]:
    """Return the object that ``--json`` writes."""
    return _WholeFile(
        schema=SCHEMA,
        version=VERSION,
        model=report.model,
        machine=Machine(cpu=report.environment.cpu, gpu=report.environment.gpu),
        product=MeasuredProduct(
            name=report.product,
            tiles=report.product_tiles or None,
            tiles_inferred=report.product_tiles_inferred or None,
        ),
        client=_client(report),
        server=_server(report),
        local_server=report.local_server,
        environment=report.environment,
        settings=None
        if report.settings is None
        else replace(report.settings, concurrency=tuple(report.settings.concurrency)),
        levels=_Levels(server=_frozen(report.server), client=report.client, end_to_end=report.end_to_end),
        verdict=report.verdict,
        notes=tuple(report.notes),
    ).model_dump(mode="json")


def to_json(report: BenchReport) -> str:
    """Return the file's text, with a line's end."""
    return json.dumps(to_document(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_document(document: dict[str, Any], name: str) -> BenchReport:
    """Take a report from what `to_document` returned.

    Parameters
    ----------
    name : of the file, for messages.

    Raises
    ------
    InputError
        If it is of another schema or version, was not written by `bench`, or is damaged: naming the place.
    """
    require_version(document, name)
    if "levels" not in document:
        raise InputError(
            f"{name} has no levels: it was not written by `kappamask-stream bench`, whose files are read here"
        )
    try:
        file = _WholeFile.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InputError(f"{name}: {where}: {first['msg']} (it is {str(first['input'])[:40]})") from error
    report = BenchReport(
        environment=file.environment,
        model=file.model,
        product=file.product.name or "",
        product_tiles=int(file.product.tiles or 0),
        product_tiles_inferred=int(file.product.tiles_inferred or 0),
        local_server=file.local_server,
        server=file.levels.server,
        client=file.levels.client,
        end_to_end=file.levels.end_to_end,
        verdict=file.verdict,
        notes=file.notes,
        settings=file.settings,
    )
    _require_sense(report, name)
    return report


def read_report(path: Path) -> BenchReport:
    """Read a file that ``bench --json`` has written.

    Raises
    ------
    InputError
        If it cannot be read, or as `from_document`.
    """
    return from_document(loaded(path), path.name)


def _frozen(level: ServerLevel | None) -> ServerLevel | None:
    """Return a level whose sequences are tuples, as they come back."""
    if level is None:
        return None
    return replace(level, points=tuple(level.points), failures=tuple(level.failures))


def _client(report: BenchReport) -> Client:
    """Sum up the client for one product: through the real network where that was measured, else without it."""
    alone, real = report.client, report.end_to_end
    told = [level.peak_rss_bytes for level in (alone, real) if level is not None]
    return Client(
        cores=report.environment.cores if real is None else real.cores,
        cpu_s=Facts(report=report).client_cpu_s,
        peak_rss_bytes=max((rss for rss in told if rss), default=None),
        bytes_read=None if alone is None else alone.bytes_read or None,
        requests=None if alone is None else alone.requests or None,
        bytes_written=None if alone is None else alone.bytes_written or None,
    )


def _server(report: BenchReport) -> Server:
    """Sum up the server; the rate is one used GPU's, and of the transport with which it was measured."""
    facts, level = Facts(report=report), report.server
    gpu = facts.best.gpu if facts.best is not None and facts.has_gpu else None
    reached = facts.reached_tiles_per_s
    rate = reached / gpu.gpus if gpu is not None and gpu.gpus and reached else None
    is_shared = level is not None and level.transport == "shared memory"
    on_cpu = facts.shares_cores and facts.server_cpu_s
    return Server(
        tiles_per_s=None if is_shared else rate,
        tiles_per_s_shared_memory=rate if is_shared else None,
        cores=report.environment.cores if on_cpu else None,
        cpu_s=on_cpu or None,
        request_bytes=None if level is None else level.request_bytes or None,
        answer_bytes=None if level is None else level.answer_bytes or None,
    )


def _require_sense(report: BenchReport, name: str) -> None:
    """Refuse what would be divided by.

    Raises
    ------
    InputError
        Naming the place.
    """
    positive: dict[str, float] = {"environment.cores": report.environment.cores}
    if (server := report.server) is not None:
        positive["levels.server.points: their count"] = len(server.points)
        positive |= {f"levels.server.points.{i}.seconds": point.seconds for i, point in enumerate(server.points)}
    if (client := report.client) is not None:
        positive |= {
            "levels.client.wall_s": client.wall_s,
            "levels.client.cpu_s": client.cpu_s,
            "levels.client.floor.wall_s": client.floor.wall_s,
            "levels.client.floor.cpu_s": client.floor.cpu_s,
        }
    if (real := report.end_to_end) is not None:
        positive |= {
            f"levels.end_to_end.{field}": getattr(real, field)
            for field in ("products", "products_at_once", "wall_s", "cores")
        }
    for where, value in positive.items():
        if value <= 0:
            raise InputError(f"{name}: {where} is {value}, more than 0 is expected: the file is damaged")
