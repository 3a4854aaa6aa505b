"""What the scripts in ``benchmarks/`` have written before there was a schema, each recognised by its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kappamask_stream.capacity.figures import BenchFigures, Figure, Network
from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


def figures_of_earlier(document: Mapping[str, Any], name: str, transport: str) -> BenchFigures | None:
    """Return what such a file holds; None if it is none.

    Parameters
    ----------
    name : of the file, for `Figure.source`.
    transport : ``gRPC`` or ``shared memory``: which rate of a GPU is taken.

    Raises
    ------
    InputError
        If it is one, and something in it is not what it should be.
    """
    try:
        if "ours" in document:
            return _end_to_end(document, name)
        if "whole" in document:
            return _sources(document, name)
        if "through_triton" in document.get("parts", {}):
            return _gpu(document["parts"]["through_triton"], name, transport)
        if "sweep" in document and "model" in document:
            return _server_sweep(document, name)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{name} is damaged: {type(error).__name__} {str(error)[:80]} while reading it") from error
    return None


def _end_to_end(document: Mapping[str, Any], name: str) -> BenchFigures:
    """``benchmarks/end_to_end.py``: client and server on the same cores, no GPU, a product from a directory."""
    ours = document["ours"]

    def figure(field: str) -> Figure | None:
        return Figure.of(ours.get(field), f"{name}: ours.{field}")

    cores = Figure.of(document["cores"], f"{name}: cores")
    return BenchFigures(
        network=Network.of_model(ours["model"]),
        tiles=figure("tiles"),
        tiles_inferred=figure("tiles_inferred"),
        client_cpu_s=figure("client_cpu_s"),
        client_cores=cores,
        client_rss_bytes=figure("peak_rss_bytes"),
        server_cpu_s=figure("server_cpu_s"),
        server_cores=cores,
        bytes_read=figure("bytes_read"),
    )


def _sources(document: Mapping[str, Any], name: str) -> BenchFigures:
    """``benchmarks/sources.py``: KappaMask's bands of an L2A product from S3, a network that answers at once."""
    s3 = document["whole"]["s3"]

    def figure(field: str) -> Figure | None:
        return Figure.of(s3.get(field), f"{name}: whole.s3.{field}")

    return BenchFigures(
        network=Network(family="kappamask", level="l2a"),
        client_rss_bytes=figure("peak_rss_bytes"),
        bytes_read=figure("bytes_read"),
        requests=figure("requests"),
    )


def _server_sweep(document: Mapping[str, Any], name: str) -> BenchFigures:
    """``benchmarks/server_sweep.py``: memory of a server without a GPU, in the fastest of its arrangements."""
    row = max(document["sweep"], key=lambda row: row["tiles_per_s"])
    said = f"{name}: {row['instances']} x {row['streams']} x {row['threads']}, max_batch {row['max_batch']}, server_mb"
    size = Figure.of(row["server_mb"], said)
    return BenchFigures(
        network=Network.of_model(document["model"]),
        # psutil's bytes, divided by 1024 * 1024 there.
        server_rss_bytes=None if size is None else Figure(value=size.value * 1024 * 1024, source=said),
    )


def _gpu(part: Mapping[str, Any], name: str, transport: str) -> BenchFigures:
    """``benchmarks/gpu/through_triton.py``: the fastest arrangement of one GPU; rows with a note are of other code."""
    rows = [row for row in part["rows"] if row.get("transport") == transport and not row.get("note")]
    rows = [row for row in rows if row.get("tiles_per_s") and not row.get("failed")]
    if not rows:
        raise InputError(f"{name} has no row of through_triton over {transport} that counts")
    row = max(rows, key=lambda row: row["tiles_per_s"])
    said = f"{name}: through_triton, {part['precision']}, {transport}, {row['instances']} x {row['max_batch']}"
    return BenchFigures(
        network=Network(family="kappamask", architecture=part["network"].lower()),
        gpu=part["machine"]["gpu"].split(",")[0],
        gpu_tiles_per_s=Figure.of(row["tiles_per_s"], said),
    )
