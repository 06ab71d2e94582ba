"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch

from ..passes.fold_batch_norm import scale_and_shift
from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers


@lowers("aten.softmax.int", "aten.log_softmax.int")
def softmax(at: Lowering, x, dim, dtype) -> Token:
    return _softmax(at, x, dim)


@lowers("aten._softmax.default", "aten._log_softmax.default")
def softmax_core(at: Lowering, x, dim, half_to_float) -> Token:
    return _softmax(at, x, dim)


def _softmax(at: Lowering, x, dim: int) -> Token:
    dtype = at.node.meta["val"].dtype
    axis = dim % max(len(shape_of(x)), 1)
    return at.add("softmax", [at.value(x, dtype)], axis=axis, log="log" in at.function())


@lowers("aten.layer_norm.default")
def layer_norm(at: Lowering, x, shape, weight, bias, eps, cudnn_enable) -> Token:
    used = [n for n in (weight, bias) if n is not None]
    inputs = [at.value(x), at.optional(weight), at.optional(bias)]
    return at.add("layer_norm", inputs, used, dims=len(shape), eps=eps)


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
        raise Unsupported("an instance norm with running statistics: use BatchNorm2d, which computes the same")
    return _grouped(at, x, shape_of(x)[1], weight, bias, eps)


def _grouped(at: Lowering, x, groups: int, weight, bias, eps: float) -> Token:
    used = [n for n in (weight, bias) if n is not None]
    inputs = [at.value(x), at.optional(weight), at.optional(bias)]
    return at.add("group_norm", inputs, used, groups=groups, eps=eps)


@lowers("aten.rms_norm.default")
def rms_norm(at: Lowering, x, shape, weight, eps) -> Token:
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    used = [] if weight is None else [weight]
    return at.add("layer_norm", [at.value(x), at.optional(weight), None], used, dims=len(shape), eps=eps, rms=True)


@lowers("aten._native_batch_norm_legit_no_training.default")
def batch_norm(at: Lowering, x, weight, bias, mean, var, momentum, eps) -> list[Token | None]:
    affine = scale_and_shift(at.program, at.node)
    if affine is None:
        raise Unsupported("a batch norm whose statistics are computed")
    scale, shift = (
        at.keep(t.float(), f"{mean.target}.{kind}") for t, kind in zip(affine, ("scale", "shift"), strict=True)
    )
    used = [n for n in (weight, bias, mean, var) if n is not None]
    return [at.add("affine", [at.value(x), scale, shift], used), None, None]


@lowers("getitem")
def getitem(at: Lowering, values: Any, index: int) -> Token:
    token = at.token(values)[index]
    if token is None:
        raise Unsupported("an output that only training needs is used")
    return token
