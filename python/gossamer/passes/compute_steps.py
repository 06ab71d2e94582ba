"""Computes with bytes what a quantized program computes with floats between dequantizing and quantizing."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .. import ops_i8, steps
from ..program import Program, arguments, module_path, shape_of
from ..steps import CLAMPS, LAYERS, MEANS, RESIZES, Call, Grid
from .fuse import activation_of
from .move_steps import grid_of

aten = torch.ops.aten
gossamer = torch.ops.gossamer

_QUANTIZE, _DEQUANTIZE = gossamer.quantize.default, gossamer.dequantize.default


def compute_steps(program: Program) -> Program:
    """Replaces layers that read bytes, and what is quantized after reading bytes, by integer operators.

    What has no integer form stays as it is, in float32. So does everything where it was not a tool of torch that
    quantized: modules of `compress` compute in float32 what is to be so computed.
    """
    if not program.quantized:
        return program
    for node in program.calls(*LAYERS):
        _layer(program, node)
    for node in program.calls(_QUANTIZE):
        call = _computed(program, node)
        if call is not None:
            if isinstance(call, fx.Node):
                program.replace(node, call)
            else:
                target, args = call
                program.replace(node, program.call(target, args, like=node))
            program.rounded = True
    return program


def _is_steps(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is _DEQUANTIZE


def _layer(program: Program, node: fx.Node) -> None:
    """A layer whose input is dequantized and whose weight is integers, as sums of integers.

    Its output is bytes where all that reads it quantizes it; else it is float32.
    """
    x, weight, bias, residual, *geometry, activation, params = node.args
    found = program.int8(weight) if _is_steps(x) else None
    if found is None or not ops_i8.fits_int32(found[0]) or (bias is not None and program.constant(bias) is None):
        return
    integers, weight_scale = found
    grid, user = grid_of(x), next(iter(node.users), None)
    clamp = (CLAMPS[activation] or tuple(params)) if activation in CLAMPS else None
    added = residual if residual is None or _is_steps(residual) else None
    fused = added is residual and clamp is not None
    stored = fused and len(node.users) == 1 and user.target is _QUANTIZE
    unit, output = 1.0, None
    if stored:
        _, unit, zero_point, lo, hi = arguments(user)
        low, high = Grid(unit, zero_point).steps(torch.tensor(clamp, dtype=torch.float32)).tolist()
        output = [zero_point, min(max(low, lo), hi), max(min(high, hi), lo)]
    scale, addend = steps.in_units(weight_scale.double() * grid.scale, program.constant(bias), unit)
    owner = module_path(node) or str(weight.target).rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    constants = (
        program.add_constant(f"{prefix}weight", integers, before=node),
        program.add_constant(f"{prefix}scale", scale, before=node),
        program.add_constant(f"{prefix}bias", addend, before=node),
    )
    if added is None:
        term: tuple[Any, ...] = (None, 1.0, 0)
    else:
        other = grid_of(added)
        term = (added.args[0], steps.single(other.scale / unit), other.zero_point)
    target = gossamer.conv_i8.default if geometry else gossamer.linear_i8.default
    args = (x.args[0], *constants, term[0], *geometry, grid.zero_point, *term[1:], output)
    made = program.call(target, args, like=user if stored else node)
    if not stored:
        if residual is not None and added is None:
            made = program.call(aten.add.Tensor, (made, residual), like=node)
        if activation:
            made = _activated(program, made, activation, params, node)
    program.replace(user if stored else node, made)
    if stored:
        program.graph.erase_node(node)
    program.rounded = True


def _activated(program: Program, y: fx.Node, activation: str, params: list[float], like: fx.Node) -> fx.Node:
    target, args, kwargs = steps.activated(y, activation, params)
    made = program.call(target, args, like=like)
    made.kwargs = kwargs
    return made


def _computed(program: Program, node: fx.Node) -> fx.Node | Call | None:
    """What computes the bytes of a quantized value from other bytes, if anything does."""
    x, scale, zero_point, lo, hi = arguments(node)
    grid, output = Grid(scale, zero_point), [zero_point, lo, hi]
    if x.target in (aten.add.Tensor, aten.mul.Tensor) and all(map(_is_steps, x.args)) and not x.kwargs:
        a, b = x.args
        pair = (a.args[0], grid_of(a), b.args[0], grid_of(b), scale, output)
        if x.target is aten.mul.Tensor:
            return steps.multiplied(*pair)
        return steps.added(*pair) if shape_of(a) == shape_of(b) else None
    whole = (lo, hi) == (0, 255)
    source = x.args[0] if x.op == "call_function" and x.args else None
    if _is_steps(source) and whole:
        if x.target in MEANS and steps.takes_steps(x):
            return steps.averaged(x, source.args[0], grid_of(source), grid)
        if x.target in RESIZES and steps.takes_steps(x) and grid_of(source) == grid:
            return steps.resized(x, source.args[0])
    return _table(program, node)


def _table(program: Program, node: fx.Node) -> fx.Node | Call | None:
    """Functions of one number after another, from bytes to bytes, as the 256 values they can have."""
    chain: list[fx.Node] = []
    x = node.args[0]
    while not _is_steps(x):
        if x.op != "call_function" or not _pointwise(program, x):
            return None
        chain.insert(0, x)
        x = x.args[0]
    values = grid_of(x).reals()
    for step in chain:
        rest = [program.constant(a).reshape(()) if isinstance(a, fx.Node) else a for a in step.args[1:]]
        values = step.target(values, *rest, **step.kwargs)
    table = ops_i8.quantize(values, *arguments(node)[1:])
    every = torch.arange(256, dtype=torch.uint8)
    clamps = torch.equal(table, every.clamp(int(table[0]), int(table[-1])))
    if torch.equal(table, every) or (clamps and _narrowed(x, chain, int(table[0]), int(table[-1]))):
        return x.args[0]
    kept = program.add_constant("table", table, before=node)
    return gossamer.lookup_i8.default, (x.args[0], kept)


def _narrowed(x: fx.Node, chain: list[fx.Node], lo: int, hi: int) -> bool:
    """Lets the layer whose bytes a clamp alone reads store them clamped."""
    layer = x.args[0]
    alone = all(len(n.users) == 1 for n in (layer, x, *chain))
    if (
        not alone
        or layer.target not in (gossamer.conv_i8.default, gossamer.linear_i8.default)
        or layer.args[-1] is None
    ):
        return False
    zero_point, least, most = layer.args[-1]
    limits = [min(max(limit, least), most) for limit in (lo, hi)]
    layer.update_arg(len(layer.args) - 1, [zero_point, *limits])
    return True


def _pointwise(program: Program, node: fx.Node) -> bool:
    """Whether a call is a function of each number of its first argument by itself."""
    if activation_of(node) is not None:
        return True
    if node.target not in _SCALAR:
        return False
    others = [a for a in node.args[1:] if isinstance(a, fx.Node)]
    constants = [program.constant(a) for a in others]
    single = all(c is not None and c.numel() == 1 and c.dim() <= node.meta["val"].dim() for c in constants)
    return single and isinstance(node.args[0], fx.Node) and node.meta["val"].dtype == torch.float32


_SCALAR = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.abs.default,
    aten.exp.default,
}
