"""Gives one name to layers whose input is quantized by the range that it has: `gossamer::dynamic_linear_i8`.

torch takes the range of the whole tensor, `dynamic_linear_i8` that of each row. So each row gets two more numbers, the
ends of the whole range, and the weight a zero for each: every row is then quantized alike, and the sums are as before.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .. import ops_i8
from ..program import Program, arguments

aten = torch.ops.aten
gossamer = torch.ops.gossamer

# What a byte has.
_LEVELS = 255


class _Dynamic(NamedTuple):
    """A tensor quantized by its own range, and dequantized: by how many levels, and the least scale."""

    x: fx.Node
    levels: int
    least: float


def name_dynamic(program: Program) -> Program:
    """Rewrites linear layers of integers that read such a tensor; what else reads one computes it in float32."""
    for node in list(program.graph.nodes):
        found = _found(node)
        if found is None:
            continue
        for user in list(node.users):
            weight = program.int8(user.args[1]) if user.target is gossamer.linear.default else None
            if weight is None or user.args[0] is not node or any(user.args[3:]):
                continue
            if ops_i8.fits_int32(weight[0]):
                program.replace(user, _linear(program, user, found, *weight))
        if node.users:
            program.replace(node, _in_floats(program, node, found))
    return program


def _found(node: fx.Node) -> _Dynamic | None:
    """What a call dequantizes, where the scale was chosen by the range."""
    if str(node.target) != "quantized_decomposed.dequantize_per_tensor.tensor":
        return None
    q, scale, zero_point = node.args[:3]
    if str(q.target) != "quantized_decomposed.quantize_per_tensor.tensor" or q.args[1:3] != (scale, zero_point):
        return None
    chosen = scale.args[0] if scale.target is operator.getitem else None
    if (
        chosen is None
        or zero_point.args != (chosen, 1)
        or str(chosen.target) != "quantized_decomposed.choose_qparams.tensor"
    ):
        return None
    x, lo, hi, least, _ = arguments(chosen)
    return _Dynamic(x, hi - lo, least) if q.args[0] is x and hi - lo <= _LEVELS else None


class _Writer:
    """Writes calls before a node."""

    def __init__(self, program: Program, before: fx.Node) -> None:
        self.program, self.before = program, before

    def call(self, target: Any, *args: Any) -> fx.Node:
        """A call, with what it makes of what is known of its arguments."""
        made = self.program.call(target, args, like=self.before)
        made.meta["val"] = target(*fx.map_arg(args, lambda n: n.meta["val"]))
        return made

    def range(self, found: _Dynamic) -> tuple[fx.Node, fx.Node]:
        """The least number of a tensor, zero among them, and what a step is worth; of one element."""
        axes = list(range(found.x.meta["val"].dim()))
        lo = self.call(aten.clamp_max.default, self.call(aten.amin.default, found.x, axes, True), 0.0)
        hi = self.call(aten.clamp_min.default, self.call(aten.amax.default, found.x, axes, True), 0.0)
        span = self.call(aten.div.Tensor, self.call(aten.sub.Tensor, hi, lo), float(found.levels))
        return lo, self.call(aten.clamp_min.default, span, found.least)


def _linear(program: Program, layer: fx.Node, found: _Dynamic, weight: Tensor, scale: Tensor) -> fx.Node:
    write = _Writer(program, layer)
    lo, step = write.range(found)
    top = write.call(aten.add.Tensor, lo, write.call(aten.mul.Tensor, step, float(_LEVELS)))
    leading = found.x.meta["val"].dim() - 1
    sizes = [write.call(aten.sym_size.int, found.x, i) for i in range(leading)]
    ends = [write.call(aten.expand.default, end, [*sizes, 1]) for end in (lo, top)]
    rows = write.call(aten.cat.default, [found.x, *ends], -1)
    padded = torch.cat([weight, weight.new_zeros(len(weight), 2)], 1)
    constants = (
        program.add_constant(layer.args[1].target, padded, before=layer),
        program.add_constant(f"{layer.args[1].target}_scale", scale, before=layer),
    )
    return program.call(gossamer.dynamic_linear_i8.default, (rows, *constants, layer.args[2]), like=layer)


def _in_floats(program: Program, node: fx.Node, found: _Dynamic) -> fx.Node:
    """The numbers that quantizing leaves, computed in float32."""
    write = _Writer(program, node)
    lo, step = write.range(found)
    shift = write.call(aten.neg.default, write.call(aten.div.Tensor, lo, step))
    shift = write.call(aten.clamp.default, write.call(aten.round.default, shift), 0.0, float(found.levels))
    y = write.call(aten.mul.Tensor, found.x, write.call(aten.reciprocal.default, step))
    y = write.call(aten.add.Tensor, write.call(aten.round.default, y), shift)
    y = write.call(aten.clamp.default, y, 0.0, float(found.levels))
    return write.call(aten.mul.Tensor, write.call(aten.sub.Tensor, y, shift), step)
