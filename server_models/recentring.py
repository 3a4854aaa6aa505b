"""Bands at half their file's resolution, moved in the served graph to where means of 2 x 2 pixels would stand.

A sample of the 5/3 wavelet's low-pass band stands on the first of two pixels of the file, their mean between both: a
quarter of a pixel of the band further down and right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

#: Weights of the samples at -1, 0, 1 and 2: they sum to 1, and their centre of gravity is 1/4. Of filters like this it
#: is one that comes close to the means of 2 x 2 of any image; fitted ones differ from image to image.
QUARTER = {-1: -1 / 64, 0: 49 / 64, 1: 17 / 64, 2: -1 / 64}
_ROWS, _COLS = 2, 3


def recentred(part: str, size: int) -> tuple[str, list[onnx.NodeProto], dict[str, np.ndarray[Any, Any]]]:
    """Move a tensor, float32 ``[N, bands, size, size]``, by a quarter of a pixel down and right.

    0 is no data and stays 0; it takes no part in its neighbours either, which see themselves in its place.

    Returns
    -------
    The result's name, the nodes, and the constants that they need.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray[Any, Any]] = {"no_data": np.array(0, np.float32)}
    for axis in (_ROWS, _COLS):
        pads = np.zeros(8, np.int64)
        pads[axis], pads[axis + 4] = 1, 2
        constants |= {f"pads_{axis}": pads, f"axis_{axis}": np.array([axis], np.int64)}
        nodes.append(helper.make_node("Pad", [part, f"pads_{axis}"], [f"padded_{axis}"], mode="edge"))
        shares = []
        for at, weight in QUARTER.items():
            name = f"{axis}_{at + 1}"
            start = np.array([at + 1], np.int64)
            constants |= {f"start_{name}": start, f"end_{name}": start + size}
            constants |= {f"weight_{name}": np.array(weight, np.float32)}
            bounds = [f"start_{name}", f"end_{name}", f"axis_{axis}"]
            nodes += [
                helper.make_node("Slice", [f"padded_{axis}", *bounds], [f"beside_{name}"]),
                helper.make_node("Equal", [f"beside_{name}", "no_data"], [f"is_empty_{name}"]),
                helper.make_node("Where", [f"is_empty_{name}", part, f"beside_{name}"], [f"seen_{name}"]),
                helper.make_node("Mul", [f"seen_{name}", f"weight_{name}"], [f"share_{name}"]),
            ]
            shares.append(f"share_{name}")
        nodes += [
            helper.make_node("Sum", shares, [f"total_{axis}"]),
            helper.make_node("Equal", [part, "no_data"], [f"is_empty_{axis}"]),
            helper.make_node("Where", [f"is_empty_{axis}", "no_data", f"total_{axis}"], [f"moved_{axis}"]),
        ]
        part = f"moved_{axis}"
    return part, nodes, constants
