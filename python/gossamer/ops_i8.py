"""The integer operators, as torch custom ops: the one arithmetic that every kernel of gossamer reproduces to the bit.

Activations are uint8 with a scale and a zero point, `real = (q - zero_point) · scale`; weights are int8, one scale an
output channel, no zero point. Sums of products are exact: here in float64, where integers below 2^53 and their products
are, in the kernels in int32, where a depth of at most 65 793 (`fits_int32`) makes them so. What follows a sum is
float32, one rounding an operation, a multiplication and an addition never fused, `rint` to the nearest, halves to even:

    y = f32(acc) · scale[r] + bias[r]                       scale already holds s_x · s_w[r] / s_y, bias b[r] / s_y
    y = y + f32(residual - residual_zero_point) · residual_scale
    q = clamp(rint(y) + zero_point, lo, hi)                 or y itself, where the output is float32

`output` is `[zero_point, lo, hi]`, or None for float32. `padding` is flat, `[low, high]` for each spatial dimension in
order, and means the real value zero: the zero point. Scales are Python floats that float32 holds exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "adaptive_avg_pool_i8",
    "add_i8",
    "avg_pool_i8",
    "conv_i8",
    "conv_w8",
    "dequantize",
    "dynamic_linear_i8",
    "fits_int32",
    "linear_i8",
    "linear_w8",
    "lookup_i8",
    "max_pool_i8",
    "mean_i8",
    "mul_i8",
    "pad_i8",
    "quantize",
    "resize_i8",
]

# The smallest normal float32: a row with a smaller scale is taken as zeros, so that 1 / scale is finite.
SMALLEST_SCALE = 2.0**-126


def fits_int32(weight: Tensor) -> bool:
    """Whether no sum over a row of `weight`, (m, ...) int8, can leave int32 whatever its values.

    An activation less its zero point is at most 255 from zero, a weight at most 128.
    """
    return math.prod(weight.shape[1:]) * 128 * 255 < 2**31


def _store(y: Tensor, output: Sequence[int] | None) -> Tensor:
    """float32 `y` in units of the output's scale, as uint8, or as it is."""
    if output is None:
        return y.contiguous()
    zero_point, lo, hi = output
    q = y.round_().add_(zero_point).clamp_(lo, hi)
    # Laid out plainly whatever the inputs were, as the fakes say.
    return q.to(torch.uint8, memory_format=torch.contiguous_format)


def _finish(
    acc: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    residual_scale: float,
    residual_zero_point: int,
    output: Sequence[int] | None,
) -> Tensor:
    """What follows the exact sums `acc`; `scale` and `bias` broadcast against them."""
    y = acc.to(torch.float32).mul_(scale).add_(bias)
    if residual is not None:
        y += _centred(residual, residual_zero_point, torch.float32) * residual_scale
    return _store(y, output)


def _centred(x: Tensor, zero_point: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return x.to(dtype) - zero_point


def _like(x: Tensor, shape: Sequence[int], output: Sequence[int] | None) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32 if output is None else torch.uint8)


