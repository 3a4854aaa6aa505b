"""Kernels of the GPU engine in OpenAI's Triton (not NVIDIA's server), for images ``[N, height, width, channels]``.

Channels lie together, so that every access is a run of whole sectors. Borders are mirrored or zero by arithmetic on
indices: nothing is padded in memory. All sums are float32. Whatever writes or reads an activation looks whether it is
finite and in the storage type's range, and marks the tile in `flags` if not: overflow is never lost in a ReLU.
A pixel's sums are taken in the same order at every batch size: a tile's answer does not depend on its batch.
"""

# Triton's language is no Python: names of compile-time constants are upper case, there are no keyword defaults to mark.
# ruff: noqa: N803, ANN001, ANN202, PLR2004
# mypy: ignore-errors
from __future__ import annotations

import triton.language as tl

import triton

#: What an engine passes as sizes changes by layer and must not make another compilation each.
_SIZES = ["pixels", "height", "width", "out_h", "out_w", "stride", "dilation", "before", "kernel_w", "taps", "relu"]


@triton.jit
def _quantum(dn):
    """Return cm_vsm's quantum of digital numbers: trunc(float32(DN * float32(1/65535)) * 65535.0), float32."""
    share = dn.to(tl.float32) * 1.5259021893143654e-05
    return (share.to(tl.float64) * 65535.0).to(tl.int32).to(tl.float32)


@triton.jit
def _rounded(v):
    """Round as GraphicsMagick does after a pass."""
    return tl.floor(tl.minimum(tl.maximum(v, 0.0), 65535.0) + 0.5)


@triton.jit
def _faulty(v, limit):
    """Tell what is not finite or beyond the limit."""
    return (tl.abs(v) > limit) | (v != v)  # noqa: PLR0124 - NaN


