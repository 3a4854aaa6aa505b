"""Run in the server's environment: the served pre-processing against its second implementation, at full size.

python compare_preprocessing.py LEVEL ARCHITECTURE

Prints JSON: how the quantum table and the enlarged bands differ, in digital numbers; whether OFFSET, clamp and SCALE
are exact; the contract's bands.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy_preprocess
import served_graph

from server_models import kappamask
from server_models.graph_builder import GraphBuilder
from server_models.kappamask_preprocess import INPUT_MAGNITUDE, NORMALISED, preprocess, quantum_table

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract


def session_of(contract: ModelContract) -> onnxruntime.InferenceSession:
    """Return the pre-processing alone."""
    graph, size = GraphBuilder("preprocessing"), contract.tile_size
    preprocess(graph, contract.inputs, contract.channels, size=size)
    outputs = {NORMALISED: (np.float32, (len(contract.channels), size, size)), INPUT_MAGNITUDE: (np.float32, (1, 1, 1))}
    return served_graph.session(graph.model(outputs, metadata={}))


def tile_of(contract: ModelContract, seed: int, *, harsh: bool) -> dict[str, NDArray[Any]]:
    """Digital numbers like a scene's; or over the whole range, with edges at which the sinc overshoots both ends."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for group in contract.inputs:
        bands = []
        for _ in group.bands:
            checks = np.indices((group.tile, group.tile)).sum(axis=0) % 2 * 65535
            noise = rng.integers(0, 65536, (group.tile, group.tile))
            natural = 300 + 9000 * served_graph.blobs(rng, 1, group.tile, group.tile)[0]
            kinds = served_graph.blobs(rng, 1, group.tile, group.tile)[0]
            bands.append(np.select([kinds < 0.4, kinds < 0.45], [natural, checks], noise) if harsh else natural)
        feeds[group.tensor] = np.stack(bands).astype(np.uint16)
    return feeds


def main() -> None:
    level, architecture = sys.argv[1:]
    contract = kappamask.contract(level, architecture, "f32", "ab" * 32)
    session, tile = session_of(contract), tile_of(contract, seed=4, harsh=True)
    batch = {name: dn[np.newaxis] for name, dn in tile.items()}
    channels = len(contract.channels)
    plain = {"OFFSET": np.zeros((1, channels), np.float32), "SCALE": np.ones((1, channels), np.float32)}
    (q,) = session.run([NORMALISED], batch | plain)

    bands = {group.tensor: group.bands for group in contract.inputs}
    expected = numpy_preprocess.quanta(tile, bands, contract.channels, contract.tile_size)
    difference = np.abs(q[0] - expected)
    natural = tile_of(contract, seed=5, harsh=False)
    (answer,) = session.run([NORMALISED], {name: dn[np.newaxis] for name, dn in natural.items()} | plain)
    natural_quanta = numpy_preprocess.quanta(natural, bands, contract.channels, contract.tile_size)
    natural_difference = np.abs(answer[0] - natural_quanta)
    native = [contract.channels.index(band) for band in bands["DN_10M"]]

    # Two tiles with radiometries of their own; float32 all along, so equal to the bit.
    rng = np.random.default_rng(5)
    radiometry = {
        "OFFSET": rng.uniform(-30000, 3000, (2, channels)).astype(np.float32),
        "SCALE": rng.uniform(1e-5, 1e-3, (2, channels)).astype(np.float32),
    }
    (x,) = session.run([NORMALISED], {name: np.repeat(dn, 2, axis=0) for name, dn in batch.items()} | radiometry)
    shifted = np.maximum(q + radiometry["OFFSET"][:, :, None, None], np.float32(0))
    exact = shifted * radiometry["SCALE"][:, :, None, None]
    float64 = numpy_preprocess.normalised(expected, radiometry["OFFSET"][1], radiometry["SCALE"][1])
    unit = radiometry["SCALE"][1][:, None, None]

    numbers = np.arange(65536).astype(np.uint16)
    json.dump(
        {
            "quantum_differs": int(np.count_nonzero(quantum_table() != numpy_preprocess.quantum(numbers))),
            "quantum_loses": float(np.mean(quantum_table() == numbers - 1.0)),
            "quantum_most": float(np.abs(quantum_table() - numbers).max()),
            "share": float(np.mean(natural_difference > 0)),
            "most": float(natural_difference.max()),
            "harsh_share": float(np.mean(difference > 0)),
            "harsh_most": float(difference.max()),
            "native_most": float(difference[native].max()),
            "extremes": [float(expected.min()), float(expected.max())],
            "exact": bool(np.array_equal(x, exact)),
            "clamped": float(np.mean(x == 0)),
            "float64_most": float(np.abs((x[1] - float64) / unit).max()),
            "channels": contract.channels,
            "divisors": contract.divisors,
            "inputs": [[g.gsd_m, g.tile, g.stride, list(g.bands)] for g in contract.inputs],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
