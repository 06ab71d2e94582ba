"""Drops what returns its input: clones, detaches, dropout in eval mode, casts to the type there is, assertions."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from ..program import Program, arguments, shape_of

aten = torch.ops.aten

# Copies and markers: the first argument passes through.
SAME = {
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
}

# The first argument passes through where the output has its shape and type.
_SAME_IF_ALIKE = {
    aten._to_copy.default,
    aten.expand.default,
    aten.reshape.default,
    aten.squeeze.dims,
    aten.squeeze.dim,
    aten.slice.Tensor,
    aten.constant_pad_nd.default,
    aten.repeat.default,
    aten.type_as.default,
}

_ASSERTIONS = {
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}


def drop_identities(program: Program) -> Program:
    """Replaces every identity by its input."""
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in (aten.view.default, aten._unsafe_view.default):
            # Without the copy that may be dropped before it, a view would have to be one of scattered memory.
            node.target = aten.reshape.default
        if node.target in _ASSERTIONS:
            program.graph.erase_node(node)
        elif (source := _source(node)) is not None:
            program.replace(node, source)
    return program


def _source(node: fx.Node) -> fx.Node | None:
    """The node that this one equals, if it is an identity."""
    target, args = node.target, arguments(node)
    if target in (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default) and args[2]:
        return None
    if target in SAME:
        return args[0]
    if target in _SAME_IF_ALIKE and same_shape(node, args[0]):
        return args[0]
    if target is aten.reshape.default and args[0].target is target and same_shape(node, args[0].args[0]):
        return args[0].args[0]
    if target is aten.permute.default and list(args[1]) == list(range(len(args[1]))):
        return args[0]
    if target is aten.cat.default and len(args[0]) == 1:
        return args[0][0]
    if target is aten.slice_scatter.default and same_shape(args[0], args[1]):
        return args[1]
    if target is aten.copy.default and same_shape(node, args[1]):
        return args[1]
    if target is operator.getitem and node.args[0].target is aten.native_dropout.default and node.args[1] == 0:
        return node.args[0].args[0] if not node.args[0].args[2] else None
    return None


def same_shape(a: fx.Node, b: object) -> bool:
    """Whether two values have the same shape, for every size that dynamic dimensions can take, and the same type."""
    if not isinstance(b, fx.Node):
        return False
    x, y = a.meta["val"], b.meta["val"]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.dtype != y.dtype or x.dim() != y.dim():
        return False
    # Compared as expressions: to ask the symbolic sizes themselves would add a guard.
    return shape_of(a) == shape_of(b)
