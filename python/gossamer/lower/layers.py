"""Convolutions, linear layers, products of matrices and look-ups of rows: what has weights."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..ops import ACTIVATIONS
from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers


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


@lowers("aten.matmul.default", "aten.bmm.default", "aten.mm.default")
def matmul(at: Lowering, a, b) -> Token:
    return product(at, a, b)


def product(at: Lowering, a: fx.Node, b: fx.Node) -> Token:
    """The product of two values, either of which may be a vector."""
    left, right = at.sizes(a), at.sizes(b)
    x, y = at.value(a), at.value(b)
    if len(left) == 1:
        x = at.add("reshape", [x], shape=[1, *left])
    if len(right) == 1:
        y = at.add("reshape", [y], shape=[*right, 1])
    z = at.add("matmul", [x, y])
    return at.add("reshape", [z], shape=at.sizes()) if 1 in (len(left), len(right)) else z


@lowers("aten.addmm.default", "aten.baddbmm.default")
def addmm(at: Lowering, bias, a, b, beta, alpha) -> Token:
    if (beta, alpha) != (1, 1):
        raise Unsupported("a product scaled by alpha or beta: write the scaling as a multiplication")
    return at.add("binary", [product(at, a, b), at.value(bias)], fn="add")


@lowers("aten.embedding.default")
def embedding(at: Lowering, table, ids, padding_idx, scale_grad_by_freq, sparse) -> Token:
    if at.program.constant(table) is None:
        raise Unsupported("the table is computed, not a parameter")
    return at.add("embedding", [at.value(ids), at.value(table)], [table])
