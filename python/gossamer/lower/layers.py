"""Convolutions, linear layers, products of matrices and look-ups of rows: what has weights."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from ..ops import ACTIVATIONS
from ..passes.name_layers import window_padding
from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers
from .pool import batched, spread, times


def activation(name: str, params: list[float]) -> dict[str, Any] | None:
    """An activation as an attribute: null, or its name and parameters; an infinite bound is left out."""
    if not name:
        return None
    pairs = zip(ACTIVATIONS[name].params, params, strict=True)
    return {"fn": name, **{key: value for key, value in pairs if abs(value) != float("inf")}}


@lowers("gossamer.linear.default")
def linear(at: Lowering, x, weight, bias, residual, act, params) -> Token | None:
    if at.node in at.pairs.values():
        return None  # the first factor of a pair, which is lowered with the second
    first = at.pairs.get(at.node)
    if first is None:
        token, weights = at.matrix(weight), [weight]
    else:
        x, v = first.args[:2]
        token, weights = at.low_rank(weight.target, at.matrix(weight), at.matrix(v)), [v, weight]
    inputs = [at.value(x), token, at.optional(bias), at.optional(residual)]
    weights += [] if bias is None else [bias]
    return at.add("linear", inputs, weights, activation=activation(act, params))


@lowers("gossamer.conv.default")
def conv(at: Lowering, x, weight, bias, residual, stride, padding, dilation, groups, act, params) -> Token | None:
    if at.node in at.pairs.values():
        return None  # the first factor of a pair, which is lowered with the second
    first = at.pairs.get(at.node)
    weights = [weight]
    if first is not None:
        x, v = first.args[:2]
        stride, padding, dilation = first.args[4:7]
        token, weights = at.low_rank(weight.target, at.matrix(weight), at.matrix(v)), [v, weight]
        kernel = shape_of(v)[2:]
    else:
        kernel = shape_of(weight)[2:]
        token = convolution_weight(at, x, weight, groups)
    weights += [] if bias is None else [bias]
    return at.add(
        "conv",
        [at.value(x), token, at.optional(bias), at.optional(residual)],
        weights,
        **geometry(kernel, stride, padding, dilation),
        groups=groups,
        activation=activation(act, params),
    )


def convolution_weight(at: Lowering, x: fx.Node, weight: fx.Node, groups: int) -> Token:
    """The weight of a convolution: a matrix, or plain numbers where every channel is by itself."""
    channels = shape_of(x)[1]
    if groups == channels and groups > 1 and shape_of(weight)[1] == 1:
        value = at.program.constant(weight)
        return at.tensor(value.flatten(1), weight.target)
    return at.matrix(weight, groups)


def geometry(kernel, stride, padding, dilation) -> dict[str, Any]:
    """The attributes that say where a window lies; `padding` is flat, low and high for each dimension."""
    pairs = [list(padding[i : i + 2]) for i in range(0, len(padding), 2)]
    return {"kernel": list(kernel), "stride": list(stride), "padding": pairs, "dilation": list(dilation)}


@lowers("aten.conv1d.default", "aten.conv2d.default", "aten.conv1d.padding", "aten.conv2d.padding")
def computed_conv(at: Lowering, x, weight, bias, stride, padding, dilation, groups) -> Token:
    """A convolution whose weight is computed: its windows side by side, times that."""
    m, depth, *kernel = shape_of(weight)
    n = len(kernel)
    if not all(isinstance(size, int) for size in (m, depth, *kernel)):
        raise Unsupported("a weight whose shape depends on the inputs")
    pads = window_padding(padding, kernel, dilation)
    window = geometry(kernel, spread(stride, n), pads, spread(dilation, n))
    out = at.sizes()[-n:]
    taps = depth * math.prod(kernel)
    rows = at.add("reshape", [at.value(weight)], shape=[groups, m // groups, taps])

    def make(image: Token) -> Token:
        batch = at.sizes(x)[0] if len(shape_of(x)) > n + 1 else 1
        columns = at.add("unfold", [image], **window)
        columns = at.add("reshape", [columns], shape=[batch, groups, taps, times(out)])
        y = at.add("matmul", [rows, columns])
        y = at.add("reshape", [y], shape=[batch, m, *out])
        if bias is None:
            return y
        addend = at.add("reshape", [at.value(bias)], shape=[m, *[1] * n])
        return at.add("binary", [y, addend], fn="add")

    return batched(at, x, n, make)


@lowers("aten.linear.default")
def computed_linear(at: Lowering, x, weight, bias) -> Token:
    """A linear layer whose weight is computed."""
    rank = len(shape_of(weight))
    turned = at.value(weight)
    if rank == 2:
        turned = at.add("permute", [turned], axes=[1, 0])
    y = multiplied(at, at.value(x), at.sizes(x), turned, at.sizes(weight)[::-1])
    return y if bias is None else at.add("binary", [y, at.value(bias)], fn="add")


@lowers("aten.bilinear.default")
def bilinear(at: Lowering, x1, x2, weight, bias) -> Token:
    """`x1 · W[m] · x2` for each output m: a linear layer of x1 for each pair of output and element of x2."""
    m, k, j = shape_of(weight)
    known = at.program.constant(weight)
    *rows, _ = at.sizes(x1)
    pairs = [times(rows or [1]), k]
    left = at.add("reshape", [at.value(x1)], shape=pairs)
    used = [] if bias is None else [bias]
    if known is None:
        turned = at.add("permute", [at.value(weight)], axes=[1, 0, 2])
        turned = at.add("reshape", [turned], shape=[k, m * j])
        y = at.add("matmul", [left, turned])
    else:
        matrix = at.made_matrix(known.permute(0, 2, 1).reshape(m * j, k).contiguous(), f"{weight.target}.pairs", 1)
        y = at.add("linear", [left, matrix, None, None], [weight, *used], activation=None)
    y = at.add("reshape", [y], shape=[times(rows or [1]), m, j])
    right = at.add("reshape", [at.value(x2)], shape=[times(rows or [1]), j, 1])
    y = at.add("matmul", [y, right])
    y = at.add("reshape", [y], shape=at.sizes())
    return y if bias is None else at.add("binary", [y, at.value(bias)], fn="add")


@lowers("aten.matmul.default", "aten.bmm.default", "aten.mm.default", "aten.mv.default", "aten.dot.default")
def matmul(at: Lowering, a, b) -> Token:
    return product(at, a, b)


def product(at: Lowering, a: fx.Node, b: fx.Node) -> Token:
    """The product of two values, either of which may be a vector."""
    return multiplied(at, at.value(a), at.sizes(a), at.value(b), at.sizes(b))


def multiplied(at: Lowering, x: Token, left: list[int | str], y: Token, right: list[int | str]) -> Token:
    """The product of two values of those shapes, as `torch.matmul` takes it."""
    if len(left) == 1:
        x = at.add("reshape", [x], shape=[1, *left])
    if len(right) == 1:
        y = at.add("reshape", [y], shape=[*right, 1])
    z = at.add("matmul", [x, y])
    return at.add("reshape", [z], shape=at.sizes()) if 1 in (len(left), len(right)) else z


@lowers("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default", "aten.addbmm.default")
def addmm(at: Lowering, bias, a, b, beta, alpha) -> Token:
    dtype = at.node.meta["val"].dtype
    scaled = product(at, a, b)
    if at.function() == "addbmm":
        scaled = at.add("reduce", [scaled], fn="sum", axes=[0], keepdim=False)
    if alpha != 1:
        scaled = at.add("binary", [scaled, at.operand(alpha, dtype)], fn="mul")
    if beta == 0:
        return scaled
    added = at.value(bias, dtype)
    if beta != 1:
        added = at.add("binary", [added, at.operand(beta, dtype)], fn="mul")
    return at.add("binary", [scaled, added], fn="add")
