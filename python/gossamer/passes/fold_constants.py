"""Computes once what depends on weights alone: pruning masks, parametrizations, dequantized weights, positions."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from ..program import Program, shape_of

# An expanded constant is a view in torch but would be whole in a file; beyond this many elements it stays an op.
_LARGE = 1 << 20

_GROWS = {torch.ops.aten.expand.default, torch.ops.aten.repeat.default}


def fold_constants(program: Program) -> Program:
    """Replaces every call whose arguments are all constant by what it returns."""
    values: dict[fx.Node, object] = {}
    sources: dict[fx.Node, list[Tensor]] = {}
    for node in list(program.graph.nodes):
        if node.op == "get_attr":
            constant = program.constant(node)
            if constant is not None:
                values[node] = constant
                sources[node] = [constant] if constant.dtype == torch.int8 else []
        elif node.op == "call_function" and _foldable(node, values):
            args = fx.map_arg(node.args, values.__getitem__)
            kwargs = fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = node.target(*args, **kwargs)
            made = values[node]
            if isinstance(made, Tensor) and made.dtype == torch.int8:
                # Integers that were rearranged are those that the rest is made of.
                sources[node] = [made]
            else:
                sources[node] = [t for n in node.all_input_nodes for t in sources[n]]
    for node, value in values.items():
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        kept = program.add_constant(_name(node), value, before=node)
        kept.meta.update({k: v for k, v in node.meta.items() if k != "val"})
        _remember_integers(program, kept.target, value, sources[node])
        program.replace(node, kept)
    return program


def _foldable(node: fx.Node, values: dict[fx.Node, object]) -> bool:
    target = node.target
    if not all(n in values for n in node.all_input_nodes):
        return False
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        if not all(isinstance(size, int) for size in shape_of(node)):
            return False
        return target not in _GROWS or value.numel() <= _LARGE
    return isinstance(value, (tuple, list))


def _name(node: fx.Node) -> str:
    """A name near the weight that a constant was made of: `features.0.weight` for a masked `features.0.weight_orig`."""
    while node.op != "get_attr" and node.all_input_nodes:
        node = max(node.all_input_nodes, key=lambda n: n.op == "get_attr")
    return node.target if node.op == "get_attr" else f"constants.{node.name}"


def _remember_integers(program: Program, name: str, value: Tensor, sources: list[Tensor]) -> None:
    """Notes the int8 tensor that a float constant was scaled from; the file can hold those bytes instead."""
    alike = [q for q in sources if q.numel() == value.numel()]
    if value.dtype.is_floating_point and len(alike) == 1 and value.dim() > 1:
        program.integers[name] = alike[0].reshape(value.shape)
