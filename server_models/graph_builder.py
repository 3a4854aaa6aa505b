"""A small builder over `onnx.helper`: feature maps that know their shape, constants stored once, no dead nodes.

The networks are written against this class, so that their files read like the papers. Everything is NCHW. The
builder's `dtype` is the network's precision; constants that must stay float32 (pre-processing) say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

#: Operator set and file version: read by every onnxruntime since 1.12, OpenVINO since 2022.
OPSET, IR_VERSION = 17, 8

#: Name of the batch dimension in every input and output.
BATCH = "N"


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """A tensor ``[N, channels, size, size]`` of the graph that is being built.

    Attributes
    ----------
    name : the tensor's name in the graph.
    channels : size of the second axis.
    size : height and width in pixels.
    """

    name: str
    channels: int
    size: int


class GraphBuilder:
    """Collects nodes and constants of one ONNX graph.

    Parameters
    ----------
    name : name of the graph.
    dtype : float32 or float16: what `weight` stores and `to_network` casts to.
    """

    def __init__(self, name: str, *, dtype: type[np.float32 | np.float16] = np.float32) -> None:
        self.name = name
        self.dtype = np.dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        #: Tensors of the network whose values must all be finite for the tile's answer to be one; see `watch`.
        self.watched: list[FeatureMap] = []

    def __repr__(self) -> str:
        return f"<GraphBuilder {self.name}: {len(self._nodes)} nodes, {len(self._constants)} constants, {self.dtype}>"

    # -- tensors -----------------------------------------------------------------------------------------------

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> str:
        """Declare a graph input ``[N, *shape]`` and return its name."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def constant(self, values: Array | np.generic) -> str:
        """Store an array as it is, once however often it is asked for, and return its name."""
        array = np.ascontiguousarray(values)
        # 0-d arrays become 1-d in ascontiguousarray.
        array = array.reshape(np.shape(values))
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return str(self._constants[key].name)

    def weight(self, values: Array) -> str:
        """Store an array of the network in the network's precision.

        Raises
        ------
        InputError
            If the precision cannot hold the largest value.
        """
        largest, limit = float(np.abs(values).max(initial=0)), float(np.finfo(np.dtype(self.dtype).name).max)
        if largest > limit:
            raise InputError(f"{self.name}: a weight of {largest:g} exceeds {self.dtype}'s {limit:g}: use float32")
        return self.constant(values.astype(self.dtype))

    def op(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return the output's name (`name`, or made from the operator's)."""
        output = name or f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    # -- layers ------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: FeatureMap,
        kernel: Array,
        bias: Array | None,
        *,
        name: str,
        stride: int = 1,
        dilation: int = 1,
        pads: tuple[int, int] = (0, 0),
    ) -> FeatureMap:
        """Convolve with a Keras kernel ``(height, width, in, out)`` and zero padding.

        Parameters
        ----------
        pads : zeros before and after, on both axes.
        """
        return self._conv(x, kernel.transpose(3, 2, 0, 1), bias, 1, name, stride, dilation, pads)

    def depthwise(self, x: FeatureMap, kernel: Array, *, name: str) -> FeatureMap:
        """Convolve every channel with its own kernel ``(height, width, channels, 1)``, without padding."""
        return self._conv(x, kernel.transpose(2, 3, 0, 1), None, x.channels, name, 1, 1, (0, 0))

    def _conv(
        self,
        x: FeatureMap,
        oihw: Array,
        bias: Array | None,
        group: int,
        name: str,
        stride: int,
        dilation: int,
        pads: tuple[int, int],
    ) -> FeatureMap:
        before, after = pads
        size = (x.size + before + after - dilation * (oihw.shape[2] - 1) - 1) // stride + 1
        inputs = [x.name, self.weight(oihw)] + ([] if bias is None else [self.weight(bias)])
        self.op(
            "Conv",
            *inputs,
            name=name,
            kernel_shape=list(oihw.shape[2:]),
            strides=[stride, stride],
            dilations=[dilation, dilation],
            pads=[before, before, after, after],
            group=group,
        )
        return FeatureMap(name=name, channels=oihw.shape[0], size=size)

    def relu(self, x: FeatureMap, *, name: str | None = None) -> FeatureMap:
        """Clamp at 0 from below; in float16, what is not finite stays so.

        Engines make 0 of NaN in a Relu, as CUDA and fused convolutions do, and an overflow would end there unseen: the
        next layer subtracts infinity from infinity. A LeakyRelu that does not leak multiplies it by 0: still NaN.
        """
        if self.dtype == np.float16:
            output = self.op("LeakyRelu", x.name, name=name, alpha=0.0)
        else:
            output = self.op("Relu", x.name, name=name)
        return FeatureMap(name=output, channels=x.channels, size=x.size)

    def watch(self, x: FeatureMap) -> None:
        """Note a float16 tensor that only a max-pool reads: maxima drop NaN, so that an overflow would end there.

        What is noted are means of 2 x 2 values, a quarter of the work.
        """
        if self.dtype == np.float16:
            name = self.op("AveragePool", x.name, kernel_shape=[2, 2], strides=[2, 2])
            self.watched.append(self.to_float32(FeatureMap(name=name, channels=x.channels, size=x.size // 2)))

    def add(self, a: FeatureMap, b: FeatureMap, *, name: str | None = None) -> FeatureMap:
        """Add two feature maps of equal shape."""
        return FeatureMap(name=self.op("Add", a.name, b.name, name=name), channels=a.channels, size=a.size)

    def concat(self, *maps: FeatureMap) -> FeatureMap:
        """Join along the channels."""
        name = self.op("Concat", *(m.name for m in maps), axis=1)
        return FeatureMap(name=name, channels=sum(m.channels for m in maps), size=maps[0].size)

    def max_pool(self, x: FeatureMap, *, kernel: int, stride: int, pads: tuple[int, int] = (0, 0)) -> FeatureMap:
        """Take the maximum of each window; what `pads` adds never wins."""
        before, after = pads
        name = self.op(
            "MaxPool",
            x.name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
        )
        return FeatureMap(name=name, channels=x.channels, size=(x.size + before + after - kernel) // stride + 1)

    def pad_symmetric(self, x: FeatureMap, before: int, after: int) -> FeatureMap:
        """Mirror the borders including the edge pixel (TensorFlow's SYMMETRIC, which ONNX Pad does not have).

        For one pixel that equals ONNX's ``edge``; for more, the mirrored rows and columns are gathered.
        """
        size = x.size + before + after
        if max(before, after) <= 1:
            amounts = self.constant(np.array([0, 0, before, before, 0, 0, after, after], np.int64))
            name = self.op("Pad", x.name, amounts, mode="edge")
        else:
            mirrored = self.constant(np.pad(np.arange(x.size, dtype=np.int64), (before, after), mode="symmetric"))
            rows = self.op("Gather", x.name, mirrored, axis=2)
            name = self.op("Gather", rows, mirrored, axis=3)
        return FeatureMap(name=name, channels=x.channels, size=size)

    def upsample(self, x: FeatureMap, factor: int, *, mode: str) -> FeatureMap:
        """Enlarge by a whole factor: ``nearest``, or ``linear`` with half-pixel centres as TensorFlow 2 does."""
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        rules = (
            {"coordinate_transformation_mode": "half_pixel"}
            if mode == "linear"
            else {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        )
        name = self.op("Resize", x.name, "", scales, mode=mode, **rules)
        return FeatureMap(name=name, channels=x.channels, size=x.size * factor)

    def global_average(self, x: FeatureMap) -> FeatureMap:
        """Average each channel over the whole image."""
        return FeatureMap(name=self.op("GlobalAveragePool", x.name), channels=x.channels, size=1)

    def broadcast(self, x: FeatureMap, size: int) -> FeatureMap:
        """Repeat a 1 x 1 feature map over `size` x `size` pixels."""
        name = self.op("Expand", x.name, self.constant(np.array([1, 1, size, size], np.int64)))
        return FeatureMap(name=name, channels=x.channels, size=size)

    def to_network(self, x: FeatureMap) -> FeatureMap:
        """Convert a float32 feature map to the network's precision."""
        return self._converted(x, self.dtype)

    def to_float32(self, x: FeatureMap) -> FeatureMap:
        """Convert the network's feature map to float32."""
        return self._converted(x, np.dtype(np.float32))

    def _converted(self, x: FeatureMap, dtype: np.dtype[Any]) -> FeatureMap:
        if self.dtype == np.float32:
            return x
        return FeatureMap(name=self.cast(x.name, dtype), channels=x.channels, size=x.size)

    def cast(self, name: str, dtype: type[np.generic] | np.dtype[Any]) -> str:
        """Convert a tensor's type."""
        return self.op("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # -- the finished graph ------------------------------------------------------------------------------------

    def model(
        self, outputs: Mapping[str, tuple[type[np.generic], Sequence[int]]], *, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Close the graph and check it.

        Parameters
        ----------
        outputs : per output its type and its shape without the batch dimension.
        metadata : goes into the file's ``metadata_props``.

        Raises
        ------
        ValueError
            If a node's answer is used nowhere: a mistake in the network's file.
        """
        used = {name for node in self._nodes for name in node.input} | set(outputs)
        dead = [node.name for node in self._nodes if node.output[0] not in used]
        if dead:
            raise ValueError(f"graph {self.name}: nodes without use: {dead}")
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            [_value_info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
            initializer=list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="kappamask-stream",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def _value_info(name: str, dtype: type[np.generic], shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [BATCH, *shape])
