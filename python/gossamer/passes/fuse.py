"""Lets a layer finish what follows it: a constant added to its channels, a residual added to it, its activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..ops import RECOGNISED
from ..program import Program, arguments
from .drop_identities import same_shape

aten = torch.ops.aten
gossamer = torch.ops.gossamer

# Where each layer has its bias, residual, activation and the activation's parameters.
_BIAS, _RESIDUAL = 2, 3
_ACTIVATION = {gossamer.conv.default: (8, 9), gossamer.linear.default: (4, 5)}


def activation_of(node: fx.Node) -> tuple[str, tuple[float, ...]] | None:
    """The activation that a call computes of its first argument: its name in the file and its parameters."""
    recognise = RECOGNISED.get(node.target)
    if recognise is None:
        return None
    args = arguments(node)[1:]
    if any(isinstance(a, fx.Node) for a in args):
        return None
    name, params = recognise(*args)
    return (name, tuple(float(p) for p in params)) if name else None


def fuse(program: Program) -> Program:
    """Fuses, in the order of the graph, so that a layer takes the latest value it can wait for."""
    for layer in program.calls(gossamer.conv.default, gossamer.linear.default):
        node = _add_bias(program, layer)
        node = _add_residual(program, node)
        _activate(program, node)
    return program


def only_user(node: fx.Node) -> fx.Node | None:
    """The call that alone reads a node."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_function" else None


def _addend(program: Program, node: fx.Node) -> tuple[fx.Node, Any] | None:
    """The sum that alone reads a node, and what is added to it."""
    total = only_user(node)
    if total is None or total.target is not aten.add.Tensor:
        return None
    a, b, alpha = arguments(total)
    if alpha != 1 or a is b or total.meta["val"].dtype != node.meta["val"].dtype:
        return None
    return total, b if a is node else a


def _add_bias(program: Program, layer: fx.Node) -> fx.Node:
    found = _addend(program, layer)
    if found is None:
        return layer
    total, other = found
    value, m = program.constant(other), program.weight(layer).shape[0]
    if layer.args[_BIAS] is not None or value is None or value.dtype != torch.float32:
        return layer
    channel = 1 if layer.target is gossamer.conv.default else layer.meta["val"].dim() - 1
    if not along(value, layer.meta["val"].dim(), channel, m):
        return layer
    layer.update_arg(_BIAS, program.add_constant(other.target, value.reshape(m), before=layer))
    program.replace(total, layer)
    return layer


def along(value: Tensor, rank: int, axis: int, m: int) -> bool:
    """Whether a constant is one value for each index of an axis, broadcast over the others."""
    shape = [1] * (rank - value.dim()) + list(value.shape)
    return len(shape) == rank and shape == [m if i == axis else 1 for i in range(rank)]


def _add_residual(program: Program, layer: fx.Node) -> fx.Node:
    found = _addend(program, layer)
    if found is None or layer.args[_RESIDUAL] is not None:
        return layer
    total, other = found
    if not isinstance(other, fx.Node) or not same_shape(other, layer) or not same_shape(total, layer):
        return layer
    if program.constant(other) is not None:
        return layer
    args = list(layer.args)
    args[_RESIDUAL] = other
    return _moved(program, layer, args, to=total)


def _activate(program: Program, layer: fx.Node) -> fx.Node:
    following = only_user(layer)
    found = None if following is None else activation_of(following)
    if found is None:
        return layer
    name, params = _ACTIVATION[layer.target]
    args = list(layer.args)
    args[name], args[params] = found[0], list(found[1])
    return _moved(program, layer, args, to=following)


def _moved(program: Program, layer: fx.Node, args: list, to: fx.Node) -> fx.Node:
    """The layer with those arguments, in the place of a later node that it now computes."""
    made = program.call(layer.target, tuple(args), like=layer, before=to)
    program.replace(to, made)
    program.graph.erase_node(layer)
    return made
