"""KappaMask's four networks: their contracts, and the served graphs built from published weights.

The constants are km_predict 2.4's. A served graph holds everything from digital numbers to classes:

    DN_10M, DN_20M, DN_60M, OFFSET, SCALE -> pre-processing (float32) -> network -> LABELS, PROBABILITIES

``f32`` and ``bf16`` are the same nodes: bfloat16 is something an engine does on a CPU that has it, and it must do so
only behind the tensors that the metadata entry `FLOAT32_UNTIL` names (`openvino_engine` does). ``fp16`` stores the
network in half precision, for GPUs.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.contract import FAULT_LABEL, BandGroup, MaskClass, ModelContract
from kappamask_stream.errors import OutputError, UsageError
from server_models import deeplabv3plus, unet
from server_models.graph_builder import GraphBuilder
from server_models.hdf5_weights import read_keras_weights
from server_models.kappamask_preprocess import INPUT_MAGNITUDE, NORMALISED, preprocess, total

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from server_models.graph_builder import FeatureMap
    from server_models.hdf5_weights import KerasWeights
    from server_models.kappamask_preprocess import Preprocessed

    Network = Callable[..., FeatureMap]

#: Tile and margin in pixels of 10 m.
TILE, MARGIN, GSD_M = 512, 16, 10

#: Key of the metadata entry that names the tensors (comma separated) up to which every engine computes in float32.
FLOAT32_UNTIL = "float32_until"

CLASSES = (
    MaskClass(value=0, name="UNDEFINED", colour=(128, 128, 128)),
    MaskClass(value=1, name="CLEAR", colour=(104, 159, 56)),
    MaskClass(value=2, name="CLOUD_SHADOW", colour=(62, 54, 93)),
    MaskClass(value=3, name="SEMI_TRANSPARENT_CLOUD", colour=(158, 202, 225)),
    MaskClass(value=4, name="CLOUD", colour=(255, 255, 255)),
    MaskClass(value=5, name="MISSING", colour=(0, 0, 0)),
)
MISSING = 5

#: Per precision, the share of pixels whose class is float32's (for float32 itself: the reference's): as measured on the
#: worst of DeepLabv3+'s golden tiles, and the least with which a built model is served, a little below.
AGREEMENT = {"f32": (0.99994, 0.9995), "bf16": (0.9881, 0.98), "fp16": (0.9952, 0.994)}
MIN_AGREEMENT = {precision: least for precision, (_, least) in AGREEMENT.items()}

_WEIGHTS_SOURCE = (
    "a Keras HDF5 file as KappaZeta publishes at http://kappamask.s3-website.eu-central-1.amazonaws.com/model_weights; "
    "licence not stated beyond the Apache-2.0 of the km_predict repository"
)

#: Sums of absolute values above this are taken for not finite; bfloat16 can hold it, float32's maximum it cannot.
_FINITE_LIMIT = 1e38


@dataclass(frozen=True, kw_only=True)
class _Variant:
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


_VARIANTS = {
    "kappamask_l1c_deeplabv3plus": _Variant(
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
    "kappamask_l1c_unet": _Variant(
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
    "kappamask_l2a_deeplabv3plus": _Variant(
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
    "kappamask_l2a_unet": _Variant(
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
_GRIDS = (
    (10, 512, 480, ("AOT", "B02", "B03", "B04", "B08", "WVP")),
    (20, 256, 240, ("B05", "B06", "B07", "B8A", "B11", "B12")),
    (60, 85, 80, ("B01", "B09", "B10")),
)


def model_names() -> tuple[str, ...]:
    """Return the names of all models that can be built, float32 first."""
    return tuple(_full_name(name, precision) for name in _VARIANTS for precision in MIN_AGREEMENT)


def contract(level: str, architecture: str, precision: str, weights_sha256: str) -> ModelContract:
    """Return the contract of one network.

    Parameters
    ----------
    level : ``L1C`` or ``L2A``.
    architecture : ``DeepLabv3Plus`` or ``Unet``, in any case.
    precision : ``f32``, ``bf16`` or ``fp16``.
    weights_sha256 : of the weights file, hexadecimal.

    Raises
    ------
    UsageError
        If there is no such network or precision.
    """
    name, variant = _variant(f"kappamask_{level}_{architecture}".lower())
    _check_precision(precision)
    channels = tuple(variant.divisors)
    groups = [
        BandGroup(gsd_m=gsd_m, bands=tuple(b for b in bands if b in channels), tile=tile, stride=stride)
        for gsd_m, tile, stride, bands in _GRIDS
    ]
    return ModelContract(
        name=_full_name(name, precision),
        family="kappamask",
        level=variant.level,
        architecture=variant.architecture,
        precision=precision,
        gsd_m=GSD_M,
        tile_size=TILE,
        margin=MARGIN,
        inputs=tuple(groups),
        channels=channels,
        divisors=tuple(variant.divisors.values()),
        dn_unit="full_scale",
        offset_rule="reflectance",
        classes=CLASSES,
        nodata_class=MISSING,
        probability_classes=tuple(c.value for c in CLASSES),
        suffix="KZ",
        max_batch=8,
        instances=1,
        weights_sha256=weights_sha256,
        weights_source=_WEIGHTS_SOURCE,
        min_agreement=MIN_AGREEMENT[precision],
        measured_agreement=AGREEMENT[precision][0],
    )


def build(name: str, weights: Path, destination: Path, *, precision: str = "f32") -> ModelContract:
    """Write one self-contained ONNX file.

    Parameters
    ----------
    name : one of `model_names`, with or without the precision at its end.
    weights : Keras HDF5 file.
    destination : the ONNX file; an existing one is replaced once the new one is complete.
    precision : ``f32``, ``bf16`` or ``fp16``.

    Raises
    ------
    UsageError
        If the model, the precision or the weights file does not exist.
    InputError
        If the weights are damaged or another network's.
    OutputError
        If the file cannot be written.
    """
    _check_precision(precision)
    _, variant = _variant(name.removesuffix(f"_{precision}"))
    tensors = read_keras_weights(weights)
    made = contract(variant.level, variant.architecture, precision, _sha256(weights))
    model = build_graph(made, tensors)
    _write(model, destination)
    return made


def build_graph(contract: ModelContract, weights: KerasWeights) -> onnx.ModelProto:
    """Build the served graph of a contract; its tile may be smaller than 512 (a multiple of 16), for tests.

    Raises
    ------
    InputError
        If a tensor is missing, too many, or of a shape that does not fit.
    """
    _, variant = _variant(f"kappamask_{contract.level}_{contract.architecture}".lower())
    graph = GraphBuilder(contract.name, dtype=np.float16 if contract.precision == "fp16" else np.float32)
    size = contract.tile_size
    ready = preprocess(graph, contract.inputs, contract.channels, size=size)
    logits = variant.network(graph, graph.to_network(ready.x), weights, classes=len(contract.probability_classes))
    labels, probabilities = _answers(graph, ready, logits, variant.activation)
    float32_until = variant.reduced_precision_from if contract.precision == "bf16" else (NORMALISED,)
    metadata = {
        "contract": contract.to_json(),
        "precision": contract.precision,
        FLOAT32_UNTIL: ",".join([*float32_until, INPUT_MAGNITUDE]),
    }
    outputs: dict[str, tuple[type[np.generic], Sequence[int]]] = {
        labels: (np.uint8, (size, size)),
        probabilities: (np.uint8, (logits.channels, size, size)),
    }
    return graph.model(outputs, metadata=metadata)


def _answers(graph: GraphBuilder, ready: Preprocessed, logits: FeatureMap, activation: str) -> tuple[str, str]:
    """Append LABELS ``[N, H, W]`` and PROBABILITIES ``[N, classes, H, W]``, both UINT8."""
    axis = {"axis": 1} if activation == "Softmax" else {}
    p = graph.op(activation, logits.name, name="probabilities", **axis)
    sums = [total(graph, x.name) for x in (logits, *graph.watched)]
    magnitude = graph.op("Sum", ready.magnitude, *sums)
    # Written so that NaN fails the comparison.
    finite = graph.op("LessOrEqual", magnitude, graph.constant(np.float32(_FINITE_LIMIT)))  # [N, 1, 1, 1]

    best = graph.cast(graph.op("ArgMax", p, axis=1, keepdims=0), np.uint8)
    tile_finite = graph.op("Squeeze", finite, graph.constant(np.array([3], np.int64)))  # [N, 1, 1]
    labels = graph.op("Where", tile_finite, best, graph.constant(np.uint8(FAULT_LABEL)), name="LABELS")

    scaled = graph.op("Mul", p, graph.constant(np.float32(255)))
    rounded = graph.op("Floor", graph.op("Add", scaled, graph.constant(np.float32(0.5))))
    usable = graph.op("Where", finite, rounded, graph.constant(np.float32(0)))
    probabilities = graph.op("Cast", usable, name="PROBABILITIES", to=2)  # UINT8
    return labels, probabilities


def _full_name(name: str, precision: str) -> str:
    return name if precision == "f32" else f"{name}_{precision}"


def _variant(name: str) -> tuple[str, _Variant]:
    if name not in _VARIANTS:
        raise UsageError(f"there is no model {name}; KappaMask has {', '.join(_VARIANTS)}")
    return name, _VARIANTS[name]


def _check_precision(precision: str) -> None:
    if precision not in MIN_AGREEMENT:
        raise UsageError(f"there is no precision {precision}; choose one of {', '.join(MIN_AGREEMENT)}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(model: onnx.ModelProto, destination: Path) -> None:
    """Write beside the destination, then rename."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=destination.parent, prefix=".onnx-", delete=False) as file:
            try:
                file.write(model.SerializeToString(deterministic=True))
                file.close()
                Path(file.name).chmod(0o644)
                Path(file.name).replace(destination)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OutputError(f"{destination}: the model cannot be written: {error}") from error
