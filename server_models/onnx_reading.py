"""Read ONNX files, trusting nothing: what they hold lies in the file, is as large as they say, and is of known kinds.

`onnx.load` follows a tensor's reference to another file wherever that leads (onnx's ``external_data_helper``), and
believes shapes. Graphs come with a package that is fetched (csmask's), or lie in a repository that others may write.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: More than the largest graph that can be built: from weights of as many bytes (`hdf5_weights.MAX_BYTES`).
MAX_BYTES = 1 << 30
#: csmask has 1,400; full KappaMask graphs have fewer.
MAX_NODES, MAX_TENSORS = 1 << 14, 1 << 14
#: Graphs inside of nodes (If, Loop) inside of nodes.
_MAX_DEPTH = 8
#: Operator sets that onnx itself defines, from the first with today's shapes of BatchNormalization on.
_DOMAINS, _OLDEST_OPSET = ("", "ai.onnx"), 7
#: Characters of a name in a message.
_SHOWN = 80

#: Kinds of values that are read, and the bytes of one.
_ITEM_BYTES = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.BOOL: 1,
    TensorProto.INT8: 1,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def read_onnx(path: Path, *, remedy: str, limit: int = MAX_BYTES) -> onnx.ModelProto:
    """Read a graph with all that it holds; no other file is opened.

    Parameters
    ----------
    remedy : what messages end with: how a sound file is had.
    limit : bytes that the file may have.

    Raises
    ------
    InputError
        If there is no such file, it is larger than `limit`, no ONNX file, cut short, keeps tensors outside of itself
        or of another size than their shapes, or has operators that onnx does not define.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path}: {size} bytes, such a graph has at most {limit}: {remedy}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}: {remedy}") from error
    model, problem = None, f"no ONNX file, or cut short or damaged ({size} bytes)"
    with suppress(DecodeError, MemoryError):
        model = onnx.load_model_from_string(content)
        problem = _problem(model)
    if problem:
        # An error that held them, by its cause or this frame, would leave no memory for tidying up what was begun.
        del model, content
        raise InputError(f"{path}: {problem}: {remedy}")
    return model


def require_values(
    path: Path,
    what: str,
    values: Sequence[onnx.ValueInfoProto],
    expected: Sequence[tuple[int, tuple[int, ...]]],
    *,
    remedy: str,
) -> None:
    """Refuse a graph with other inputs, or outputs, than are expected.

    Parameters
    ----------
    what : ``inputs`` or ``outputs``.
    expected : kind (`TensorProto`) and shape of each; a size that the graph leaves open fits any.

    Raises
    ------
    InputError
        Naming both.
    """
    found = [(v.type.tensor_type.elem_type, _sizes(v)) for v in values]
    fits = len(found) == len(expected) and all(
        kind == wanted and len(sizes) == len(shape) and all(s in (0, e) for s, e in zip(sizes, shape, strict=True))
        for (kind, sizes), (wanted, shape) in zip(found, expected, strict=True)
    )
    if not fits:
        there = ", ".join(_value_text(kind, sizes) for kind, sizes in found[:4]) or "none"
        wanted_text = ", ".join(_value_text(kind, shape) for kind, shape in expected)
        raise InputError(f"{path}: its {len(found)} {what} are {there}, expected {wanted_text}: {remedy}")


def require_finite(path: Path, model: onnx.ModelProto, *, remedy: str) -> None:
    """Refuse weights that are not finite: every answer would be none.

    Raises
    ------
    InputError
        Naming the first tensor and how many of its values are so.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            values = numpy_helper.to_array(tensor)
            wrong = values.size - int(np.isfinite(values).sum())
            if wrong:
                raise InputError(
                    f"{path}: {wrong} of {values.size} values of tensor {_shown(tensor.name)} are not finite: {remedy}"
                )


def _problem(model: onnx.ModelProto) -> str:
    """Say what is wrong with a graph; nothing where nothing is."""
    if not model.ir_version or not model.graph.node:
        return "no ONNX graph: it has no version or no operators"
    if model.functions or model.training_info:
        return "it defines functions or training of its own, expected a plain graph"
    opset = max((o.version for o in model.opset_import if o.domain in _DOMAINS), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST_OPSET <= opset <= newest:
        return f"operator set {opset}, sets {_OLDEST_OPSET} to {newest} are read"
    try:
        return _parts_problem(model.graph)
    except _TooDeepError:
        return f"graphs within graphs, more than {_MAX_DEPTH} deep"


class _TooDeepError(Exception):
    pass


def _parts_problem(graph: onnx.GraphProto) -> str:
    nodes = tensors = 0
    for part in _parts(graph):
        if isinstance(part, TensorProto):
            tensors += 1
            problem = _tensor_problem(part)
        else:
            nodes += 1
            problem = _node_problem(part)
        if problem:
            return problem
        if nodes > MAX_NODES or tensors > MAX_TENSORS:
            return f"more than {MAX_NODES} operators or {MAX_TENSORS} tensors"
    return ""


def _parts(graph: onnx.GraphProto, depth: int = 0) -> Iterator[onnx.NodeProto | TensorProto]:
    """Yield all operators and tensors of a graph and those within its operators."""
    if depth > _MAX_DEPTH:
        raise _TooDeepError
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _parts(inner, depth + 1)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in [
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        *attribute.sparse_tensors,
    ]:
        yield from (sparse.values, sparse.indices)


def _node_problem(node: onnx.NodeProto) -> str:
    if node.domain not in _DOMAINS:
        return f"operator {_shown(node.op_type)} of {_shown(node.domain)}, expected onnx's own"
    return ""


def _tensor_problem(tensor: TensorProto) -> str:
    name = f"tensor {_shown(tensor.name)}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        named = next((e.value for e in tensor.external_data if e.key == "location"), "no file")
        return f"{name} keeps its values outside the file, in {_shown(named)}: refused"
    if tensor.data_type not in _ITEM_BYTES:
        return f"{name} is of kind {tensor.data_type}, expected plain numbers"
    count = 1
    for size in tensor.dims:
        count *= size
    if any(size < 0 for size in tensor.dims):
        return f"{name} has shape {_shape_text(tensor.dims)}, expected sizes of 0 or more"
    item = _ITEM_BYTES[tensor.data_type]
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
    else:
        held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))) * item
    if held != count * item:
        return f"{name} has {held} bytes in the file, its shape {_shape_text(tensor.dims)} needs {count * item}"
    return ""


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a value's shape, 0 where the graph leaves a size open."""
    return tuple(int(d.dim_value) for d in value.type.tensor_type.shape.dim)


def _value_text(kind: int, shape: Sequence[int]) -> str:
    known = kind in TensorProto.DataType.values()
    return f"{TensorProto.DataType.Name(kind) if known else kind} {_shape_text([s or '*' for s in shape])}"


def _shape_text(shape: Sequence[object]) -> str:
    return f"({', '.join(map(str, shape))})"


def _shown(name: str) -> str:
    return ascii(name[:_SHOWN])
