"""The same measurement with NVIDIA's own client, `perf_analyzer`: its command line, and the tiles in its form.

It asks for every output that a model has, and cannot be told otherwise: beside LABELS, PROBABILITIES are computed and
sent, without which `measure_server` and masks do. So its rate is lower where an answer's bytes, or their making, count.
"""

from __future__ import annotations

import base64
import json
import shlex
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.atomic import publish
from kappamask_stream.errors import UsageError
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.bench.types import Transport
    from kappamask_stream.contract import ModelContract

#: Milliseconds of each of its measurements, of which three in a row must agree.
_WINDOW_MS = 5000


def perf_analyzer_command(
    contract: ModelContract,
    endpoint: str,
    tiles: Path,
    concurrency: int,
    *,
    transport: Transport = "shared memory",
) -> str:
    """Return the command that does with `perf_analyzer` what `measure_server` does at one concurrency.

    Parameters
    ----------
    endpoint : as for ``--triton``. Of several servers, or a name that stands for some, it asks one.
    tiles : file that `write_perf_analyzer_data` wrote.
    concurrency : requests in flight.
    transport : with ``shared memory`` the server must let clients register it.

    Raises
    ------
    UsageError
        If the endpoint is none, or a list of servers.
    """
    place = parse_endpoint(endpoint)
    if len(place.hosts) > 1:
        raise UsageError(f"perf_analyzer takes one server, {endpoint} names {len(place.hosts)}: give one of them")
    host, port = place.hosts[0]
    command = ["perf_analyzer", "-m", contract.name, "-i", "grpc", "-u", f"{host}:{port}"]
    command += ["--ssl-grpc-use-ssl"] if place.tls else []
    command += ["-b", "1", "--async", "--concurrency-range", str(concurrency), "-p", str(_WINDOW_MS)]
    for name, shape in _shapes(contract).items():
        command += ["--shape", f"{name}:{','.join(map(str, shape))}"]
    command += ["--input-data", str(tiles)]
    if transport == "shared memory":
        # Per output; the largest is PROBABILITIES.
        largest = len(contract.probability_classes) * contract.tile_size**2
        command += ["--shared-memory", "system", "--output-shared-memory-size", str(largest)]
    return shlex.join(command)


async def write_perf_analyzer_data(tiles: TileSet, contract: ModelContract, path: Path, *, most: int = 16) -> int:
    """Write tiles as `perf_analyzer` reads them with ``--input-data``: JSON, each tensor's bytes in base64.

    The file appears whole or not at all.

    Parameters
    ----------
    path : the file; a tile of KappaMask's takes 5.4 MB.
    most : tiles at most; `perf_analyzer` holds all of them in memory, and sends them in turn.

    Returns
    -------
    The number of tiles.

    Raises
    ------
    InputError
        If the tiles cannot be read.
    OutputError
        If the file cannot be written; see `publish`.
    """
    count = min(most, tiles.count)
    content = await in_thread(None, _content, tiles, contract, count)
    await publish([(path, [content])])
    return count


def _content(tiles: TileSet, contract: ModelContract, count: int) -> bytes:
    arrays = tiles.arrays()
    data = [
        {
            name: {"b64": base64.b64encode(np.ascontiguousarray(arrays[name][i]).tobytes()).decode(), "shape": shape}
            for name, shape in _shapes(contract).items()
        }
        for i in range(count)
    ]
    return json.dumps({"data": data}).encode()


def _shapes(contract: ModelContract) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input, without the batch."""
    shapes: dict[str, tuple[int, ...]] = {g.tensor: (len(g.bands), g.tile, g.tile) for g in contract.inputs}
    return shapes | dict.fromkeys(("OFFSET", "SCALE"), (len(contract.channels),))
