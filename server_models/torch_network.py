"""A plan's steps on a GPU, in float32, float16 or bfloat16: own kernels, the vendor's matrix products where they win.

Images are ``[N, height, width, channels]``. Which way a convolution is computed is measured once, on the largest batch,
among the ways that keep the watch over overflow (`torch_kernels`); float32 takes cuDNN without TF32.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from server_models import torch_kernels as kernels
from server_models import torch_plan as plans
from server_models.kappamask_preprocess import NORMALISED
from server_models.torch_preprocess import CHANNELS
from server_models.torch_ways import (
    BLOCKS,
    DTYPES,
    LIBRARY,
    LIMITS,
    LOGITS,
    PRODUCT,
    STRIPS,
    Blocks,
    Strips,
    border,
    has_ways,
    sum_in_float32,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_models.torch_ways import Way


class TorchNetwork:
    """A network's weights on a device, and how each step is computed.

    Parameters
    ----------
    plan : from `read_plan`.
    precision : ``f32``, ``fp16`` or ``bf16``: how weights and activations are stored; sums are float32.
    device : a GPU; or the CPU, for tests in Triton's interpreter.
    """

    def __init__(self, plan: plans.Plan, precision: str, device: torch.device) -> None:
        sum_in_float32()
        self.dtype, self.limit, self._device = DTYPES[precision], LIMITS[precision], device
        self._steps = plan.steps
        self._logits = plan.steps[-1].output
        self._reads = Counter(name for step in plan.steps for name in step.inputs)
        self._writers = {step.output: step for step in plan.steps}
        self._parameters = {step.output: self._load(step) for step in plan.steps}
        self._slots = self._find_slots()
        self._borders: dict[tuple[int, int, int], torch.Tensor] = {}
        #: Per convolution how it is computed.
        self.ways: dict[str, Way] = {s.output: self._choices(s)[0] for s in plan.steps if has_ways(s)}

    def __call__(self, x: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32 ``[N, height, width, LOGITS]``, of normalised channels; marks tiles in `flags`."""
        return self._run(x, flags, self._step)

    def tune(self, x: torch.Tensor, flags: torch.Tensor, *, rounds: int = 3) -> None:
        """Choose for each kind of convolution the fastest way, on this input."""
        chosen: dict[object, Way] = {}

        def measure(step: plans.Step, images: dict[str, torch.Tensor], flags: torch.Tensor) -> torch.Tensor:
            if has_ways(step):
                kind = (type(step), self._parameters[step.output][0].shape, getattr(step, "stride", 1),
                        images[step.inputs[0]].shape, len(self._choices(step)))  # fmt: skip
                if kind not in chosen:
                    times = {way: self._time(step, way, images, flags, rounds) for way in self._choices(step)}
                    chosen[kind] = min(times, key=times.__getitem__)
                self.ways[step.output] = chosen[kind]
            return self._step(step, images, flags)

        self._run(x, flags, measure)

    def _time(
        self, step: plans.Step, way: Way, images: dict[str, torch.Tensor], flags: torch.Tensor, rounds: int
    ) -> float:
        self.ways[step.output] = way
        self._step(step, images, flags)  # compiles
        best = float("inf")
        for _ in range(rounds):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            self._step(step, images, flags)
            end.record()
            end.synchronize()
            best = min(best, start.elapsed_time(end))
        return best

    def _run(
        self,
        x: torch.Tensor,
        flags: torch.Tensor,
        take: Callable[[plans.Step, dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        images, left = {NORMALISED: x}, Counter(self._reads)
        for step in self._steps:
            images[step.output] = take(step, images, flags)
            for name in step.inputs:
                left[name] -= 1
                if not left[name]:
                    del images[name]  # its memory is the next step's
        return images[self._logits]

    # -- parameters --------------------------------------------------------------------------------------------

    def _load(self, step: plans.Step) -> tuple[torch.Tensor, ...]:
        if isinstance(step, plans.Depthwise):
            return (self._on_device(step.weight.reshape(9, -1), torch.float32),)
        if not isinstance(step, plans.Conv):
            return ()
        weight, bias = step.weight, step.bias
        if step.inputs == (NORMALISED,):
            weight = np.pad(weight, ((0, 0), (0, 0), (0, CHANNELS - weight.shape[2]), (0, 0)))
        if step.output == self._logits:
            weight = np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, LOGITS - weight.shape[3])))
            bias = np.pad(bias, (0, LOGITS - len(bias)))
        oihw = self._on_device(weight.transpose(3, 2, 0, 1), self.dtype).contiguous(memory_format=torch.channels_last)
        return (
            self._on_device(weight, self.dtype),
            self._on_device(bias, torch.float32),
            self._on_device(bias, self.dtype),
            oihw,
        )

    def _on_device(self, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device, dtype)

    def _find_slots(self) -> dict[str, tuple[str, int, int]]:
        """Find what can be written where a concatenation wants it: per tensor its buffer, first channel, channels."""
        slots: dict[str, tuple[str, int, int]] = {}
        for step in self._steps:
            if isinstance(step, plans.Concat):
                widths = [self._width(name) for name in step.inputs]
                for i, name in enumerate(step.inputs):
                    readers = [s for s in self._steps if name in s.inputs]
                    direct = isinstance(self._writers[name], plans.Conv | plans.Upsample) and not self._is_pixel(name)
                    if direct and all(isinstance(r, plans.Concat | plans.Conv | plans.MaxPool) for r in readers):
                        slots[name] = (step.output, sum(widths[:i]), sum(widths))
        return slots

    def _width(self, name: str) -> int:
        step = self._writers[name]
        if isinstance(step, plans.Conv):
            return int(step.weight.shape[3])
        if isinstance(step, plans.Concat):
            return sum(map(self._width, step.inputs))
        return int(step.weight.shape[2]) if isinstance(step, plans.Depthwise) else self._width(step.inputs[0])

    def _is_pixel(self, name: str) -> bool:
        step = self._writers.get(name)
        return isinstance(step, plans.Mean) or (isinstance(step, plans.Conv) and self._is_pixel(step.inputs[0]))

    # -- steps -------------------------------------------------------------------------------------------------

    def _step(self, step: plans.Step, images: dict[str, torch.Tensor], flags: torch.Tensor) -> torch.Tensor:
        x = images[step.inputs[0]]
        if isinstance(step, plans.Conv):
            return self._conv(step, x, images, flags)
        if isinstance(step, plans.Depthwise):
            return self._depthwise(step, x, flags)
        if isinstance(step, plans.MaxPool):
            return self._max_pool(step, images, flags)
        if isinstance(step, plans.Upsample):
            return self._upsample(step, x, images, flags)
        if isinstance(step, plans.Concat):
            return self._concat(step, images)
        return x + images[step.inputs[1]] if isinstance(step, plans.Add) else x.mean((1, 2), keepdim=True)

    def _target(
        self, step: plans.Step, shape: tuple[int, ...], images: dict[str, torch.Tensor], dtype: torch.dtype
    ) -> torch.Tensor:
        """Return memory for a step's answer: its own, or its channels of the buffer of a concatenation."""
        if step.output not in self._slots:
            return torch.empty(shape, dtype=dtype, device=self._device)
        name, first, channels = self._slots[step.output]
        if name not in images:
            images[name] = torch.empty((*shape[:3], channels), dtype=dtype, device=self._device)
        return images[name][..., first : first + shape[3]]

    def _choices(self, step: plans.Step) -> list[Way]:
        """Return the ways to compute a convolution."""
        if isinstance(step, plans.Depthwise):
            return list(STRIPS)
        if self.dtype == torch.float32 and self._device.type == "cuda":
            return [LIBRARY]
        taps, _, channels_in, channels_out = self._parameters[step.output][0].shape
        own = [b for b in BLOCKS if b.n <= max(16, channels_out) and b.k <= max(16, channels_in)]
        widest, deepest = max(b.n for b in own), max(b.k for b in own)
        own = [b for b in own if b.n >= min(widest, 128) and b.k >= min(deepest, 64)]
        # What overflows in a matrix product of the library is seen by the kernel that reads it: not by all of them.
        watched = isinstance(self._writers.get(step.inputs[0]), plans.Depthwise)
        return [*own, PRODUCT] if watched and taps == 1 and self._device.type == "cuda" else [*own]

    def _conv(
        self, step: plans.Conv, x: torch.Tensor, images: dict[str, torch.Tensor], flags: torch.Tensor
    ) -> torch.Tensor:
        weight, bias, stored_bias, oihw = self._parameters[step.output]
        kernel, _, channels_in, channels_out = weight.shape
        height, width = (size * step.enlarge for size in x.shape[1:3])
        out_h, out_w = (
            (size + step.before + step.after - step.dilation * (kernel - 1) - 1) // step.stride + 1
            for size in (height, width)
        )
        shape = (len(x), out_h, out_w, channels_out)
        y = self._target(step, shape, images, torch.float32 if step.output == self._logits else self.dtype)
        way = self.ways[step.output]
        if way == LIBRARY:
            return y.copy_(self._library_conv(step, x, oihw, stored_bias))
        if way == PRODUCT:
            flat, matrix = x.reshape(-1, channels_in), weight.reshape(channels_in, channels_out)
            # The product with the ReLU at its end has no public name.
            multiply = torch._addmm_activation if step.relu else torch.addmm  # noqa: SLF001
            answer = multiply(stored_bias, flat, matrix).view(shape)
            return y.copy_(answer) if step.output in self._slots else answer
        if not isinstance(way, Blocks):
            raise TypeError(f"{step.output} cannot be computed by {way}")
        pixels = len(x) * out_h * out_w
        kernels.conv[(-(-pixels // way.m) * -(-channels_out // way.n),)](
            x, weight, bias, y, flags, 1e38 if y.dtype == torch.float32 else self.limit,
            pixels, height, width, out_h, out_w, channels_in, channels_out, x.stride(2), y.stride(2),
            step.stride, step.dilation, step.before, kernel, kernel * kernel, int(step.relu),
            BORDER=border(step, height), UP=step.enlarge, PRECISION="ieee",
            BM=way.m, BN=way.n, BK=way.k, num_warps=way.warps, num_stages=way.stages,
        )  # fmt: skip
        return y

    def _library_conv(self, step: plans.Conv, x: torch.Tensor, oihw: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Compute a convolution with the framework's library; no watch over overflow."""
        nchw = x.permute(0, 3, 1, 2)
        if step.enlarge > 1:
            nchw = functional.interpolate(nchw, scale_factor=step.enlarge, mode="nearest")
        padding = 0
        if step.symmetric:
            rows, columns = (self._mirrored(size, step.before, step.after) for size in nchw.shape[2:])
            nchw = nchw[:, :, rows][:, :, :, columns]
        elif step.before == step.after:
            padding = step.before
        else:
            nchw = functional.pad(nchw, (step.before, step.after, step.before, step.after))
        y = functional.conv2d(nchw, oihw, bias, step.stride, padding, step.dilation)
        return (torch.relu(y) if step.relu else y).permute(0, 2, 3, 1)

    def _mirrored(self, size: int, before: int, after: int) -> torch.Tensor:
        """Return indices of a mirrored border; a copy to the GPU cannot be recorded, so they are kept."""
        key = (size, before, after)
        if key not in self._borders:
            indices = np.pad(np.arange(size), (before, after), mode="symmetric")
            self._borders[key] = torch.from_numpy(indices).to(self._device)
        return self._borders[key]

    def _depthwise(self, step: plans.Depthwise, x: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = x.shape
        y = torch.empty_like(x)
        way = self.ways[step.output]
        if not isinstance(way, Strips):
            raise TypeError(f"{step.output} cannot be computed by {way}")
        grid = batch * -(-height // way.rows) * -(-width // way.columns) * -(-channels // way.channels)
        kernels.depthwise[(grid,)](
            x, *self._parameters[step.output], y, flags, self.limit, height, width,
            C=channels, RELU=step.relu, ROWS=way.rows, BW=way.columns, BC=way.channels, num_warps=way.warps,
        )  # fmt: skip
        return y

    def _max_pool(self, step: plans.MaxPool, images: dict[str, torch.Tensor], flags: torch.Tensor) -> torch.Tensor:
        x = images[step.inputs[0]]
        batch, height, width, channels = x.shape
        y = torch.empty((batch, height // 2, width // 2, channels), dtype=self.dtype, device=self._device)
        add = images[step.inputs[1]] if len(step.inputs) > 1 else y
        pixels, rows, depth = batch * (height // 2) * (width // 2), 16, 64
        kernels.max_pool[(-(-pixels // rows) * -(-channels // depth),)](
            x, add, y, flags, self.limit, pixels, height, width, x.stride(2),
            C=channels, KERNEL=step.kernel, ADD=len(step.inputs) > 1, BP=rows, BC=depth,
        )  # fmt: skip
        return y

    def _upsample(
        self, step: plans.Upsample, x: torch.Tensor, images: dict[str, torch.Tensor], flags: torch.Tensor
    ) -> torch.Tensor:
        batch, height, width, channels = x.shape
        shape = (batch, height * step.factor, width * step.factor, channels)
        y = self._target(step, shape, images, self.dtype)
        pixels, rows, depth = batch * shape[1] * shape[2], 16, 64
        kernels.upsample[(-(-pixels // rows) * -(-channels // depth),)](
            x, y, flags, self.limit, pixels, height, width, y.stride(2),
            C=channels, FACTOR=step.factor, BP=rows, BC=depth,
        )  # fmt: skip
        return y

    def _concat(self, step: plans.Concat, images: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = [images[name] for name in step.inputs]
        size = max((part.shape[1:3] for part in parts), key=lambda s: s[0])
        channels = sum(part.shape[3] for part in parts)
        if step.output not in images:
            images[step.output] = torch.empty((len(parts[0]), *size, channels), dtype=self.dtype, device=self._device)
        buffer, first = images[step.output], 0
        for name, part in zip(step.inputs, parts, strict=True):
            if name not in self._slots:
                buffer[..., first : first + part.shape[3]].copy_(part.expand(-1, *size, -1))
            first += part.shape[3]
        return buffer
