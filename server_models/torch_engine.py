"""Run a served graph with PyTorch on a GPU: pre-processing, network and classes as one CUDA graph per batch size.

A batch is filled up to the next size that was recorded. A *lane* is a stream with inputs, answers and graphs of its
own: while one lane computes, another one copies. Needs `torch` (with OpenAI's `triton`), `onnx` and numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kappamask_stream.contract import FAULT_LABEL, ModelContract
from kappamask_stream.errors import InputError, ServerSetupError
from server_models import torch_kernels as kernels
from server_models.onnx_reading import read_onnx
from server_models.torch_network import TorchNetwork
from server_models.torch_plan import Plan, read_plan
from server_models.torch_preprocess import Preprocessing
from server_models.torch_ways import LOGITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

_BLOCK = 256
#: Axes of OFFSET and SCALE: small tensors, copied for a whole batch at once.
_VECTORS = 2


class TorchEngine:
    """A graph, ready for batches of up to the largest of `batches`.

    Parameters
    ----------
    graph : ONNX file, or the model read from it.
    precision : ``f32``, ``fp16`` or ``bf16``; None for the contract's.
    batches : sizes to record.
    lanes : batches under way at a time.
    device : ``cuda``, ``cuda:1``; ``cpu`` only in Triton's interpreter, for tests.

    Raises
    ------
    InputError
        If the file is no graph of a KappaMask network.
    ServerSetupError
        If there is no GPU.
    """

    def __init__(
        self,
        graph: Path | onnx.ModelProto,
        *,
        precision: str | None = None,
        batches: Sequence[int] = (1, 2, 4, 8, 16),
        lanes: int = 1,
        device: str = "cuda",
    ) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ServerSetupError("PyTorch finds no NVIDIA GPU here: serve the model on the CPU (--flavour python)")
        model = read_onnx(graph, remedy="build the model again") if isinstance(graph, Path) else graph
        self.contract = contract_of(model)
        self.precision = precision or self.contract.precision
        self.batches = tuple(sorted(batches))
        plan = read_plan(model)
        network = TorchNetwork(plan, self.precision, self._device)
        self.lanes = [Lane(self.contract, plan, network, self.batches[-1], self._device) for _ in range(lanes)]
        if self._device.type == "cuda":
            self.lanes[0].tune()
            for lane in self.lanes:
                lane.record(self.batches)
        self.network = network

    def __repr__(self) -> str:
        return f"<TorchEngine {self.contract.name} {self.precision}: batches {self.batches}, {len(self.lanes)} lanes>"

    def run(
        self, tiles: Sequence[Tensors], outputs: Sequence[str], *, pinned: bool = False
    ) -> list[dict[str, NDArray[Any]]]:
        """Infer requests of one or more tiles each, together as many as the largest batch.

        Returns the answers in their order; they hold until the next call.

        Parameters
        ----------
        pinned : see `Lane.load`; of images, not of OFFSET and SCALE.
        """
        lane, first = self.lanes[0], 0
        counts = [len(next(iter(tile.values()))) for tile in tiles]
        for tile, count in zip(tiles, counts, strict=True):
            lane.load(
                {name: values for name, values in tile.items() if values.ndim > _VECTORS}, first, count, pinned=pinned
            )
            first += count
        vectors = [name for name, values in tiles[0].items() if values.ndim == _VECTORS]
        lane.load({name: np.concatenate([tile[name] for tile in tiles]) for name in vectors}, 0, first)
        lane.start(next(size for size in self.batches if size >= first))
        answers = lane.fetch(outputs, first)
        ends = np.cumsum(counts)
        return [
            {name: values[end - count : end] for name, values in answers.items()}
            for end, count in zip(ends, counts, strict=True)
        ]


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to record: powers of two, and the largest."""
    return tuple(sorted({largest, *(2**k for k in range(largest.bit_length()) if 2**k < largest)}))


