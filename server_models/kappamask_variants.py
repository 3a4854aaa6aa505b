"""The tables of KappaMask's four networks: what each sees, its classes, what its precisions are worth.

The constants are km_predict 2.4's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.contract import MaskClass
from server_models import deeplabv3plus, unet

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_models.graph_builder import FeatureMap

    Network = Callable[..., FeatureMap]

#: Tile and margin in pixels of 10 m.
TILE, MARGIN, GSD_M = 512, 16, 10

CLASSES = (
    MaskClass(value=0, name="UNDEFINED", colour=(128, 128, 128)),
    MaskClass(value=1, name="CLEAR", colour=(104, 159, 56)),
    MaskClass(value=2, name="CLOUD_SHADOW", colour=(62, 54, 93)),
    MaskClass(value=3, name="SEMI_TRANSPARENT_CLOUD", colour=(158, 202, 225)),
    MaskClass(value=4, name="CLOUD", colour=(255, 255, 255)),
    MaskClass(value=5, name="MISSING", colour=(0, 0, 0)),
)
MISSING = 5

#: Largest batch. On a CPU larger ones are not faster (docs/performance.md), and the check takes every size.
MAX_BATCH = 4

#: Per precision, the least share of pixels whose class is float32's (for float32 itself: the reference's) with which a
#: built model is served: a little below what was measured.
MIN_AGREEMENT = {"f32": 0.9995, "bf16": 0.98, "fp16": 0.994}

#: That share as measured on km_predict's golden tiles, the worst of six of DeepLabv3+ and the one of a U-Net with 8
#: filters. There are none of L1C.
MEASURED_AGREEMENT = {
    "kappamask_l2a_deeplabv3plus": {"f32": 0.99994, "bf16": 0.9881, "fp16": 0.9952},
    "kappamask_l2a_unet": {"f32": 0.99998, "bf16": 0.9936, "fp16": 0.9977},
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the four networks: how it is called, what it sees.

    Attributes
    ----------
    divisors : per channel in the network's order, the share of full scale (65535) that becomes 1.0 (``max_v``).
    reduced_precision_from : tensors behind which an engine may compute in bfloat16.
    activation : ONNX operator that makes probabilities of logits.
    """

    level: str
    architecture: str
    divisors: dict[str, float]
    network: Network
    reduced_precision_from: tuple[str, ...]
    activation: str


VARIANTS = {
    "kappamask_l1c_deeplabv3plus": Variant(
        level="L1C",
        architecture="DeepLabv3Plus",
        divisors={
            "B01": 0.2065003365278244,
            "B02": 0.3510643243789673,
            "B03": 0.3327534794807434,
            "B04": 0.3624475598335266,
            "B05": 0.29547569155693054,
            "B06": 0.29562827944755554,
            "B07": 0.29103532433509827,
            "B08": 0.3791866898536682,
            "B8A": 0.2850232720375061,
            "B09": 0.18451209366321564,
            "B10": 0.0799115002155304,
            "B11": 0.24786755442619324,
            "B12": 0.24827954173088074,
        },
        network=deeplabv3plus.deeplabv3plus,
        reduced_precision_from=deeplabv3plus.REDUCED_PRECISION_FROM,
        activation="Softmax",
    ),
    "kappamask_l1c_unet": Variant(
        level="L1C",
        architecture="Unet",
        divisors={
            "B01": 0.21,
            "B02": 0.326,
            "B03": 0.264,
            "B04": 0.298,
            "B05": 0.245,
            "B06": 0.258,
            "B07": 0.266,
            "B08": 0.364,
            "B8A": 0.259,
            "B09": 0.165,
            "B10": 0.055,
            "B11": 0.203,
            "B12": 0.208,
        },
        network=unet.unet,
        reduced_precision_from=unet.REDUCED_PRECISION_FROM,
        activation="Sigmoid",
    ),
    "kappamask_l2a_deeplabv3plus": Variant(
        level="L2A",
        architecture="DeepLabv3Plus",
        divisors={
            "AOT": 0.010711833834648132,
            "B01": 0.32552072405815125,
            "B02": 0.3022507131099701,
            "B03": 0.28221559524536133,
            "B04": 0.2690470814704895,
            "B05": 0.27560845017433167,
            "B06": 0.2571450471878052,
            "B07": 0.2557412087917328,
            "B08": 0.2529335618019104,
            "B8A": 0.2544899582862854,
            "B09": 0.2657511234283447,
            "B11": 0.2381628155708313,
            "B12": 0.2401922643184662,
            "WVP": 0.14035248756408691,
        },
        network=deeplabv3plus.deeplabv3plus,
        reduced_precision_from=deeplabv3plus.REDUCED_PRECISION_FROM,
        activation="Softmax",
    ),
    "kappamask_l2a_unet": Variant(
        level="L2A",
        architecture="Unet",
        divisors={
            "AOT": 0.003906309604644775,
            "B01": 0.2833447754383087,
            "B02": 0.27905699610710144,
            "B03": 0.2668497860431671,
            "B04": 0.2558480203151703,
            "B05": 0.250980406999588,
            "B06": 0.24597543478012085,
            "B08": 0.24182498455047607,
            "B8A": 0.24206912517547607,
            "B09": 0.2535133957862854,
            "B11": 0.2232242375612259,
            "B12": 0.23524834215641022,
            "WVP": 0.07557793706655502,
        },
        network=unet.unet,
        reduced_precision_from=unet.REDUCED_PRECISION_FROM,
        activation="Sigmoid",
    ),
}

#: Which file of a product a band is read from, and a tile's shape there. 85 pixels for 512 at 10 m stretch the 60 m
#: bands by half a percent; the networks were trained with that.
GRIDS = (
    (10, 512, 480, ("AOT", "B02", "B03", "B04", "B08", "WVP")),
    (20, 256, 240, ("B05", "B06", "B07", "B8A", "B11", "B12")),
    (60, 85, 80, ("B01", "B09", "B10")),
)
