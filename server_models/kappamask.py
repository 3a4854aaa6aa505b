"""KappaMask's four networks: their contracts, and the served graphs built from published weights.

A served graph holds everything from digital numbers to classes:

    DN_10M, DN_20M, DN_60M, OFFSET, SCALE -> pre-processing (float32) -> network -> LABELS, PROBABILITIES

``f32`` and ``bf16`` are the same nodes: bfloat16 is something an engine does on a CPU that has it, and it must do so
only behind the tensors that the metadata entry `FLOAT32_UNTIL` names (`openvino_engine` does). ``fp16`` stores the
network in half precision, for GPUs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.contract import FAULT_LABEL, BandGroup, ModelContract
from kappamask_stream.errors import OutputError, UsageError
from server_models.digest import file_sha256
from server_models.graph_builder import GraphBuilder
from server_models.hdf5_weights import read_keras_weights
from server_models.kappamask_preprocess import INPUT_MAGNITUDE, NORMALISED, preprocess, total
from server_models.kappamask_variants import (
    CLASSES,
    GRIDS,
    GSD_M,
    MARGIN,
    MAX_BATCH,
    MEASURED_AGREEMENT,
    MIN_AGREEMENT,
    MISSING,
    TILE,
    VARIANTS,
    Variant,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from server_models.graph_builder import FeatureMap
    from server_models.hdf5_weights import KerasWeights
    from server_models.kappamask_preprocess import Preprocessed

#: Key of the metadata entry that names the tensors (comma separated) up to which every engine computes in float32.
FLOAT32_UNTIL = "float32_until"

_WEIGHTS_SOURCE = (
    "a Keras HDF5 file as KappaZeta publishes at http://kappamask.s3-website.eu-central-1.amazonaws.com/model_weights; "
    "licence not stated beyond the Apache-2.0 of the km_predict repository"
)

#: Sums of absolute values above this are taken for not finite; bfloat16 can hold it, float32's maximum it cannot.
_FINITE_LIMIT = 1e38


def model_names() -> tuple[str, ...]:
    """Return the names of all models that can be built, float32 first."""
    return tuple(_full_name(name, precision) for name in VARIANTS for precision in MIN_AGREEMENT)


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
        for gsd_m, tile, stride, bands in GRIDS
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
        max_batch=MAX_BATCH,
        instances=1,
        weights_sha256=weights_sha256,
        weights_source=_WEIGHTS_SOURCE,
        min_agreement=MIN_AGREEMENT[precision],
        measured_agreement=MEASURED_AGREEMENT.get(name, {}).get(precision),
    )


def layout(name: str, weights_sha256: str = "") -> ModelContract:
    """Return the contract of a model by its name.

    Parameters
    ----------
    name : one of `model_names`.

    Raises
    ------
    UsageError
        If there is no such network.
    """
    precision = precision_of(name)
    _, variant = _variant(name.removesuffix(f"_{precision}"))
    return contract(variant.level, variant.architecture, precision, weights_sha256)


def build(name: str, weights: Path, destination: Path) -> ModelContract:
    """Write one self-contained ONNX file.

    Parameters
    ----------
    name : one of `model_names`.
    weights : Keras HDF5 file.
    destination : the ONNX file; an existing one is replaced once the new one is complete.

    Raises
    ------
    UsageError
        If the model or the weights file does not exist.
    InputError
        If the weights are damaged or another network's.
    OutputError
        If the file cannot be written.
    """
    tensors = read_keras_weights(weights)
    made = layout(name, file_sha256(weights))
    _write(build_graph(made, tensors), destination)
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


def precision_of(name: str) -> str:
    """Return the precision that a model's name ends in."""
    last = name.rpartition("_")[2]
    return last if last in MIN_AGREEMENT else "f32"


def _full_name(name: str, precision: str) -> str:
    return name if precision == "f32" else f"{name}_{precision}"


def _variant(name: str) -> tuple[str, Variant]:
    if name not in VARIANTS:
        raise UsageError(f"there is no model {name}; KappaMask has {', '.join(VARIANTS)}")
    return name, VARIANTS[name]


def _check_precision(precision: str) -> None:
    if precision not in MIN_AGREEMENT:
        raise UsageError(f"there is no precision {precision}; choose one of {', '.join(MIN_AGREEMENT)}")


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
