"""Recognises activations that a model spells out: `x * sigmoid(x)`, `x * relu6(x + 3) / 6`, `x * tanh(softplus(x))`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..program import Program, arguments

aten = torch.ops.aten


def name_activations(program: Program) -> Program:
    """Replaces each spelled-out activation by the op of that name."""
    for node in program.calls(aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar):
        for match in (_silu, _mish, _hardswish, _hardsigmoid):
            found = match(node)
            if found is not None:
                target, x = found
                program.replace(node, program.call(target, (x,), like=node))
                break
    for node in program.calls(aten.prelu.default):
        made = _leaky_relu(program, node)
        if made is not None:
            program.replace(node, made)
    return program


def _leaky_relu(program: Program, node: fx.Node) -> fx.Node | None:
    """A leaky ReLU whose slope is a parameter, of which there is one for all channels."""
    slope = program.constant(node.args[1])
    if slope is None or slope.numel() != 1:
        return None
    return program.call(aten.leaky_relu.default, (node.args[0], float(slope)), like=node)


def _factors(node: fx.Node) -> list[tuple[Any, Any]]:
    a, b = node.args[:2]
    return [(a, b), (b, a)]


def _silu(node: fx.Node) -> tuple[object, fx.Node] | None:
    if node.target is aten.mul.Tensor:
        for x, gate in _factors(node):
            if _calls(gate, aten.sigmoid.default) and gate.args[0] is x:
                return aten.silu.default, x
    return None


def _mish(node: fx.Node) -> tuple[object, fx.Node] | None:
    if node.target is aten.mul.Tensor:
        for x, gate in _factors(node):
            if _calls(gate, aten.tanh.default) and _calls(gate.args[0], aten.softplus.default):
                inner = arguments(gate.args[0])
                if inner[0] is x and inner[1:] == [1, 20]:
                    return aten.mish.default, x
    return None


def _hardsigmoid(node: fx.Node) -> tuple[object, fx.Node] | None:
    x = _over_six(node)
    x = None if x is None else _clamped_plus_three(x)
    return None if x is None else (aten.hardsigmoid.default, x)


def _hardswish(node: fx.Node) -> tuple[object, fx.Node] | None:
    product = _over_six(node)
    if product is not None and _calls(product, aten.mul.Tensor) and len(product.users) == 1:
        for x, gate in _factors(product):
            if isinstance(gate, fx.Node) and _clamped_plus_three(gate) is x:
                return aten.hardswish.default, x
    if node.target is aten.mul.Tensor:
        for x, gate in _factors(node):
            if _calls(gate, aten.hardsigmoid.default) and gate.args[0] is x:
                return aten.hardswish.default, x
    return None


def _over_six(node: fx.Node) -> fx.Node | None:
    """The node that this one divides by six."""
    if node.target in (aten.div.Tensor, aten.div.Scalar) and node.args[1] == 6:
        return node.args[0]
    if node.target in (aten.mul.Tensor, aten.mul.Scalar) and isinstance(node.args[1], float):
        return node.args[0] if abs(node.args[1] - 1 / 6) < 1e-9 else None
    return None


def _clamped_plus_three(node: fx.Node) -> fx.Node | None:
    """`x`, where the node is `relu6(x + 3)`."""
    six = _calls(node, aten.relu6.default)
    six = six or (_calls(node, aten.hardtanh.default, aten.clamp.default) and arguments(node)[1:] == [0, 6])
    if six and _calls(node.args[0], aten.add.Tensor) and node.args[0].args[1] == 3 and not node.args[0].kwargs:
        return node.args[0].args[0]
    return None


def _calls(node: Any, *targets: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets
