"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch

from ..passes.fold_batch_norm import factor_and_addend
from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers


@lowers("aten.softmax.int", "aten.log_softmax.int")
def softmax(at: Lowering, x, dim, dtype) -> Token:
    return _softmax(at, x, dim)


@lowers("aten._softmax.default", "aten._log_softmax.default")
def softmax_core(at: Lowering, x, dim, half_to_float) -> Token:
    return _softmax(at, x, dim)


def _softmax(at: Lowering, x, dim: int) -> Token:
    token = at.value(x, at.node.meta["val"].dtype)
    rank, log = len(shape_of(x)), "log" in at.function()
    if rank:
        return at.add("softmax", [token], axis=dim % rank, log=log)
    # One number is a vector of one.
    token = at.add("softmax", [at.add("reshape", [token], shape=[1])], axis=0, log=log)
    return at.add("reshape", [token], shape=[])


@lowers("aten.layer_norm.default")
def layer_norm(at: Lowering, x, shape, weight, bias, eps, cudnn_enable) -> Token:
    return _scaled(at, x, "layer_norm", weight, bias, at.sizes(x)[-len(shape) :], dims=len(shape), eps=eps)


def _scaled(at: Lowering, x, op: str, weight, bias, shape: list[int | str], **attrs: Any) -> Token:
    """A norm, scaled and shifted: by itself where the file holds by what, which has that shape beside the norm's."""
    used = [n for n in (weight, bias) if n is not None]
    if all(at.program.constant(n) is not None for n in used):
        return at.add(op, [at.value(x), at.optional(weight), at.optional(bias)], used, **attrs)
    token = at.add(op, [at.value(x), None, None], **attrs)
    return _affine(at, token, weight, bias, shape)


def _affine(at: Lowering, token: Token, weight, bias, shape: list[int | str]) -> Token:
    """A value times a weight and plus a bias, either of which may be absent, both of that shape."""
    for fn, node in (("mul", weight), ("add", bias)):
        if node is not None:
            token = at.add("binary", [token, at.add("reshape", [at.value(node)], shape=shape)], fn=fn)
    return token


@lowers("aten.native_layer_norm.default")
def native_layer_norm(at: Lowering, x, shape, weight, bias, eps) -> list[Token | None]:
    return [layer_norm(at, x, shape, weight, bias, eps, True), None, None]


@lowers("aten.group_norm.default")
def group_norm(at: Lowering, x, groups, weight, bias, eps, cudnn_enabled) -> Token:
    return _grouped(at, x, groups, weight, bias, eps)


@lowers("aten.native_group_norm.default")
def native_group_norm(at: Lowering, x, weight, bias, n, channels, plane, groups, eps) -> list[Token | None]:
    return [_grouped(at, x, groups, weight, bias, eps), None, None]


@lowers("aten.instance_norm.default")
def instance_norm(at: Lowering, x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn_enabled) -> Token:
    if not use_input_stats:
        # By the statistics of training, which are those of a batch norm.
        return _by_statistics(at, x, weight, bias, mean, var, eps)
    return _grouped(at, x, shape_of(x)[1], weight, bias, eps)


def _grouped(at: Lowering, x, groups: int, weight, bias, eps: float) -> Token:
    return _scaled(at, x, "group_norm", weight, bias, _channels(at, x), groups=groups, eps=eps)


def _channels(at: Lowering, x) -> list[int | str]:
    """The shape of a number for each channel, beside that of the value."""
    return [at.sizes(x)[1], *[1] * (len(shape_of(x)) - 2)]


@lowers("aten.rms_norm.default")
def rms_norm(at: Lowering, x, shape, weight, eps) -> Token:
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    dims = len(shape)
    return _scaled(at, x, "layer_norm", weight, None, at.sizes(x)[-dims:], dims=dims, eps=eps, rms=True)


@lowers("aten._native_batch_norm_legit_no_training.default")
def batch_norm(at: Lowering, x, weight, bias, mean, var, momentum, eps) -> list[Token | None]:
    return [_by_statistics(at, x, weight, bias, mean, var, eps), None, None]


def _by_statistics(at: Lowering, x, weight, bias, mean, var, eps: float) -> Token:
    """A norm of each channel by a mean and a variance that are given."""
    constants = factor_and_addend(at.program, weight, bias, mean, var, eps)
    if constants is None:
        channels = _channels(at, x)
        token = at.add("reshape", [at.value(mean)], shape=channels)
        token = at.add("binary", [at.value(x), token], fn="sub")
        spread = at.add("reshape", [at.value(var)], shape=channels)
        return _affine(at, _divided(at, token, spread, eps), weight, bias, channels)
    # The same statistics may stand beside other weights.
    key = (*(None if n is None else n.target for n in (weight, bias, var)), eps)
    scale, shift = (
        at.keep(t.float(), f"{mean.target}.{kind}", key) for t, kind in zip(constants, ("scale", "shift"), strict=True)
    )
    used = [n for n in (weight, bias, mean, var) if n is not None]
    return at.add("affine", [at.value(x), scale, shift], used)


def _divided(at: Lowering, x: Token, var: Token, eps: float) -> Token:
    """A value over the root of its variance."""
    var = at.add("binary", [var, at.operand(eps, torch.float32)], fn="add")
    return at.add("binary", [x, at.add("map", [var], fn="rsqrt")], fn="mul")


@lowers("aten._native_batch_norm_legit.no_stats")
def batch_norm_of_batch(at: Lowering, x, weight, bias, training, momentum, eps) -> list[Token | None]:
    """By the statistics of the batch at hand, which is what a norm that tracks none does in eval mode."""
    axes = [axis for axis in range(len(shape_of(x))) if axis != 1]
    mean = at.add("reduce", [at.value(x)], fn="mean", axes=axes, keepdim=True)
    var = at.add("reduce", [at.value(x)], fn="var", axes=axes, keepdim=True, correction=0)
    token = _divided(at, at.add("binary", [at.value(x), mean], fn="sub"), var, eps)
    return [_affine(at, token, weight, bias, _channels(at, x)), None, None]


@lowers("getitem")
def getitem(at: Lowering, values: Any, index: int) -> Token:
    token = at.token(values)[index]
    if token is None:
        raise Unsupported("an output that only training needs is used")
    return token