def _conv_shape(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    sizes = [
        (size + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (weight.shape[i + 2] - 1) - 1) // stride[i] + 1
        for i, size in enumerate(x.shape[2:])
    ]
    return [x.shape[0], weight.shape[0], *sizes]


def _pad_last(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    """Pads the last dimensions by `[low, high]` each, given first dimension first."""
    if not any(padding):
        return x
    pairs = [padding[i : i + 2] for i in range(0, len(padding), 2)]
    return F.pad(x, [p for pair in reversed(pairs) for p in pair], value=value)


@torch.library.custom_op("gossamer::quantize", mutates_args=())
def quantize(x: Tensor, scale: float, zero_point: int, lo: int = 0, hi: int = 255) -> Tensor:
    """float32 to uint8: `clamp(rint(x · f32(1 / scale)) + zero_point, lo, hi)`, 1 / scale in float64; NaN: as 0."""
    y = x * torch.tensor(1.0 / scale, dtype=torch.float32)
    return _store(torch.where(y.isnan(), 0.0, y), [zero_point, lo, hi])


@quantize.register_fake
def _(x: Tensor, scale: float, zero_point: int, lo: int = 0, hi: int = 255) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.uint8)


@torch.library.custom_op("gossamer::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """uint8 to float32: `f32(x - zero_point) · scale`."""
    return (_centred(x, zero_point, torch.float32) * scale).contiguous()


@dequantize.register_fake
def _(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


def _depthwise(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Every channel of `x`, padded, convolved with kernels of its own, tap by tap.

    torch's own convolution of float64 takes the channels one at a time, and far longer.
    """
    x = x.repeat_interleave(weight.shape[0] // x.shape[1], 1)
    shape = _conv_shape(x, weight, stride, [0] * 2 * len(stride), dilation)
    if min(shape[2:]) < 1:
        raise ValueError(
            f"a kernel of {list(weight.shape[2:])}, dilated by {list(dilation)}, is larger than its padded"
            f" input of {list(x.shape[2:])}: give a larger input"
        )
    acc = x.new_zeros(shape)
    factors = weight.flatten(2).unbind(2)
    for factor, tap in zip(factors, itertools.product(*map(range, weight.shape[2:])), strict=True):
        columns = (
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, s, size in zip(tap, dilation, stride, shape[2:], strict=True)
        )
        seen: tuple[Any, ...] = (..., *columns)
        acc.addcmul_(x[seen], factor.reshape(-1, *[1] * len(stride)))
    return acc


@torch.library.custom_op("gossamer::conv_i8", mutates_args=())
def conv_i8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    x_zero_point: int,
    residual_scale: float,
    residual_zero_point: int,
    output: Sequence[int] | None,
) -> Tensor:
    """Convolution over one or two spatial dimensions, `acc = Σ w · (x - x_zero_point)`.

    Args:
        x: (n, c, ...) uint8.
        weight: (m, c / groups, ...) int8.
        scale: (m,) float32.
        bias: (m,) float32.
        residual: Of the result's shape, uint8, or None.
        stride: One a spatial dimension.
        padding: Two a spatial dimension.
        dilation: One a spatial dimension.
        groups: Of channels; `groups == c` with one channel each is a depthwise convolution.
        x_zero_point: Of `x`.
        residual_scale: The residual's scale over the output's.
        residual_zero_point: Of `residual`.
        output: `[zero_point, lo, hi]`, or None for float32.
    """
    conv = F.conv1d if x.dim() == 3 else F.conv2d
    padded, factors = _pad_last(_centred(x, x_zero_point), padding), weight.to(torch.float64)
    if weight.shape[1] == 1 and groups == x.shape[1] > 1:
        acc = _depthwise(padded, factors, stride, dilation)
    else:
        acc = conv(padded, factors, None, stride, 0, dilation, groups)
    channel = (-1,) + (1,) * (x.dim() - 2)
    return _finish(
        acc, scale.reshape(channel), bias.reshape(channel), residual, residual_scale, residual_zero_point, output
    )


@conv_i8.register_fake
def _(
    x, weight, scale, bias, residual, stride, padding, dilation, groups, x_zero_point, residual_scale,
    residual_zero_point, output,
):  # fmt: skip
    return _like(x, _conv_shape(x, weight, stride, padding, dilation), output)


@torch.library.custom_op("gossamer::linear_i8", mutates_args=())
def linear_i8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    x_zero_point: int,
    residual_scale: float,
    residual_zero_point: int,
    output: Sequence[int] | None,
) -> Tensor:
    """(..., k) uint8 by (m, k) int8 to (..., m); the arguments are those of `conv_i8`."""
    acc = F.linear(_centred(x, x_zero_point), weight.to(torch.float64))
    return _finish(acc, scale, bias, residual, residual_scale, residual_zero_point, output)


@linear_i8.register_fake
def _(x, weight, scale, bias, residual, x_zero_point, residual_scale, residual_zero_point, output):
    return _like(x, [*x.shape[:-1], weight.shape[0]], output)


@torch.library.custom_op("gossamer::add_i8", mutates_args=())
def add_i8(
    a: Tensor,
    b: Tensor,
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """Adds two uint8 tensors of one shape; `a_scale` and `b_scale` are their scales over the output's.

    `y = f32(a - a_zero_point) · a_scale + f32(b - b_zero_point) · b_scale; q = clamp(rint(y) + zero_point, lo, hi)`.
    """
    y = _centred(a, a_zero_point, torch.float32).mul_(a_scale)
    y += _centred(b, b_zero_point, torch.float32).mul_(b_scale)
    return _store(y, [zero_point, lo, hi])


@add_i8.register_fake
def _(a, b, a_scale, a_zero_point, b_scale, b_zero_point, zero_point, lo, hi):
    return a.new_empty(a.shape)


@torch.library.custom_op("gossamer::mul_i8", mutates_args=())
def mul_i8(
    a: Tensor, b: Tensor, a_zero_point: int, b_zero_point: int, scale: float, zero_point: int, lo: int, hi: int
) -> Tensor:
    """Multiplies two uint8 tensors, broadcast to each other; `scale` is the product of their scales over the output's.

    `y = f32((a - a_zero_point) · (b - b_zero_point)) · scale; q = clamp(rint(y) + zero_point, lo, hi)`.
    """
    y = _centred(a, a_zero_point, torch.float32) * _centred(b, b_zero_point, torch.float32)
    return _store(y.mul_(scale), [zero_point, lo, hi])


@mul_i8.register_fake
def _(a, b, a_zero_point, b_zero_point, scale, zero_point, lo, hi):
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape))


