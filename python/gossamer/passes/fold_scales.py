"""Puts a constant that each output of a layer of integers is multiplied by into the layer's weight.

`quantize_` of torchao writes `(x · q) · scale`: scaled, the integers are a weight like any other.
"""

from __future__ import annotations

import torch
from torch import fx

from ..program import Program, shape_of
from .fuse import along, only_user

aten = torch.ops.aten
gossamer = torch.ops.gossamer


def fold_scales(program: Program) -> Program:
    """Folds each factor into the layer that alone it multiplies; integers stay known as such."""
    for layer in program.calls(gossamer.conv.default, gossamer.linear.default):
        _unflatten(program, layer)
        product = only_user(layer)
        if product is None or product.target is not aten.mul.Tensor or any(a is not None for a in layer.args[2:4]):
            continue
        integers, weight = program.integers.get(layer.args[1].target), program.weight(layer)
        factor = next((c for a in product.args if (c := program.constant(a)) is not None), None)
        channel = 1 if layer.target is gossamer.conv.default else layer.meta["val"].dim() - 1
        if integers is None or factor is None or not torch.equal(integers.reshape(weight.shape).float(), weight):
            continue
        if not along(factor, layer.meta["val"].dim(), channel, len(weight)):
            continue
        scaled = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
        kept = program.add_constant(layer.args[1].target, scaled, before=layer)
        program.integers[kept.target] = integers.reshape(weight.shape)
        layer.update_arg(1, kept)
        program.replace(product, layer)
        _unflatten(program, layer)
    return program


def _unflatten(program: Program, layer: fx.Node) -> None:
    """Lets a linear layer read what was flattened to rows before it, where its result is unflattened alike."""
    rows, back = layer.args[0], only_user(layer)
    if layer.target is not gossamer.linear.default or back is None or rows.target is not aten.reshape.default:
        return
    x = rows.args[0]
    if back.target is aten.reshape.default and shape_of(back)[:-1] == shape_of(x)[:-1]:
        ends = [shape_of(n)[-1] for n in (x, rows, back, layer)]
        if ends[0] == ends[1] and ends[2] == ends[3]:
            layer.update_arg(0, x)
            layer.meta["val"] = back.meta["val"]
            program.replace(back, layer)
