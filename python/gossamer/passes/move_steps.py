"""Quantizes as early and dequantizes as late as gives the same numbers, so that bytes are moved and not floats.

Rounding to steps is monotone: it may be done before what moves numbers, takes the largest of some, or clamps them.
"""

from __future__ import annotations

import torch
from torch import fx

from .. import steps
from ..program import Program, arguments
from ..steps import CLAMPS, MAX_POOLS, MOVES, PADS, RESIZES, Call, Grid
from .fuse import activation_of

aten = torch.ops.aten
gossamer = torch.ops.gossamer

_QUANTIZE, _DEQUANTIZE = gossamer.quantize.default, gossamer.dequantize.default


def move_steps(program: Program) -> Program:
    """Moves each quantizing before, and each dequantizing behind, what passes bytes on, if torch quantized."""
    if not program.quantized:
        return program
    for node in program.calls(_QUANTIZE):
        _earlier(program, node)
    for node in program.calls(_DEQUANTIZE):
        _later(program, node)
    return program


def grid_of(node: fx.Node) -> Grid:
    """The grid to which, or from which, a call quantizes or dequantizes."""
    return Grid(*node.args[1:3])


def _earlier(program: Program, node: fx.Node) -> None:
    """Quantizes, if it may be, what a node is computed from."""
    while node is not None:
        node = _merged(program, node)
        x, scale, zero_point, lo, hi = arguments(node)
        if set(x.users) != {node} or x.op != "call_function":
            return
        grid, clamp = Grid(scale, zero_point), activation_of(x)
        if clamp is not None and clamp[0] in CLAMPS:
            bounds = torch.tensor(CLAMPS[clamp[0]] or clamp[1], dtype=torch.float32)
            low, high = grid.steps(bounds).tolist()
            limits = (min(max(low, lo), hi), max(min(high, hi), lo))
            made = program.call(_QUANTIZE, (x.args[0], scale, zero_point, *limits), like=node)
            program.replace(node, made)
            node = made
        elif x.target is aten.cat.default:
            tensors, axis = arguments(x)
            parts = [_quantized(program, t, node, x) for t in tensors]
            program.replace(node, _bytes(program, (aten.cat.default, (parts, axis)), node))
            for part in set(parts):
                _earlier(program, part)
            return
        elif _moves(x) and not (x.target in PADS and (lo, hi) != (0, 255)):
            part = _quantized(program, x.args[0], node, x)
            call = _moved(x, part, grid)
            # A constant lies where its own step is.
            program.replace(node, _bytes(program, call, node))
            node = part
        else:
            return


def _quantized(program: Program, x: fx.Node, node: fx.Node, before: fx.Node) -> fx.Node:
    """`x` quantized as `node` is."""
    made = program.call(_QUANTIZE, (x, *arguments(node)[1:]), like=x, before=before)
    made.meta["val"] = x.meta["val"].to(torch.uint8)
    return made


def _bytes(program: Program, call: Call, node: fx.Node) -> fx.Node:
    return program.call(*call, like=node)


def _merged(program: Program, node: fx.Node) -> fx.Node:
    """A call, or the first that is the same."""
    for other in list(node.args[0].users):
        if other is not node and other.target is node.target and arguments(other) == arguments(node):
            first, second = (other, node) if other < node else (node, other)
            program.replace(second, first)
            return first
    return node


def _moves(x: fx.Node) -> bool:
    """Whether each number that a call makes is one that it reads, or a constant."""
    copies = x.target in RESIZES and RESIZES[x.target] != "linear"
    return x.target in MOVES or ((x.target in MAX_POOLS or x.target in PADS or copies) and steps.takes_steps(x))


def _moved(node: fx.Node, x: fx.Node, grid: Grid) -> Call:
    """A call of `_moves` on bytes."""
    if node.target in MAX_POOLS:
        return steps.max_pooled(node, x)
    if node.target in PADS:
        return steps.padded(node, x, grid)
    if node.target in RESIZES:
        return steps.resized(node, x)
    return node.target, (x, *node.args[1:])


def _later(program: Program, node: fx.Node) -> None:
    """Dequantizes what is computed from a node instead, where that alone moves bytes."""
    node = _merged(program, node)
    x, grid = node.args[0], grid_of(node)
    for user in list(node.users):
        if _moves(user) and user.args[0] is node and steps.keeps_grid(user):
            call = _moved(user, x, grid)
        elif user.target is aten.cat.default and all(_alike(t, node) for t in user.args[0]):
            call = (aten.cat.default, ([t.args[0] for t in user.args[0]], *user.args[1:]))
        else:
            continue
        moved = program.call(*call, like=user)
        moved.meta["val"] = user.meta["val"].to(torch.uint8)
        made = program.call(_DEQUANTIZE, (moved, *node.args[1:]), like=user)
        program.replace(user, made)
        _later(program, made)


def _alike(x: fx.Node, node: fx.Node) -> bool:
    """Whether two values are dequantized from the same grid."""
    return x.target is _DEQUANTIZE and grid_of(x) == grid_of(node)