@torch.library.custom_op("gossamer::pad_i8", mutates_args=())
def pad_i8(x: Tensor, pad: Sequence[int], mode: str, value: int) -> Tensor:
    """`torch.nn.functional.pad` of uint8, to the same scale and zero point; `value` is a byte."""
    y = F.pad(x.to(torch.float32), list(pad), mode, value if mode == "constant" else None)
    return y.to(torch.uint8, memory_format=torch.contiguous_format)


@pad_i8.register_fake
def _(x, pad, mode, value):
    sizes = list(x.shape)
    for i in range(len(pad) // 2):
        sizes[-1 - i] = sizes[-1 - i] + pad[2 * i] + pad[2 * i + 1]
    return x.new_empty(sizes)


def _resized(x: Tensor, output_size: Sequence[int] | None, scales: Sequence[float] | None) -> list[int]:
    if output_size is not None:
        return list(output_size)
    assert scales is not None, "either the sizes are given or how much larger they get"
    return [torch.sym_int(size * scale) for size, scale in zip(x.shape[2:], scales, strict=True)]


def _taps(n: int, out: int, scale: float | None, kind: str, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each output along an axis: the two inputs that it lies between, and the weight of the second, in float32."""
    size = torch.tensor(float(n), dtype=torch.float32)
    if align_corners:
        ratio = (size - 1) / (torch.tensor(float(out)) - 1) if out > 1 else torch.tensor(0.0)
    elif scale is not None:
        ratio = torch.tensor(1.0 / scale, dtype=torch.float64).to(torch.float32)
    else:
        ratio = size / torch.tensor(float(out))
    at = torch.arange(out, dtype=torch.float32)
    if kind != "linear":
        source = (at if kind == "nearest" else at + 0.5) * ratio
        first = source.floor().to(torch.int64).clamp(0, n - 1)
        return first, first, torch.zeros(out)
    source = (at * ratio if align_corners else (at + 0.5) * ratio - 0.5).clamp(min=0.0)
    first = source.to(torch.int64).clamp(max=n - 1)
    return first, (first + 1).clamp(max=n - 1), (source - first.to(torch.float32)).clamp(0.0, 1.0)


@torch.library.custom_op("gossamer::resize_i8", mutates_args=())
def resize_i8(
    x: Tensor,
    output_size: Sequence[int] | None,
    scales: Sequence[float] | None,
    kind: str,
    align_corners: bool,
) -> Tensor:
    """Planes of another size, (n, c, ...) uint8 to the same scale and zero point, by torch's coordinates in float32.

    `kind` is `nearest` or `nearest_exact`, which copy bytes, or `linear`: with `t` the float32 distance to the first of
    two inputs, `row = f32(a) · (1 - t) + f32(b) · t` along the last axis, the same of two rows along the one before,
    and `q = clamp(rint(y), 0, 255)`.
    """
    sizes = _resized(x, output_size, scales)
    y = x.to(torch.float32)
    # Along the columns first, as the kernels do.
    for i in reversed(range(len(sizes))):
        axis = 2 + i
        scale = None if scales is None else scales[i]
        first, second, t = _taps(x.shape[axis], sizes[i], scale, kind, align_corners)
        if kind != "linear":
            y = y.index_select(axis, first)
            continue
        t = t.reshape(-1, *(1,) * (len(sizes) - 1 - i))
        y = y.index_select(axis, first) * (1 - t) + y.index_select(axis, second) * t
    return _store(y.contiguous(), [0, 0, 255])


@resize_i8.register_fake
def _(x, output_size, scales, kind, align_corners):
    return x.new_empty([*x.shape[:2], *_resized(x, output_size, scales)])


@torch.library.custom_op("gossamer::lookup_i8", mutates_args=())
def lookup_i8(x: Tensor, table: Tensor) -> Tensor:
    """`table[x]` for each element; `table` is (256,) uint8. Any function of one uint8 number."""
    return table[x.to(torch.int64)].contiguous()


@lookup_i8.register_fake
def _(x: Tensor, table: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _pooled(size: int, kernel: int, stride: int, low: int, high: int, dilation: int, ceil_mode: bool) -> int:
    """The windows that torch's pooling makes of a dimension; with `ceil_mode` the last starts inside the input."""
    span = size + low + high - dilation * (kernel - 1) - 1
    count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    # As torch does it, so that the sizes of a symbolic shape stay what torch's own operator gives.
    if ceil_mode and (count - 1) * stride >= size + low:
        count -= 1
    return count


def _windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[list[int], list[int]]:
    """Output sizes, and the padding with which whole windows give exactly those."""
    sizes, full = [], []
    for i, size in enumerate(x.shape[2:]):
        low, high = padding[2 * i], padding[2 * i + 1]
        count = _pooled(size, kernel[i], stride[i], low, high, dilation[i], ceil_mode)
        need = (count - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        sizes.append(count)
        full += [low, max(high, need - size - low)]
    return sizes, full


def _pool_like(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    sizes = [
        _pooled(size, kernel[i], stride[i], padding[2 * i], padding[2 * i + 1], dilation[i], ceil_mode)
        for i, size in enumerate(x.shape[2:])
    ]
    return x.new_empty([*x.shape[:2], *sizes])


@torch.library.custom_op("gossamer::max_pool_i8", mutates_args=())
def max_pool_i8(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """The largest of each window, (n, c, ...) uint8 to uint8 of the same scale and zero point; padding never wins."""
    _, full = _windows(x, kernel, stride, padding, dilation, ceil_mode)
    y = _pad_last(x.to(torch.float32), full, -1.0)
    pool = torch.max_pool1d if x.dim() == 3 else torch.max_pool2d
    y = pool(y, list(kernel), list(stride), 0, list(dilation))
    return y.to(torch.uint8, memory_format=torch.contiguous_format)


@max_pool_i8.register_fake
def _(x, kernel, stride, padding, dilation, ceil_mode):
    return _pool_like(x, kernel, stride, padding, dilation, ceil_mode)


def _mean(sums: Tensor, count: Tensor | int, scale: float, output: Sequence[int]) -> Tensor:
    """`clamp(rint(f32(sum) · f32(scale / count)) + zero_point, lo, hi)`, the division in float64."""
    factor = (torch.tensor(scale, dtype=torch.float64) / count).to(torch.float32)
    return _store(sums.to(torch.float32) * factor, output)


@torch.library.custom_op("gossamer::avg_pool_i8", mutates_args=())
def avg_pool_i8(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
    x_zero_point: int,
    scale: float,
    output: Sequence[int],
) -> Tensor:
    """The mean of each window, (n, c, ...) uint8 to uint8; `scale` is the input's scale over the output's.

    `q = clamp(rint(f32(Σ (x - x_zero_point)) · f32(scale / count)) + zero_point, lo, hi)`, scale / count in float64,
    where count is `divisor`, or the window's elements that lie in the input, with `count_include_pad` also those in
    its padding.
    """
    ones = [1] * len(kernel)
    _, full = _windows(x, kernel, stride, padding, ones, ceil_mode)
    centred = _centred(x, x_zero_point)
    sums = _sum_windows(_pad_last(centred, full), kernel, stride)
    if divisor is not None:
        return _mean(sums, divisor, scale, output)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=torch.float64)
    if count_include_pad:
        inside = _pad_last(inside, padding, 1.0)
        full = [f - p for f, p in zip(full, padding, strict=True)]
    return _mean(sums, _sum_windows(_pad_last(inside, full), kernel, stride), scale, output)


def _sum_windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    if x.dim() == 3:
        return F.avg_pool2d(x[..., None, :], (1, *kernel), (1, *stride), divisor_override=1).squeeze(-2)
    return F.avg_pool2d(x, list(kernel), list(stride), divisor_override=1)


@avg_pool_i8.register_fake
def _(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor, x_zero_point, scale, output):
    return _pool_like(x, kernel, stride, padding, [1] * len(kernel), ceil_mode)


@torch.library.custom_op("gossamer::adaptive_avg_pool_i8", mutates_args=())
def adaptive_avg_pool_i8(
    x: Tensor, output_size: Sequence[int], x_zero_point: int, scale: float, output: Sequence[int]
) -> Tensor:
    """`avg_pool_i8` over the windows of `output_size`: output i of n takes `[⌊i·size/n⌋, ⌈(i+1)·size/n⌉)`."""
    sums, count = _centred(x, x_zero_point), torch.ones((), dtype=torch.float64)
    for axis, (size, n) in enumerate(zip(x.shape[2:], output_size, strict=True), start=2):
        # A matrix of zeros and ones that sums each window along this axis.
        i, at = torch.arange(n)[:, None], torch.arange(size)
        member = ((at >= i * size // n) & (at < -(-(i + 1) * size // n))).to(torch.float64)
        sums = torch.movedim(torch.movedim(sums, axis, -1) @ member.T, -1, axis)
        count = count[..., None] * member.sum(1)
    return _mean(sums, count, scale, output)


@adaptive_avg_pool_i8.register_fake
def _(x, output_size, x_zero_point, scale, output):
    return x.new_empty([*x.shape[:2], *output_size])


@torch.library.custom_op("gossamer::mean_i8", mutates_args=())
def mean_i8(
    x: Tensor, axes: Sequence[int], keepdim: bool, x_zero_point: int, scale: float, output: Sequence[int]
) -> Tensor:
    """The mean over `axes`, uint8 to uint8, by the formula of `avg_pool_i8` with their elements as the count."""
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return _mean(_centred(x, x_zero_point).sum(list(axes), keepdim), count, scale, output)


@mean_i8.register_fake
def _(x, axes, keepdim, x_zero_point, scale, output):
    gone = {axis % x.dim() for axis in axes}
    shape = [1 if i in gone else size for i, size in enumerate(x.shape) if keepdim or i not in gone]
    return x.new_empty(shape)


@torch.library.custom_op("gossamer::dynamic_linear_i8", mutates_args=())
def dynamic_linear_i8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(..., k) float32 by (m, k) int8 to (..., m) float32; each row of `x` is quantized by its own range.

    In float32, one rounding an operation, for a row x:

        lo = min(min(x), 0), hi = max(max(x), 0), s = (hi - lo) / 255       s < 2^-126: s = 1
        zero_point = clamp(rint(-lo / s), 0, 255), inverse = 1 / s
        q = clamp(rint(x · inverse) + zero_point, 0, 255)
        y[r] = f32(Σ w[r] · (q - zero_point)) · (s · scale[r]) + bias[r]

    Where a row holds a NaN, or hi - lo is not finite, all of its outputs are NaN. Without a bias nothing is added.
    """
    if x.shape[-1] == 0:
        y = x.new_zeros((*x.shape[:-1], weight.shape[0]))
        return y if bias is None else y + bias
    zero = torch.zeros(())
    lo = torch.minimum(x.amin(-1, keepdim=True), zero)
    hi = torch.maximum(x.amax(-1, keepdim=True), zero)
    s = (hi - lo) / 255
    s = torch.where(s < SMALLEST_SCALE, 1.0, s)
    s = torch.where(s.isfinite(), s, torch.nan)
    zero_point = (-lo / s).round().clamp(0, 255)
    q = ((x * (1 / s)).round() + zero_point).clamp(0, 255)
    acc = F.linear((q - zero_point).nan_to_num(0.0).to(torch.float64), weight.to(torch.float64))
    y = acc.to(torch.float32) * (s * scale)
    return y if bias is None else y + bias


@dynamic_linear_i8.register_fake
def _(x, weight, scale, bias):
    return x.new_empty([*x.shape[:-1], weight.shape[0]])


@torch.library.custom_op("gossamer::linear_w8", mutates_args=())
def linear_w8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(..., k) float32 by (m, k) int8 to (..., m) float32: a linear layer with the weight `scale[r] · q`."""
    return F.linear(x, _scaled(weight, scale), bias)


@linear_w8.register_fake
def _(x, weight, scale, bias):
    return x.new_empty([*x.shape[:-1], weight.shape[0]])


@torch.library.custom_op("gossamer::conv_w8", mutates_args=())
def conv_w8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of float32 with the weight `scale[r] · q`; shapes and geometry as in `conv_i8`."""
    conv = F.conv1d if x.dim() == 3 else F.conv2d
    return conv(_pad_last(x, padding), _scaled(weight, scale), bias, stride, 0, dilation, groups).contiguous()


@conv_w8.register_fake
def _(x, weight, scale, bias, stride, padding, dilation, groups):
    return x.new_empty(_conv_shape(x, weight, stride, padding, dilation))


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight.to(torch.float32) * scale.reshape(-1, *(1,) * (weight.dim() - 1))
