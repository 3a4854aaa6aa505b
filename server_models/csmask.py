"""csmask: DLR's ukis-csmask (Apache-2.0) as a self-contained graph with the wire format of the contract.

Wieland et al. 2019, doi:10.1016/j.rse.2019.05.022; version 1.0 of the package ships EfficientNet-B4 U-Nets. Input of
the network: reflectance of blue, green, red, near infrared and two short-wave infrared bands, normalised with the mean
and deviation beside the weights; output: logits of clear, cloud and cloud shadow.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kappamask_stream.contract import FAULT_LABEL, BandGroup, MaskClass, ModelContract
from kappamask_stream.errors import InputError, ServerSetupError
from server_models.onnx_reading import read_onnx, require_finite, require_values
from server_models.recentring import recentred

if TYPE_CHECKING:
    from collections.abc import Iterator

OPSET, IR_VERSION = 17, 8
#: More than three times the published files (40 MB); the statistics beside them take 2 kB.
MAX_BYTES, _MAX_STATISTICS = 128 << 20, 1 << 16
_BANDS = 6
#: Characters of a foreign complaint in a message.
_SHOWN = 300
TILE, MARGIN = 256, 26
STRIDE = TILE - 2 * MARGIN
#: With one, Triton's batcher now and then sleeps for half a second while requests wait: as long as a batch takes here.
INSTANCES = 2

#: All values that a mask can hold, as KappaMask numbers them; csmask gives 1, 2 and 4.
CLASSES = (
    MaskClass(value=0, name="UNDEFINED", colour=(128, 0, 128)),
    MaskClass(value=1, name="CLEAR", colour=(62, 135, 68)),
    MaskClass(value=2, name="CLOUD_SHADOW", colour=(60, 60, 90)),
    MaskClass(value=3, name="SEMI_TRANSPARENT_CLOUD", colour=(170, 200, 225)),
    MaskClass(value=4, name="CLOUD", colour=(255, 255, 255)),
    MaskClass(value=5, name="MISSING", colour=(0, 0, 0)),
)
#: Class values of the network's outputs, put in ascending order: clear, shadow, cloud.
_ORDER, _VALUES = (0, 2, 1), (1, 2, 4)

#: A product level, and how its 10 m files are read where it is not by averaging them.
Variant = Literal["L1C", "L2A", "L1C_reduced"]

_INPUTS: dict[Variant, tuple[BandGroup, ...]] = {
    "L2A": (BandGroup(gsd_m=20, bands=("B02", "B03", "B04", "B8A", "B11", "B12"), tile=TILE, stride=STRIDE),),
    # L1C has no 20 m files of the visible bands: those of 10 m are averaged in the graph, near infrared is B08. It is
    # digital numbers that are averaged, as a 20 m pixel would have been measured; offset and clamp come after. Clamped
    # first, the noise of dark water around 0 would come out as brightness.
    "L1C": (
        BandGroup(gsd_m=10, bands=("B02", "B03", "B04", "B08"), tile=2 * TILE, stride=2 * STRIDE),
        BandGroup(gsd_m=20, bands=("B11", "B12"), tile=TILE, stride=STRIDE),
    ),
    # The same bands from a quarter of the coded data: what the 5/3 wavelet leaves of 10 m files at half resolution.
    "L1C_reduced": (
        BandGroup(gsd_m=20, file_gsd_m=10, bands=("B02", "B03", "B04", "B08"), tile=TILE, stride=STRIDE),
        BandGroup(gsd_m=20, bands=("B11", "B12"), tile=TILE, stride=STRIDE),
    ),
}
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def contract(variant: Variant, weights_sha256: str, *, max_batch: int = 8) -> ModelContract:
    """Return the contract of csmask for a product level and a way of reading it."""
    inputs = _INPUTS[variant]
    channels = tuple(band for group in inputs for band in group.bands)
    return ModelContract(
        name=f"csmask_{variant.lower()}",
        family="csmask",
        level=_level(variant),
        architecture="EfficientNetB4-Unet",
        precision="f32",
        gsd_m=20,
        tile_size=TILE,
        margin=MARGIN,
        inputs=inputs,
        channels=channels,
        divisors=(1.0,) * len(channels),
        dn_unit="quantification",
        offset_rule="reflectance",
        classes=CLASSES,
        nodata_class=5,
        probability_classes=_VALUES,
        suffix="CS",
        max_batch=max_batch,
        instances=INSTANCES,
        weights_sha256=weights_sha256,
        weights_source="ukis-csmask 1.0.0, German Aerospace Center (DLR), Apache-2.0",
        min_agreement=0.9995,
    )


def _level(variant: Variant) -> str:
    return variant.partition("_")[0]


def published_contract(variant: Variant) -> ModelContract:
    """Return the contract of csmask as the package's weights make it.

    Raises
    ------
    ServerSetupError
        If the package ukis-csmask is not installed.
    """
    return contract(variant, hashlib.sha256(_weights(_level(variant)).read_bytes()).hexdigest())


def build(variant: Variant, destination: Path) -> ModelContract:
    """Write the graph for a product level and a way of reading it to `destination` (ONNX) and return its contract.

    Raises
    ------
    ServerSetupError
        If the package ukis-csmask is not installed.
    InputError
        If the package's files are damaged, or others than csmask's.
    """
    weights = _weights(_level(variant))
    mean, deviation = _statistics(weights.with_suffix(".json"))
    with _is_csmask(weights):
        network = _folded(weights)
        model = onnx.compose.merge_models(
            _preprocessing(variant, mean, deviation),
            network,
            io_map=[("network_input", network.graph.input[0].name)],
        )
        model = onnx.compose.merge_models(
            model,
            _postprocessing(),
            io_map=[(network.graph.output[0].name, "logits"), ("input_total", "network_input_total")],
        )
        model.graph.name = f"csmask_{variant.lower()}"
        onnx.checker.check_model(model, full_check=True)
    onnx.save(model, destination)
    return published_contract(variant)


def _weights(level: str) -> Path:
    """Find the package's file without importing it: it would want scipy."""
    found = importlib.util.find_spec("ukis_csmask")
    if found is None or not found.submodule_search_locations:
        raise ServerSetupError(
            "ukis-csmask is not installed in the server's environment: run `kappamask-stream server install` again"
        )
    return Path(found.submodule_search_locations[0]) / f"model_6b_{level.lower()}.onnx"


