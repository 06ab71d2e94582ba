"""Recognises products of int8 matrices that a model spells out, as the dynamic layers of torchao are exported.

`_int_mm(q, w.T)` with `q = round(x / s)` as int8 is `gossamer::linear_i8` of the uint8 that is 128 more. What scales it
before and after stays as it is, so that the integers are torch's.
"""

from __future__ import annotations

import torch
from torch import fx

from .. import ops_i8
from ..program import Program, arguments
from .fuse import along, only_user

aten = torch.ops.aten
gossamer = torch.ops.gossamer

_SHIFT = 128
_KEEP = {aten.reshape.default, aten.view.default, aten.expand.default, aten.unsqueeze.default, aten.squeeze.dims}


def name_products(program: Program) -> Program:
    """Rewrites each product of int8 with a constant matrix whose sums are taken as float32."""
    for node in program.calls(aten._int_mm.default):
        a, b = node.args
        weight = program.constant(b)
        x = _shifted(program, a, node)
        if weight is None or weight.dtype != torch.int8 or x is None or not ops_i8.fits_int32(weight.t()):
            continue
        sums = node if a.meta["val"].dtype == torch.int8 else _compensated(program, node, weight)
        real = None if sums is None else only_user(sums)
        if real is None or real.target is not aten._to_copy.default or real.meta["val"].dtype != torch.float32:
            continue
        _write(program, x, b, weight, real)
    return program


def _write(program: Program, x: fx.Node, b: fx.Node, weight: torch.Tensor, real: fx.Node) -> None:
    """The layer, with the scale of each output where torch multiplies by it after the scale of each row."""
    outputs = weight.shape[1]
    scale = torch.ones(outputs)
    first = only_user(real)
    second = None if first is None else only_user(first)
    if first is not None and second is not None and first.target is second.target is aten.mul.Tensor:
        factor = next((c for n in second.args if (c := program.constant(n)) is not None), None)
        if factor is not None and along(factor, 2, 1, outputs):
            scale = factor.reshape(outputs)
            program.replace(second, first)
    constants = (
        program.add_constant(b.target, weight.t(), before=real),
        program.add_constant(f"{b.target}_scale", scale, before=real),
        program.add_constant(f"{b.target}_bias", torch.zeros(outputs), before=real),
    )
    args = (x, *constants, None, _SHIFT, 1.0, 0, None)
    program.replace(real, program.call(gossamer.linear_i8.default, args, like=real))


def _shifted(program: Program, a: fx.Node, node: fx.Node) -> fx.Node | None:
    """The bytes, 128 more, of rounded numbers as int8; where torch has shifted them already, also that."""
    if a.meta["val"].dtype == torch.uint8:
        wide = a.args[0] if a.target is aten._to_copy.default else None
        if wide is None or wide.target is not aten.add.Tensor or wide.args[1] != _SHIFT:
            return None
        narrow = wide.args[0]
        return _shifted(program, narrow.args[0], node) if narrow.target is aten._to_copy.default else None
    moves = []
    while a.target in _KEEP:
        moves.append(a)
        a = a.args[0]
    if a.target is not aten._to_copy.default or a.meta["val"].dtype != torch.int8:
        return None
    clamp = a.args[0]
    while clamp.target in _KEEP:
        moves.append(clamp)
        clamp = clamp.args[0]
    if clamp.target is not aten.clamp.default or arguments(clamp)[1:] != [-_SHIFT, _SHIFT - 1]:
        return None
    rounded = clamp.args[0]
    if rounded.target is aten.add.Tensor and _is_zero(rounded.args[1]):
        rounded = rounded.args[0]
    if rounded.target is not aten.round.default:
        return None
    args = (rounded.args[0], 1.0, _SHIFT, 0, 255)
    made = program.call(gossamer.quantize.default, args, like=clamp, before=node)
    made.meta["val"] = clamp.meta["val"].to(torch.uint8)
    for move in reversed(moves):
        like = move.meta["val"]
        made = program.call(move.target, (made, *move.args[1:]), like=move, before=node)
        made.meta["val"] = like.to(torch.uint8)
    return made


def _is_zero(node: object) -> bool:
    """Whether a value is zero everywhere: a zero point that a symmetric quantizer has nevertheless."""
    while isinstance(node, fx.Node) and (node.target in _KEEP or node.target is aten._to_copy.default):
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target is aten.full_like.default and node.args[1] == 0


def _compensated(program: Program, node: fx.Node, weight: torch.Tensor) -> fx.Node | None:
    """The difference that takes the shift out of sums of shifted numbers."""
    difference = only_user(node)
    if difference is None or difference.target is not aten.sub.Tensor or difference.args[0] is not node:
        return None
    shift = program.constant(difference.args[1])
    wanted = weight.sum(0, dtype=torch.int64) * _SHIFT
    return difference if shift is not None and torch.equal(shift.reshape(-1).long(), wanted) else None
