"""Gives one name to the ways of quantizing: `gossamer::quantize` and `gossamer::dequantize`, on uint8.

PT2E writes `quantized_decomposed` operators around float ones, on uint8 or int8. An int8 is the uint8 that is 128 more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..program import Program, arguments

aten = torch.ops.aten
gossamer = torch.ops.gossamer

# What is added to a number of that type to make it a uint8.
_SHIFT = {torch.uint8: 0, torch.int8: 128}


def name_steps(program: Program) -> Program:
    """Rewrites quantizing and dequantizing of whole tensors by constant scales."""
    for node in list(program.graph.nodes):
        # By name: the ops exist only where something was quantized.
        namespace, _, name = str(node.target).partition(".")
        rewrite = _REWRITES.get(name.partition(".")[0]) if namespace == "quantized_decomposed" else None
        if rewrite is not None:
            rewrite(program, node)
    return program


def _number(program: Program, value: Any) -> float | None:
    """A scale or a zero point as a number; None where it is computed."""
    if not isinstance(value, fx.Node):
        return value
    known = program.constant(value)
    return known.item() if known is not None and known.numel() == 1 else None


def _grid(program: Program, node: fx.Node) -> tuple[fx.Node, float, int, int, int, int] | None:
    """What a call quantizes or dequantizes, its scale, zero point and limits in uint8, and by how much that shifts."""
    x, *numbers, dtype = arguments(node)[:6]
    scale, zero_point, lo, hi = (_number(program, n) for n in numbers)
    if dtype not in _SHIFT or scale is None or zero_point is None or lo is None or hi is None:
        return None
    shift = _SHIFT[dtype]
    return x, scale, int(zero_point) + shift, int(lo) + shift, int(hi) + shift, shift


def _quantize(program: Program, node: fx.Node) -> None:
    found = _grid(program, node)
    if found is None or found[0].meta["val"].dtype != torch.float32:
        return
    *args, shift = found
    program.quantized = True
    made = program.call(gossamer.quantize.default, tuple(args), like=node)
    made.meta["val"] = node.meta["val"].to(torch.uint8)
    program.replace(node, _cast(program, made, -shift, torch.int8, node) if shift else made)


def _dequantize(program: Program, node: fx.Node) -> None:
    found = _grid(program, node)
    if found is None or node.meta["val"].dtype != torch.float32:
        return
    x, scale, zero_point, _, _, shift = found
    if shift:
        x = _as_uint8(program, x, node)
    program.replace(node, program.call(gossamer.dequantize.default, (x, scale, zero_point), like=node))


def _as_uint8(program: Program, x: fx.Node, before: fx.Node) -> fx.Node:
    """An int8 as the uint8 it was shifted from, or else shifted."""
    if (
        x.target is aten._to_copy.default
        and x.args[0].target is aten.sub.Tensor
        and x.args[0].args[1] == _SHIFT[torch.int8]
    ):
        return x.args[0].args[0].args[0]
    return _cast(program, x, _SHIFT[torch.int8], torch.uint8, before)


def _cast(program: Program, x: fx.Node, by: int, dtype: torch.dtype, before: fx.Node) -> fx.Node:
    """`x + by` as another type of eight bits; int32 in between has room for both."""
    wide = _to(program, x, torch.int32, before)
    op = aten.add.Tensor if by > 0 else aten.sub.Tensor
    return _to(program, program.call(op, (wide, abs(by)), like=wide, before=before), dtype, before)


def _to(program: Program, x: fx.Node, dtype: torch.dtype, before: fx.Node) -> fx.Node:
    made = program.call(aten._to_copy.default, (x,), like=x, before=before)
    made.kwargs = {"dtype": dtype}
    made.meta["val"] = x.meta["val"].to(dtype)
    return made


_REWRITES: dict[str, Callable[[Program, fx.Node], None]] = {
    "quantize_per_tensor": _quantize,
    "dequantize_per_tensor": _dequantize,
}
