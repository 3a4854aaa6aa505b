"""From a served ONNX graph to the steps of the GPU engine: what stands beside each other in the graph becomes one step.

Padding, ReLU, nearest-neighbour enlargement and type conversions are no steps of their own: the convolution that
reads or writes the tensor does them in its indices or at its end. Read is what `graph_builder` writes, between the
tensor `NORMALISED` and the logits; any other operator is refused by name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from kappamask_stream.errors import InputError
from server_models.kappamask_preprocess import NORMALISED

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: reads tensors by name, writes `output`."""

    output: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Conv(Step):
    """A convolution of all channels.

    Attributes
    ----------
    weight : float32 ``[kernel, kernel, in, out]``.
    bias : float32 ``[out]``.
    before : pixels of border before the first row and column.
    after : the same after the last; of the input after its enlargement.
    symmetric : True where the border mirrors, False where it is zero.
    enlarge : nearest-neighbour enlargement of the input before all else.
    relu : True where the answer is clamped at 0.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int
    dilation: int
    before: int
    after: int
    symmetric: bool
    enlarge: int
    relu: bool


@dataclass(frozen=True, kw_only=True)
class Depthwise(Step):
    """3 x 3 per channel over a mirrored border of 1, the input clamped at 0 if `relu`; `weight` [3, 3, channels]."""

    weight: NDArray[np.float32]
    relu: bool


@dataclass(frozen=True, kw_only=True)
class MaxPool(Step):
    """Maximum with stride 2, border pixels repeated; a second input is added to it."""

    kernel: int


@dataclass(frozen=True, kw_only=True)
class Add(Step):
    """Sum of two."""


@dataclass(frozen=True, kw_only=True)
class Upsample(Step):
    """Bilinear enlargement with half-pixel centres."""

    factor: int


@dataclass(frozen=True, kw_only=True)
class Mean(Step):
    """Mean over the image, 1 x 1 pixel."""


@dataclass(frozen=True, kw_only=True)
class Concat(Step):
    """Channels side by side; inputs of 1 x 1 pixel are spread over the image."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network as steps.

    Attributes
    ----------
    steps : in order; the first reads `NORMALISED`, the last writes the logits.
    enlarge : linear enlargement from the logits to the mask.
    activation : ``Softmax`` or ``Sigmoid``.
    """

    steps: tuple[Step, ...]
    enlarge: int
    activation: str


@dataclass(frozen=True, kw_only=True)
class _View:
    """What a tensor's readers are to do with the tensor `source` first."""

    source: str
    before: int = 0
    after: int = 0
    enlarge: int = 1
    relu: bool = False


#: Operators that leave a float16 graph's values as they are, or only watch them: the engine's kernels watch themselves.
_TRANSPARENT = {"Cast", "Expand"}


def read_plan(model: onnx.ModelProto) -> Plan:
    """Read the network's part of a served graph.

    Raises
    ------
    InputError
        If the graph has an operator, or an order of them, that `graph_builder` does not write.
    """
    return _Reader(model).read()