class Lane:
    """A stream with its inputs, answers and recorded graphs.

    State: what was last loaded and computed on the stream; everything is ordered by it.
    """

    def __init__(
        self, contract: ModelContract, plan: Plan, network: TorchNetwork, batch: int, device: torch.device
    ) -> None:
        self._contract, self._plan, self._network, self._device = contract, plan, network, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._preprocessing = Preprocessing(contract, device, network.limit)
        size, classes = contract.tile_size, len(contract.probability_classes)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            group.tensor: ((len(group.bands), group.tile, group.tile), torch.uint16) for group in contract.inputs
        }
        shapes |= {name: ((len(contract.channels),), torch.float32) for name in ("OFFSET", "SCALE")}
        #: The model's inputs and outputs on the device.
        self.inputs = {n: torch.zeros((batch, *s), dtype=t, device=device) for n, (s, t) in shapes.items()}
        self.outputs = {
            "LABELS": torch.zeros((batch, size, size), dtype=torch.uint8, device=device),
            "PROBABILITIES": torch.zeros((batch, classes, size, size), dtype=torch.uint8, device=device),
        }
        pinned = device.type == "cuda"
        self._host = {n: torch.empty(t.shape, dtype=t.dtype, pin_memory=pinned) for n, t in self.outputs.items()}
        self._stage = {n: torch.empty(t.shape, dtype=t.dtype, pin_memory=pinned) for n, t in self.inputs.items()}
        self._flags = torch.zeros(batch, dtype=torch.int32, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def load(self, tiles: Tensors, first: int, count: int, *, pinned: bool = False) -> None:
        """Copy a request's tiles to the places from `first` on.

        Parameters
        ----------
        pinned : the arrays lie in pinned memory and stay as they are until the lane is done. Others are copied to
            pinned memory first: the driver's own detour is many times slower.
        """
        places = slice(first, first + count)
        with torch.cuda.stream(self.stream):
            for name, values in tiles.items():
                source = (
                    torch.from_numpy(values) if pinned else self._stage[name][places].copy_(torch.from_numpy(values))
                )
                self.inputs[name][places].copy_(source, non_blocking=True)

    def start(self, batch: int) -> None:
        """Compute the first `batch` tiles."""
        with torch.cuda.stream(self.stream):
            if batch in self._graphs:
                self._graphs[batch].replay()
            else:
                self.compute(batch)

    def fetch(self, outputs: Sequence[str], count: int) -> dict[str, NDArray[Any]]:
        """Wait for the answers of the first `count` tiles; they hold until the next call."""
        with torch.cuda.stream(self.stream):
            for name in outputs:
                self._host[name][:count].copy_(self.outputs[name][:count], non_blocking=True)
        if self.stream is not None:
            self.stream.synchronize()
        return {name: self._host[name][:count].numpy() for name in outputs}

    def compute(self, batch: int) -> None:
        """Launch all kernels."""
        flags = self._flags[:batch]
        flags.zero_()
        inputs = {name: tensor[:batch] for name, tensor in self.inputs.items()}
        x = self._preprocessing(inputs, flags, self._network.dtype)
        self._classify(self._network(x, flags), flags)

    def tune(self) -> None:
        """Choose the network's ways on the largest batch of random digital numbers."""
        with torch.cuda.stream(self.stream):
            for name, tensor in self.inputs.items():
                if tensor.dtype == torch.uint16:
                    tensor.copy_(torch.randint(0, 4000, tensor.shape, device=self._device, dtype=torch.int32))
                else:
                    tensor.fill_({"SCALE": 1 / 8000}.get(name, 0.0))
            x = self._preprocessing(self.inputs, self._flags, self._network.dtype)
            self._network.tune(x, self._flags)
            torch.cuda.synchronize(self._device)

    def record(self, batches: Sequence[int]) -> None:
        """Record a graph for each batch size, largest first: the smaller ones lie in its memory."""
        pool = None
        for batch in sorted(batches, reverse=True):
            with torch.cuda.stream(self.stream):
                self.compute(batch)  # compiles
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                self.compute(batch)
            pool = pool or graph.pool()
            self._graphs[batch] = graph

    def _classify(self, logits: torch.Tensor, flags: torch.Tensor) -> None:
        size, batch = self._contract.tile_size, len(logits)
        kernels.classify[(-(-size * size // _BLOCK), batch)](
            logits, self.outputs["LABELS"], self.outputs["PROBABILITIES"], flags,
            SIZE=size, UP=self._plan.enlarge, CLASSES=len(self._contract.probability_classes), PITCH=LOGITS,
            SIGMOID=self._plan.activation == "Sigmoid", FAULT=FAULT_LABEL, BLOCK=_BLOCK,
        )  # fmt: skip


def contract_of(model: onnx.ModelProto) -> ModelContract:
    """Return the contract that a graph carries.

    Raises
    ------
    InputError
        If it carries none.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == "contract"), None)
    if text is None:
        raise InputError(f"graph {model.graph.name} carries no contract: build the model again")
    return ModelContract.from_json(text)
