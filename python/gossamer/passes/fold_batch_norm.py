"""Batch norm in eval mode is a scale and a shift of every channel: the layer before it can have them in its weights."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ..program import Program, arguments, is_getitem

aten = torch.ops.aten
gossamer = torch.ops.gossamer

_NORM = aten._native_batch_norm_legit_no_training.default


def fold_batch_norm(program: Program) -> Program:
    """Folds each batch norm into the layer whose only reader it is, in float64; zeros stay zeros."""
    for norm in program.calls(_NORM):
        x = arguments(norm)[0]
        output = next((user for user in norm.users if is_getitem(user, 0)), None)
        affine = scale_and_shift(program, norm)
        if output is None or affine is None or not _folds(program, x, norm):
            continue
        weight, bias = program.weight(x), program.constant(x.args[2])
        scale, shift = affine
        moved = weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
        if bias is not None:
            shift = shift + bias.double() * scale
        w = program.add_constant(x.args[1].target, moved.float(), before=x)
        b = program.add_constant(f"{x.args[1].target.rpartition('.')[0]}.bias".lstrip("."), shift.float(), before=x)
        x.update_arg(1, w)
        x.update_arg(2, b)
        program.replace(output, x)
    return program


def scale_and_shift(program: Program, norm: fx.Node) -> tuple[Tensor, Tensor] | None:
    """What a batch norm multiplies by and adds to each channel, float64; None where that is not constant."""
    _x, weight, bias, mean, var, _momentum, eps = arguments(norm)
    return factor_and_addend(program, weight, bias, mean, var, eps)


def factor_and_addend(program: Program, weight, bias, mean, var, eps: float) -> tuple[Tensor, Tensor] | None:
    """What normalising by those multiplies by and adds to each channel, float64; None where that is not constant."""
    mean, var = program.constant(mean), program.constant(var)
    if mean is None or var is None:
        return None
    scale = (var.double() + eps).rsqrt()
    if weight is not None:
        if program.constant(weight) is None:
            return None
        scale = scale * program.constant(weight).double()
    shift = -mean.double() * scale
    if bias is not None:
        if program.constant(bias) is None:
            return None
        shift = shift + program.constant(bias).double()
    return scale, shift


def _folds(program: Program, x: fx.Node, norm: fx.Node) -> bool:
    if x.target not in (gossamer.conv.default, gossamer.linear.default) or set(x.users) != {norm}:
        return False
    # The channels are axis 1: a linear's outputs are that only for a plain batch of vectors.
    if x.target is gossamer.linear.default and x.meta["val"].dim() != 2:
        return False
    # A weight that several layers share, or that holds integers, is kept as it is; the norm then stays an op.
    shared = sum(user.op == "call_function" for user in _readers(program, x.args[1])) > 1
    return not shared and x.args[1].target not in program.integers


def _readers(program: Program, weight: fx.Node) -> list[fx.Node]:
    """Every call that reads a weight, through whichever node."""
    same = program.constant(weight).untyped_storage().data_ptr()
    nodes = [n for n in program.graph.nodes if n.op == "get_attr" and isinstance(program.constant(n), Tensor)]
    return [user for n in nodes if program.constant(n).untyped_storage().data_ptr() == same for user in n.users]