def _remedy(file: Path) -> str:
    """Say how the package's file is had again: an installation finds it missing and fetches it anew."""
    return f"remove {file.parent} and run `kappamask-stream server install` again"


@contextlib.contextmanager
def _is_csmask(weights: Path) -> Iterator[None]:
    """Say of whatever onnx and onnxruntime complain about that it is the file's fault."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # onnxruntime's errors have no common base of their own, onnx has several
        why = " ".join(str(error).split())
        raise InputError(f"{weights}: no network of csmask's: {why[:_SHOWN]}: {_remedy(weights)}") from error


def _statistics(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return mean and deviation of each band, float32 ``[1, 6, 1, 1]``.

    Raises
    ------
    InputError
        If the file is damaged, or says others than six numbers of each.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_STATISTICS + 1)
        if len(content) > _MAX_STATISTICS:
            raise InputError(f"{path}: more than {_MAX_STATISTICS} bytes, csmask's have 2 kB: {_remedy(path)}")
        said = json.loads(content)["data"]["dataset_statistics"]["img"]
        mean, deviation = np.array(said, np.float32).reshape(2, 1, _BANDS, 1, 1)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not the mean and deviation of {_BANDS} bands ({error}): {_remedy(path)}") from error
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
        raise InputError(f"{path}: mean and deviation must be finite, deviations above 0: {_remedy(path)}")
    return mean, deviation


def _folded(weights: Path) -> onnx.ModelProto:
    """Load the network with constant padding, folded BatchNorm and float32 weights; only the batch stays dynamic.

    The published graph computes its padding at run time and stores weights as float16.
    """
    import onnxruntime

    remedy, shapes = _remedy(weights), ((1, _BANDS, TILE, TILE), (1, len(_VALUES), TILE, TILE))
    model = read_onnx(weights, remedy=remedy, limit=MAX_BYTES)
    # Sizes that the graph gives are compared, those that it leaves open are given by us.
    for what, values, shape in (("inputs", model.graph.input, shapes[0]), ("outputs", model.graph.output, shapes[1])):
        require_values(weights, what, values, [(TensorProto.FLOAT, shape)], remedy=remedy)
    require_finite(weights, model, remedy=remedy)
    for value, shape in zip((model.graph.input[0], model.graph.output[0]), shapes, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dimension.dim_value = size
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = read_onnx(Path(options.optimized_model_filepath), remedy=remedy)
    for value in (folded.graph.input[0], folded.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del folded.graph.value_info[:]
    _store_as_float32(folded.graph)
    used = {node.domain for node in folded.graph.node}
    kept = [o for o in folded.opset_import if o.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.ir_version = IR_VERSION
    return folded


def _store_as_float32(graph: onnx.GraphProto) -> None:
    """Replace casts of float16 constants by float32 constants."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            values = numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    needed = {name for node in kept for name in node.input}
    live = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(live)