class _Reader:
    """State: per tensor what its readers see; the steps so far; the constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {t.name: t for t in model.graph.initializer}
        self._readers = Counter(name for node in model.graph.node for name in node.input)
        self._views = {NORMALISED: _View(source=NORMALISED)}
        self._steps: list[Step] = []
        self._writer: dict[str, int] = {}

    def read(self) -> Plan:
        for node in self._graph.node:
            if node.op_type in {"Softmax", "Sigmoid"} and node.output[0] == "probabilities":
                return self._finished(node)
            if node.input and node.input[0] in self._views and node.op_type not in {"Abs", "AveragePool"}:
                self._take(node)
        raise InputError(f"graph {self._graph.name}: there are no probabilities to be found")

    def _finished(self, node: onnx.NodeProto) -> Plan:
        view, steps, enlarge = self._views[node.input[0]], self._steps, 1
        if isinstance(steps[-1], Upsample):
            enlarge, steps = steps[-1].factor, steps[:-1]
        elif view.source != steps[-1].output:
            raise InputError(f"graph {self._graph.name}: the logits are not the last step")
        return Plan(steps=tuple(steps), enlarge=enlarge, activation=node.op_type)

    def _take(self, node: onnx.NodeProto) -> None:
        kind, view, name = node.op_type, self._views[node.input[0]], node.output[0]
        if kind in _TRANSPARENT:
            self._views[name] = replace(view)
        elif kind in {"Relu", "LeakyRelu"}:
            self._views[name] = self._relu(node, view)
        elif kind == "Pad":
            amounts = self._constant(node.input[1])
            self._views[name] = replace(view, before=int(amounts[2]), after=int(amounts[6]))
        elif kind == "Gather":  # rows, then columns, by the same indices
            border = self._border(node)
            self._views[name] = replace(view, before=border, after=border)
        elif kind == "Resize" and _attribute(node, "mode") == b"nearest":
            self._views[name] = replace(view, enlarge=int(self._constant(node.input[2])[2]))
        else:
            self._append(self._step(node, view))

    def _relu(self, node: onnx.NodeProto, view: _View) -> _View:
        """Let the convolution that writes the tensor clamp it where nobody else reads it; its readers otherwise."""
        number = self._writer.get(view.source)
        step = None if number is None else self._steps[number]
        if number is not None and isinstance(step, Conv) and self._readers[node.input[0]] == 1:
            self._steps[number] = replace(step, relu=True)
            return view
        return replace(view, relu=True)

    def _step(self, node: onnx.NodeProto, view: _View) -> Step:
        kind, name = node.op_type, node.output[0]
        if kind == "Conv":
            return self._conv(node, view)
        if view.before or view.after or view.relu or view.enlarge != 1:
            raise InputError(f"graph {self._graph.name}: {kind} {node.name} reads a padded, enlarged or clamped tensor")
        sources = tuple(self._views[each].source for each in node.input if each in self._views)
        if kind == "MaxPool":
            return MaxPool(output=name, inputs=sources, kernel=_attribute(node, "kernel_shape")[0])
        if kind == "Add":
            return self._add(name, sources)
        if kind == "Resize":
            return Upsample(output=name, inputs=sources, factor=int(self._constant(node.input[2])[2]))
        if kind == "GlobalAveragePool":
            return Mean(output=name, inputs=sources)
        if kind == "Concat":
            return Concat(output=name, inputs=sources)
        raise InputError(f"graph {self._graph.name}: the GPU engine has no {kind} ({node.name})")

    def _add(self, name: str, sources: tuple[str, ...]) -> Step:
        last = self._steps[-1]
        if isinstance(last, MaxPool) and last.output in sources and self._readers[last.output] == 1:
            self._steps.pop()
            return MaxPool(
                output=name, inputs=(*last.inputs, *(s for s in sources if s != last.output)), kernel=last.kernel
            )
        return Add(output=name, inputs=sources)

    def _conv(self, node: onnx.NodeProto, view: _View) -> Step:
        name, weight = node.output[0], self._constant(node.input[1]).astype(np.float32)  # [out, in / group, h, w]
        if _attribute(node, "group") > 1:
            if (view.before, view.after) != (1, 1):
                raise InputError(f"graph {self._graph.name}: {node.name} is not padded by 1")
            taps = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
            return Depthwise(output=name, inputs=(view.source,), weight=taps, relu=view.relu)
        if view.relu:
            raise InputError(f"graph {self._graph.name}: {node.name} reads a clamped tensor that others read unclamped")
        pads = _attribute(node, "pads")
        bias = self._constant(node.input[2]).astype(np.float32)
        symmetric = bool(view.before or view.after)
        return Conv(
            output=name,
            inputs=(view.source,),
            weight=np.ascontiguousarray(weight.transpose(2, 3, 1, 0)),
            bias=bias,
            stride=_attribute(node, "strides")[0],
            dilation=_attribute(node, "dilations")[0],
            before=view.before if symmetric else pads[0],
            after=view.after if symmetric else pads[2],
            symmetric=symmetric,
            enlarge=view.enlarge,
            relu=False,
        )

    def _border(self, node: onnx.NodeProto) -> int:
        """Return how many pixels a gather of mirrored rows adds on either side."""
        indices = self._constant(node.input[1])
        size = int(indices.max()) + 1
        border = (len(indices) - size) // 2
        if not np.array_equal(indices, np.pad(np.arange(size), border, mode="symmetric")):
            raise InputError(f"graph {self._graph.name}: {node.name} gathers no mirrored border")
        return border

    def _append(self, step: Step) -> None:
        self._writer[step.output] = len(self._steps)
        self._steps.append(step)
        self._views[step.output] = _View(source=step.output)

    def _constant(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = numpy_helper.to_array(self._constants[name])
        return array


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name)
