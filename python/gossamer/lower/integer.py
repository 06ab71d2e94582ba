"""Layers of integers, and what goes between integers and floats."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops_i8  # noqa: F401  (defines the integer ops in torch)
from ..program import shape_of
from . import Lowering, Token, lowers
from .layers import convolution_weight, geometry
from .pool import padded
from .resize import resized


def _bytes(output: list[int] | None) -> dict[str, int] | None:
    """How a result is stored, as an attribute; nothing for float32."""
    return None if output is None else dict(zip(("zero_point", "lo", "hi"), output, strict=True))


def _quantized(x_zero_point: int, residual: Any, scale: float, zero_point: int, output: list[int] | None) -> dict:
    added = None if residual is None else {"scale": scale, "zero_point": zero_point}
    return {"x_zero_point": x_zero_point, "residual": added, "output": _bytes(output)}


@lowers("gossamer.conv_i8.default")
def conv_i8(
    at: Lowering,
    x,
    weight,
    scale,
    bias,
    residual,
    stride,
    padding,
    dilation,
    groups,
    x_zero_point,
    residual_scale,
    residual_zero_point,
    output,
) -> Token:
    kernel = weight.meta["val"].shape[2:]
    inputs = [at.value(x), convolution_weight(at, x, weight, groups), at.value(scale), at.value(bias)]
    return at.add(
        "conv_i8",
        [*inputs, at.optional(residual)],
        [weight, scale, bias],
        **geometry(kernel, stride, padding, dilation),
        groups=groups,
        **_quantized(x_zero_point, residual, residual_scale, residual_zero_point, output),
    )


@lowers("gossamer.linear_i8.default")
def linear_i8(
    at: Lowering, x, weight, scale, bias, residual, x_zero_point, residual_scale, residual_zero_point, output
) -> Token:
    inputs = [at.value(x), at.matrix(weight), at.value(scale), at.value(bias), at.optional(residual)]
    attrs = _quantized(x_zero_point, residual, residual_scale, residual_zero_point, output)
    return at.add("linear_i8", inputs, [weight, scale, bias], **attrs)


@lowers("gossamer.dynamic_linear_i8.default")
def dynamic_linear_i8(at: Lowering, x, weight, scale, bias) -> Token:
    inputs = [at.value(x), at.matrix(weight), at.value(scale), at.optional(bias)]
    return at.add("dynamic_linear_i8", inputs, [weight, scale, bias])


@lowers("gossamer.quantize.default")
def quantize(at: Lowering, x, scale, zero_point, lo, hi) -> Token:
    return at.add("quantize", [at.value(x)], scale=scale, zero_point=zero_point, lo=lo, hi=hi)


@lowers("gossamer.dequantize.default")
def dequantize(at: Lowering, x, scale, zero_point) -> Token:
    return at.add("dequantize", [at.value(x)], scale=scale, zero_point=zero_point)


@lowers("gossamer.lookup_i8.default")
def lookup_i8(at: Lowering, x, table) -> Token:
    return at.add("lookup_i8", [at.value(x), at.value(table)])


@lowers("gossamer.add_i8.default")
def add_i8(at: Lowering, a, b, a_scale, a_zero_point, b_scale, b_zero_point, zero_point, lo, hi) -> Token:
    return at.add(
        "add_i8",
        [at.value(a), at.value(b)],
        a={"scale": a_scale, "zero_point": a_zero_point},
        b={"scale": b_scale, "zero_point": b_zero_point},
        output=_bytes([zero_point, lo, hi]),
    )


@lowers("gossamer.mul_i8.default")
def mul_i8(at: Lowering, a, b, a_zero_point, b_zero_point, scale, zero_point, lo, hi) -> Token:
    attrs = {"a_zero_point": a_zero_point, "b_zero_point": b_zero_point, "scale": scale}
    return at.add("mul_i8", [at.value(a), at.value(b)], **attrs, output=_bytes([zero_point, lo, hi]))


@lowers("gossamer.pad_i8.default")
def pad_i8(at: Lowering, x, pad, mode, value) -> Token:
    return padded(at, x, pad, mode, value)


@lowers("gossamer.resize_i8.default")
def resize_i8(at: Lowering, x, output_size, scales, kind, align_corners) -> Token:
    return resized(at, x, kind, align_corners, scales, torch.uint8)


def _mean(x_zero_point: int, scale: float, output: list[int]) -> dict[str, Any]:
    """How a mean of bytes becomes a byte."""
    return {"x_zero_point": x_zero_point, "scale": scale, "output": _bytes(output)}


def _windows(kernel, stride, padding, dilation, ceil_mode) -> dict[str, Any]:
    return {**geometry(kernel, stride, padding, dilation), "ceil_mode": ceil_mode}


@lowers("gossamer.max_pool_i8.default")
def max_pool_i8(at: Lowering, x, kernel, stride, padding, dilation, ceil_mode) -> Token:
    return at.add("pool", [at.value(x)], kind="max", **_windows(kernel, stride, padding, dilation, ceil_mode))


@lowers("gossamer.avg_pool_i8.default")
def avg_pool_i8(
    at: Lowering, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor, x_zero_point, scale, output
) -> Token:
    return at.add(
        "pool",
        [at.value(x)],
        kind="avg",
        **_windows(kernel, stride, padding, [1] * len(kernel), ceil_mode),
        count_include_pad=count_include_pad,
        divisor=divisor,
        mean=_mean(x_zero_point, scale, output),
    )


@lowers("gossamer.adaptive_avg_pool_i8.default")
def adaptive_avg_pool_i8(at: Lowering, x, output_size, x_zero_point, scale, output) -> Token:
    mean = _mean(x_zero_point, scale, output)
    return at.add("adaptive_pool", [at.value(x)], kind="avg", output_size=list(output_size), mean=mean)


@lowers("gossamer.mean_i8.default")
def mean_i8(at: Lowering, x, axes, keepdim, x_zero_point, scale, output) -> Token:
    rank = len(shape_of(x))
    axes = sorted(a % rank for a in axes)
    return at.add("mean_i8", [at.value(x)], axes=axes, keepdim=keepdim, mean=_mean(x_zero_point, scale, output))