def _preprocessing(variant: Variant, mean: np.ndarray[Any, Any], deviation: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """Return DN to normalised reflectance: (max(q + OFFSET, 0) * SCALE - mean) / deviation, float32."""
    nodes, inputs, parts = [], [], []
    constants = dict[str, np.ndarray[Any, Any]]()
    for group in _INPUTS[variant]:
        inputs.append(_value(group.tensor, TensorProto.UINT16, ["N", len(group.bands), group.tile, group.tile]))
        part = f"{group.tensor}_f32"
        nodes.append(helper.make_node("Cast", [group.tensor], [part], to=TensorProto.FLOAT))
        if group.tile != TILE:
            factor = group.tile // TILE
            averaged = f"{part}_averaged"
            nodes.append(
                helper.make_node("AveragePool", [part], [averaged], kernel_shape=[factor] * 2, strides=[factor] * 2)
            )
            part = averaged
        if group.file_gsd_m is not None:
            part, moving, values = recentred(part, group.tile)
            nodes += moving
            constants |= values
        parts.append(part)
    nodes += [
        helper.make_node("Concat", parts, ["dn"], axis=1),
        helper.make_node("Unsqueeze", ["OFFSET", "axes_hw"], ["offset_hw"]),
        helper.make_node("Unsqueeze", ["SCALE", "axes_hw"], ["scale_hw"]),
        helper.make_node("Add", ["dn", "offset_hw"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["clamped"]),
        helper.make_node("Mul", ["clamped", "scale_hw"], ["reflectance"]),
        helper.make_node("Sub", ["reflectance", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["network_input"]),
        helper.make_node("Abs", ["network_input"], ["input_magnitude"]),
        helper.make_node("ReduceSum", ["input_magnitude", "axes_all"], ["pixels_total"], keepdims=0),
        # OpenVINO's Relu makes 0 of NaN, and -inf is clamped to 0: offsets are looked at before they are applied.
        helper.make_node("Abs", ["OFFSET"], ["offset_magnitude"]),
        helper.make_node("ReduceSum", ["offset_magnitude", "axis_1"], ["offset_total"], keepdims=0),
        helper.make_node("Add", ["pixels_total", "offset_total"], ["input_total"]),
    ]
    inputs += [_value(name, TensorProto.FLOAT, ["N", 6]) for name in ("OFFSET", "SCALE")]
    constants |= {
        "axes_hw": np.array([2, 3], np.int64),
        "axes_all": np.array([1, 2, 3], np.int64),
        "axis_1": np.array([1], np.int64),
        "mean": mean,
        "deviation": deviation,
    }
    outputs = [
        _value("network_input", TensorProto.FLOAT, ["N", 6, TILE, TILE]),
        _value("input_total", TensorProto.FLOAT, ["N"]),
    ]
    return _model("preprocessing", nodes, inputs, outputs, constants)


def _postprocessing() -> onnx.ModelProto:
    """Return logits to LABELS (255 in a tile with a value that is not finite) and PROBABILITIES."""
    nodes = [
        helper.make_node("Gather", ["logits", "order"], ["ascending"], axis=1),
        helper.make_node("ArgMax", ["ascending"], ["winner"], axis=1, keepdims=0),
        helper.make_node("Gather", ["values", "winner"], ["classes"]),
        # NaN and infinity survive a sum of magnitudes, and compare false with the largest float. The network's input
        # is looked at too: some engines' activations turn NaN into a number.
        helper.make_node("Abs", ["logits"], ["magnitude"]),
        helper.make_node("ReduceSum", ["magnitude", "axes_chw"], ["logits_total"], keepdims=0),
        helper.make_node("Add", ["logits_total", "network_input_total"], ["total"]),
        helper.make_node("LessOrEqual", ["total", "largest"], ["is_finite"]),
        helper.make_node("Unsqueeze", ["is_finite", "axes_12"], ["is_finite_hw"]),
        helper.make_node("Where", ["is_finite_hw", "classes", "fault"], ["LABELS"]),
        helper.make_node("Softmax", ["ascending"], ["probability"], axis=1),
        helper.make_node("Mul", ["probability", "levels"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["rounded"]),
        helper.make_node("Floor", ["rounded"], ["floored"]),
        helper.make_node("Cast", ["floored"], ["PROBABILITIES"], to=TensorProto.UINT8),
    ]
    constants: dict[str, np.ndarray[Any, Any]] = {
        "order": np.array(_ORDER, np.int64),
        "values": np.array(_VALUES, np.uint8),
        "axes_chw": np.array([1, 2, 3], np.int64),
        "axes_12": np.array([1, 2], np.int64),
        "largest": np.array(np.finfo(np.float32).max, np.float32),
        "fault": np.array(FAULT_LABEL, np.uint8),
        "levels": np.array(255.0, np.float32),
        "half": np.array(0.5, np.float32),
    }
    inputs = [
        _value("logits", TensorProto.FLOAT, ["N", 3, TILE, TILE]),
        _value("network_input_total", TensorProto.FLOAT, ["N"]),
    ]
    outputs = [
        _value("LABELS", TensorProto.UINT8, ["N", TILE, TILE]),
        _value("PROBABILITIES", TensorProto.UINT8, ["N", 3, TILE, TILE]),
    ]
    return _model("postprocessing", nodes, inputs, outputs, constants)


def _value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray[Any, Any]],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