@triton.jit
def enlarge_rows(dn, first, weights, y, tile, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """First pass of the sinc: ``[planes, tile, tile]`` digital numbers to ``[planes, SIZE, tile]`` uint16.

    `first` [SIZE] is a row's first tap, `weights` [SIZE, 8] its taps; those beyond the tile weigh 0.
    """
    row, plane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    col = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    top = tl.load(first + row)
    total = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(8):
        source = tl.minimum(top + tap, tile - 1)
        q = _quantum(tl.load(dn + (plane * tile + source) * tile + col, mask=col < tile, other=0))
        total += tl.load(weights + row * 8 + tap) * q
    tl.store(y + (plane * SIZE + row) * tile + col, _rounded(total).to(tl.int32).to(tl.uint16), mask=col < tile)


@triton.jit
def enlarge_cols(
    x, first, weights, y, tile, bands, plane0, planes, SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Second pass: ``[N * bands, SIZE, tile]`` uint16 into planes `plane0`... of ``[N, planes, SIZE, SIZE]``.

    Here `weights` is ``[8, SIZE]``: neighbours are neighbours in memory. A program keeps them for ROWS rows.
    """
    row, plane = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    target = (plane // bands) * planes + plane0 + plane % bands
    col = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = col < SIZE
    left = tl.load(first + col, mask=inside, other=0)
    rows = tl.arange(0, ROWS)[:, None]
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for tap in tl.static_range(8):
        source = tl.minimum(left + tap, tile - 1)
        value = tl.load(x + (plane * SIZE + row + rows) * tile + source[None, :], mask=inside[None, :], other=0)
        total += tl.load(weights + tap * SIZE + col, mask=inside, other=0.0)[None, :] * value.to(tl.float32)
    place = y + (target * SIZE + row + rows) * SIZE + col[None, :]
    tl.store(place, _rounded(total).to(tl.int32).to(tl.uint16), mask=inside[None, :])


@triton.jit
def normalise(
    dn, enlarged, offset, scale, plane, is_native, y, flags, natives, planes, limit,
    CHANNELS: tl.constexpr, PITCH: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """max(q + OFFSET, 0) * SCALE, gathered in the network's order into ``[N, PIXELS, PITCH]`` (0 beyond CHANNELS).

    Channel c is plane ``plane[c]`` of `dn` ``[N, natives, PIXELS]`` where ``is_native[c]``, else of `enlarged`.
    """
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, PITCH)
    used = c < CHANNELS
    source, native = tl.load(plane + c, mask=used, other=0), tl.load(is_native + c, mask=used, other=0)
    inside = (pixel < PIXELS)[:, None] & used[None, :]
    a = tl.load(
        dn + (n * natives + source[None, :]) * PIXELS + pixel[:, None], mask=inside & (native != 0)[None, :], other=0
    )
    b = tl.load(
        enlarged + (n * planes + source[None, :]) * PIXELS + pixel[:, None],
        mask=inside & (native == 0)[None, :],
        other=0,
    )
    q = tl.where((native != 0)[None, :], _quantum(a), b.to(tl.float32))
    shift = tl.load(offset + n * CHANNELS + c, mask=used, other=0.0)
    x = q + shift[None, :]
    x = tl.where(x > 0, x, 0.0) * tl.load(scale + n * CHANNELS + c, mask=used, other=0.0)[None, :]
    bad = _faulty(x, limit) | _faulty(shift, 3.0e38)[None, :]
    tl.store(flags + n + tl.zeros((BLOCK, PITCH), tl.int32), 1, mask=bad & inside)
    kept = (pixel < PIXELS)[:, None] & (c < PITCH)[None, :]
    tl.store(y + (n * PIXELS + pixel[:, None]) * PITCH + c[None, :], x.to(y.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=_SIZES)
def conv(
    x, w, bias, y, flags, limit, pixels, height, width, out_h, out_w, channels_in, channels_out, x_pitch, y_pitch,
    stride, dilation, before, kernel_w, taps, relu,
    BORDER: tl.constexpr, UP: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Convolution as a matrix product over a BORDER: mirror, far or zero, with bias and ReLU.

    `pixels` = N * out_h * out_w rows; `w` is ``[taps, channels_in, channels_out]``; `height`, `width` are the
    input's after an UP-fold nearest-neighbour enlargement that happens in the indices; a pitch is the number of
    values from one pixel to the next. Clamped at 0 where `relu` is not 0.
    """
    blocks_n = tl.cdiv(channels_out, BN)
    pid_n, pid_m = tl.program_id(0) % blocks_n, tl.program_id(0) // blocks_n
    row = pid_m * BM + tl.arange(0, BM)
    n, place = row // (out_h * out_w), row % (out_h * out_w)
    top, left = (place // out_w) * stride - before, (place % out_w) * stride - before
    real = row < pixels
    out = pid_n * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    blocks_k = tl.cdiv(channels_in, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(taps * blocks_k):
        tap, c = step // blocks_k, (step % blocks_k) * BK + k
        iy, ix = top + (tap // kernel_w) * dilation, left + (tap % kernel_w) * dilation
        if BORDER != "zero":
            if BORDER == "far":  # deeper than the image: mirrored again and again
                iy, ix = (iy + 64 * height) % (2 * height), (ix + 64 * width) % (2 * width)
            iy = tl.where(iy < 0, -1 - iy, iy)
            ix = tl.where(ix < 0, -1 - ix, ix)
            iy = tl.where(iy >= height, 2 * height - 1 - iy, iy)
            ix = tl.where(ix >= width, 2 * width - 1 - ix, ix)
            seen = real
        else:
            seen = real & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
        source = (n * (height // UP) + iy // UP) * (width // UP) + ix // UP
        a = tl.load(
            x + source.to(tl.int64)[:, None] * x_pitch + c[None, :],
            mask=seen[:, None] & (c < channels_in)[None, :],
            other=0.0,
        )
        b = tl.load(
            w + (tap * channels_in + c)[:, None] * channels_out + out[None, :],
            mask=(c < channels_in)[:, None] & (out < channels_out)[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    total += tl.load(bias + out, mask=out < channels_out, other=0.0)[None, :]
    kept = real[:, None] & (out < channels_out)[None, :]
    tl.store(flags + n[:, None] + tl.zeros((BM, BN), tl.int32), 1, mask=kept & _faulty(total, limit))
    total = tl.maximum(total, tl.where(relu != 0, 0.0, float("-inf")))
    tl.store(y + row.to(tl.int64)[:, None] * y_pitch + out[None, :], total.to(y.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["height", "width"])
def depthwise(
    x, w, y, flags, limit, height, width,
    C: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, BW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """3 x 3 per channel over mirrored borders, of relu(x) where RELU; `w` is ``[9, C]`` float32.

    A program goes down ROWS rows and keeps three running sums, so that each input row is read three times, not nine.
    """
    pid = tl.program_id(0)
    blocks_c, blocks_x, blocks_y = tl.cdiv(C, BC), tl.cdiv(width, BW), tl.cdiv(height, ROWS)
    c = (pid % blocks_c) * BC + tl.arange(0, BC)
    col = (pid // blocks_c) % blocks_x * BW + tl.arange(0, BW)
    top = (pid // (blocks_c * blocks_x)) % blocks_y * ROWS
    n = (pid // (blocks_c * blocks_x * blocks_y)).to(tl.int64)
    in_c, in_w = (c < C)[None, :], (col < width)[:, None]
    left = tl.minimum(tl.maximum(col - 1, 0), width - 1)[:, None] * C + c[None, :]
    centre = tl.minimum(col, width - 1)[:, None] * C + c[None, :]
    right = tl.minimum(col + 1, width - 1)[:, None] * C + c[None, :]
    k0, k1, k2 = _three(w, c, C, 0)
    k3, k4, k5 = _three(w, c, C, 3)
    k6, k7, k8 = _three(w, c, C, 6)
    older = tl.zeros((BW, BC), tl.float32)
    newer = tl.zeros((BW, BC), tl.float32)
    bad = tl.zeros((BW, BC), tl.int1)
    for i in tl.static_range(ROWS + 2):
        row = tl.minimum(tl.maximum(top + i - 1, 0), height - 1)
        source = x + (n * height + row) * width * C
        a = tl.load(source + left, mask=in_c, other=0.0).to(tl.float32)
        b = tl.load(source + centre, mask=in_c, other=0.0).to(tl.float32)
        d = tl.load(source + right, mask=in_c, other=0.0).to(tl.float32)
        bad = bad | _faulty(b, limit)
        if RELU:
            a, b, d = tl.maximum(a, 0.0), tl.maximum(b, 0.0), tl.maximum(d, 0.0)
        if i >= 2:
            done = older + k6 * a + k7 * b + k8 * d
            row_out = top + i - 2
            target = y + (n * height + row_out) * width * C + centre
            bad = bad | _faulty(done, limit)
            tl.store(target, done.to(y.dtype.element_ty), mask=in_c & in_w & (row_out < height))
        older = newer + k3 * a + k4 * b + k5 * d
        newer = k0 * a + k1 * b + k2 * d
    tl.store(flags + n + tl.zeros((BW, BC), tl.int32), 1, mask=bad)


@triton.jit
def _three(w, c, C: tl.constexpr, ROW: tl.constexpr):
    """Load three taps of all channels."""
    a = tl.load(w + ROW * C + c, mask=c < C, other=0.0)[None, :]
    b = tl.load(w + (ROW + 1) * C + c, mask=c < C, other=0.0)[None, :]
    d = tl.load(w + (ROW + 2) * C + c, mask=c < C, other=0.0)[None, :]
    return a, b, d


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def max_pool(
    x, add, y, flags, limit, pixels, height, width, x_pitch,
    C: tl.constexpr, KERNEL: tl.constexpr, ADD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Maximum of KERNEL x KERNEL with stride 2 (beyond the border: its pixels again), plus `add` where ADD."""
    blocks_c = tl.cdiv(C, BC)
    c = (tl.program_id(0) % blocks_c) * BC + tl.arange(0, BC)
    place = (tl.program_id(0) // blocks_c) * BP + tl.arange(0, BP)
    out_h, out_w = height // 2, width // 2
    n, row, col = place // (out_h * out_w), (place // out_w) % out_h, place % out_w
    kept = (place < pixels)[:, None] & (c < C)[None, :]
    best = tl.full((BP, BC), float("-inf"), tl.float32)
    bad = tl.zeros((BP, BC), tl.int1)
    for ky in tl.static_range(KERNEL):
        iy = n * height + tl.minimum(2 * row + ky, height - 1)
        for kx in tl.static_range(KERNEL):
            source = (iy * width + tl.minimum(2 * col + kx, width - 1)).to(tl.int64)
            v = tl.load(x + source[:, None] * x_pitch + c[None, :], mask=kept, other=0.0).to(tl.float32)
            bad = bad | _faulty(v, limit)
            best = tl.maximum(best, v)
    target = place.to(tl.int64)[:, None] * C + c[None, :]
    if ADD:
        best += tl.load(add + target, mask=kept, other=0.0).to(tl.float32)
        bad = bad | _faulty(best, limit)
    tl.store(flags + n[:, None] + tl.zeros((BP, BC), tl.int32), 1, mask=bad & kept)
    tl.store(y + target, best.to(y.dtype.element_ty), mask=kept)


@triton.jit
def _between(out, FACTOR: tl.constexpr, size):
    """Return the two source indices of an output index (half-pixel centres) and the second one's weight."""
    at = (out.to(tl.float32) + 0.5) / FACTOR - 0.5
    low = tl.floor(at)
    first = tl.minimum(tl.maximum(low.to(tl.int32), 0), size - 1)
    second = tl.minimum(tl.maximum(low.to(tl.int32) + 1, 0), size - 1)
    return first, second, at - low


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def upsample(
    x, y, flags, limit, pixels, height, width, y_pitch,
    C: tl.constexpr, FACTOR: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Bilinear enlargement; `height`, `width` are the input's."""
    blocks_c = tl.cdiv(C, BC)
    c = (tl.program_id(0) % blocks_c) * BC + tl.arange(0, BC)
    place = (tl.program_id(0) // blocks_c) * BP + tl.arange(0, BP)
    out_w = width * FACTOR
    out_h = height * FACTOR
    n, row, col = place // (out_h * out_w), (place // out_w) % out_h, place % out_w
    kept = (place < pixels)[:, None] & (c < C)[None, :]
    y0, y1, fy = _between(row, FACTOR, height)
    x0, x1, fx = _between(col, FACTOR, width)
    upper, lower = (n * height + y0) * width, (n * height + y1) * width
    v00 = tl.load(x + (upper + x0)[:, None] * C + c[None, :], mask=kept, other=0.0).to(tl.float32)
    v01 = tl.load(x + (upper + x1)[:, None] * C + c[None, :], mask=kept, other=0.0).to(tl.float32)
    v10 = tl.load(x + (lower + x0)[:, None] * C + c[None, :], mask=kept, other=0.0).to(tl.float32)
    v11 = tl.load(x + (lower + x1)[:, None] * C + c[None, :], mask=kept, other=0.0).to(tl.float32)
    a, b = v00 + (v01 - v00) * fx[:, None], v10 + (v11 - v10) * fx[:, None]
    v = a + (b - a) * fy[:, None]
    tl.store(flags + n[:, None] + tl.zeros((BP, BC), tl.int32), 1, mask=kept & _faulty(v, limit))
    tl.store(y + place.to(tl.int64)[:, None] * y_pitch + c[None, :], v.to(y.dtype.element_ty), mask=kept)


@triton.jit
def classify(
    logits, labels, probabilities, flags, SIZE: tl.constexpr, UP: tl.constexpr, CLASSES: tl.constexpr,
    PITCH: tl.constexpr, SIGMOID: tl.constexpr, FAULT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Enlarge the logits ``[N, SIZE / UP, SIZE / UP, PITCH]`` (float32), make LABELS and PROBABILITIES of them."""
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    c = tl.arange(0, PITCH)
    used = inside[:, None] & (c < CLASSES)[None, :]
    small: tl.constexpr = SIZE // UP
    y0, y1, fy = _between(pixel // SIZE, UP, small)
    x0, x1, fx = _between(pixel % SIZE, UP, small)
    image = logits + n * small * small * PITCH
    v00 = tl.load(image + (y0 * small + x0)[:, None] * PITCH + c[None, :], mask=used, other=0.0)
    v01 = tl.load(image + (y0 * small + x1)[:, None] * PITCH + c[None, :], mask=used, other=0.0)
    v10 = tl.load(image + (y1 * small + x0)[:, None] * PITCH + c[None, :], mask=used, other=0.0)
    v11 = tl.load(image + (y1 * small + x1)[:, None] * PITCH + c[None, :], mask=used, other=0.0)
    a, b = v00 + (v01 - v00) * fx[:, None], v10 + (v11 - v10) * fx[:, None]
    v = a + (b - a) * fy[:, None]
    if SIGMOID:
        p = 1.0 / (1.0 + tl.exp(-v))
    else:
        v = tl.where((c < CLASSES)[None, :], v, float("-inf"))
        e = tl.exp(v - tl.max(v, axis=1)[:, None])
        p = e / tl.sum(e, axis=1)[:, None]
    p = tl.where((c < CLASSES)[None, :], p, -1.0)
    best = tl.argmax(p, axis=1, tie_break_left=True)
    fault = tl.load(flags + n) != 0
    tl.store(labels + n * SIZE * SIZE + pixel, tl.where(fault, FAULT, best).to(tl.uint8), mask=inside)
    scaled = tl.where(fault, 0.0, tl.floor(p * 255.0 + 0.5))
    target = probabilities + (n * CLASSES + c[None, :]) * (SIZE * SIZE) + pixel[:, None]
    tl.store(target, scaled.to(tl.int32).to(tl.uint8), mask=used)
