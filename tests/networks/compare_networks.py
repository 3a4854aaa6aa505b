"""Run in the server's environment: the served float32 graphs against their second implementations.

python compare_networks.py listing LEVEL ARCHITECTURE TILE LISTING
python compare_networks.py twists LEVEL ARCHITECTURE TILE SHARE [TWIST ...]

Prints JSON. ``listing`` compares with the layer listing, evaluated as it stands, at its full width; ``twists`` with
the hand-written network at a share of its width, as it should be ("") and with one thing changed at a time (all of
them unless some are named).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import served_graph
from layer_listing import Interpreter, read_listing
from numpy_networks import DeepLabv3Plus, Twist, UNet
from random_weights import RandomWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

DEEPLAB_TWISTS = {
    "": Twist(),
    "ASPP pads with the edge": Twist(aspp_padding="edge"),
    "ASPP mirrors without the edge pixel": Twist(aspp_padding="reflect"),
    "ASPP pads with zeros": Twist(aspp_padding="constant"),
    "zeros around every convolution": Twist(padding="constant"),
    "another rate in ASPP": Twist(aspp_rates=(6, 12, 17)),
    "the image's mean comes last": Twist(aspp_mean_first=False),
    "shortcut starts at the sum": Twist(shortcut_from_sum=True),
    "no ReLU before the middle flow's sum": Twist(middle_relu_before_add=False),
    "decoder taps behind a ReLU": Twist(tap="relu"),
    "epsilon 1e-5": Twist(epsilon=1e-5),
    "upsampling with corners aligned to pixels": Twist(half_pixel=False),
}
UNET_TWISTS = {
    "": Twist(),
    "the skip comes second": Twist(skip_first=False),
    "an even kernel's odd zero comes first": Twist(odd_zero_first=True),
    "bilinear enlargement": Twist(upsampling="bilinear"),
    "no ReLU behind the two channels": Twist(two_channel_relu=False),
}


def main() -> None:
    what, level, architecture, tile, *rest = sys.argv[1:]
    weights = RandomWeights(seed=20221005)
    contract = served_graph.small_contract(level, architecture, int(tile))
    if what == "listing":
        networks: dict[str, Network] = {"": Interpreter(read_listing(Path(rest[0])), weights)}
    else:
        kind, twists = (DeepLabv3Plus, DEEPLAB_TWISTS) if "DeepLab" in architecture else (UNet, UNET_TWISTS)
        share, *named = rest
        networks = {name: kind(weights, float(share), twists[name]) for name in (named or twists)}

    # A first run on a small tile tells which tensors there are, and gives the batch normalisations their statistics.
    networks[""](served_graph.blobs(np.random.default_rng(2), len(contract.channels), 128, 128).transpose(1, 2, 0) * 3)
    model = served_graph.build(contract, weights.tensors)
    seen = [("normalised", onnx.TensorProto.FLOAT), ("probabilities", onnx.TensorProto.FLOAT)]
    session = served_graph.session(model, seen)
    names = ["normalised", "probabilities", "LABELS", "PROBABILITIES"]
    x, *answers = (a[0] for a in session.run(names, served_graph.tiles(contract, seed=1)))
    probabilities, labels, quantised = np.moveaxis(answers[0], 0, -1), answers[1], np.moveaxis(answers[2], 0, -1)

    differences = {}
    for name, network in networks.items():
        expected = network(np.moveaxis(x, 0, -1))
        differences[name] = float(np.abs(expected - probabilities).max())
    json.dump(
        {
            "differences": differences,
            "tensors": len(weights.tensors),
            "parameters": sum(t.size for t in weights.tensors.values()),
            "input_spread": float(x.std()),
            "spread": probabilities.std(axis=(0, 1)).tolist(),
            "classes": np.unique(labels).tolist(),
            "labels_are_argmax": bool(np.array_equal(labels, probabilities.argmax(axis=2))),
            "quantised": float(np.abs(quantised / np.float32(255) - probabilities).max()),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
