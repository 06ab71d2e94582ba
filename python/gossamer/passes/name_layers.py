"""Gives one name to the many ways of writing a layer: `gossamer::conv` and `gossamer::linear`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..program import Program, arguments

aten = torch.ops.aten
gossamer = torch.ops.gossamer


def name_layers(program: Program) -> Program:
    """Rewrites convolutions, and matrix products with a constant, as the two layers."""
    for node in list(program.graph.nodes):
        # By name: the ops of quantized modules exist only where those were made.
        made = REWRITES[str(node.target)](program, node) if str(node.target) in REWRITES else None
        if made is not None:
            program.replace(node, made)
    return program


def _is_float(node: fx.Node) -> bool:
    return node.meta["val"].dtype == torch.float32


def _conv(program: Program, node: fx.Node) -> fx.Node | None:
    x, weight, bias, stride, padding, dilation, groups = arguments(node)
    pads = window_padding(padding, weight.meta["val"].shape[2:], dilation)
    return _make_conv(program, node, x, weight, bias, stride, pads, dilation, groups)


def window_padding(padding: int | list[int] | str, kernel: Sequence[int], dilation: int | list[int]) -> list[int]:
    """What torch's `padding` of a convolution puts around a plane: low and high for each dimension, flat."""
    if padding == "same":
        # torch puts the odd one at the end.
        total = [d * (k - 1) for d, k in zip(_spread(dilation, kernel), kernel, strict=True)]
        return [p for t in total for p in (t // 2, t - t // 2)]
    return [p for p in _spread(0 if isinstance(padding, str) else padding, kernel) for _ in range(2)]


def _convolution(program: Program, node: fx.Node) -> fx.Node | None:
    x, weight, bias, stride, padding, dilation, transposed, _output_padding, groups = arguments(node)
    if transposed:
        return None
    pads = window_padding(padding, weight.meta["val"].shape[2:], dilation)
    return _make_conv(program, node, x, weight, bias, stride, pads, dilation, groups)


def _make_conv(program, node, x, weight, bias, stride, pads, dilation, groups) -> fx.Node | None:
    rank = weight.meta["val"].dim()
    if rank not in (3, 4) or not _is_float(node) or program.constant(weight) is None:
        return None
    if bias is not None and program.constant(bias) is None:
        return None
    kernel = weight.meta["val"].shape[2:]
    geometry: tuple[Any, ...] = (_spread(stride, kernel), pads, _spread(dilation, kernel), groups, "", [])
    if x.meta["val"].dim() == rank:
        return program.call(gossamer.conv.default, (x, weight, bias, None, *geometry), like=node)
    # torch takes one image without a batch; the layer does not.
    batched = program.call(aten.unsqueeze.default, (x, 0), like=node)
    batched.meta["val"] = x.meta["val"].unsqueeze(0)
    y = program.call(gossamer.conv.default, (batched, weight, bias, None, *geometry), like=node)
    y.meta["val"] = node.meta["val"].unsqueeze(0)
    return program.call(aten.squeeze.dims, (y, [0]), like=node)


def _spread(value: int | list[int], kernel: Sequence[int]) -> list[int]:
    """One value a spatial dimension: torch lets one stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * len(kernel) if len(values) == 1 else values


def _linear(program: Program, node: fx.Node) -> fx.Node | None:
    x, weight, bias = arguments(node)
    return _make_linear(program, node, x, weight, bias)


def _linear_w8(program: Program, node: fx.Node) -> fx.Node | None:
    x, weight, scale, bias = arguments(node)
    return _make_linear(program, node, x, _scaled(program, node, weight, scale), bias)


def _conv_w8(program: Program, node: fx.Node) -> fx.Node | None:
    x, weight, scale, bias, stride, padding, dilation, groups = arguments(node)
    weight = _scaled(program, node, weight, scale)
    return _make_conv(program, node, x, weight, bias, stride, padding, dilation, groups)


def _scaled(program: Program, node: fx.Node, weight: fx.Node, scale: fx.Node) -> fx.Node:
    """The weight that integers and their scales stand for; the file holds the integers."""
    q, factor = program.constant(weight), program.constant(scale)
    assert q is not None and factor is not None, f"{node.name} has a weight that is computed"
    scaled = q.float() * factor.reshape(-1, *[1] * (q.dim() - 1))
    made = program.add_constant(weight.target, scaled, before=node)
    made.meta.update({k: v for k, v in weight.meta.items() if k != "val"})
    program.integers[made.target] = q
    return made


def _addmm(program: Program, node: fx.Node) -> fx.Node | None:
    bias, x, weight, beta, alpha = arguments(node)
    if (beta, alpha) != (1, 1):
        return None
    return _make_transposed(program, node, x, weight, bias)


def _matmul(program: Program, node: fx.Node) -> fx.Node | None:
    x, weight = arguments(node)
    if program.constant(x) is not None and weight.meta["val"].dim() == 2:
        return _from_left(program, node, x, weight)
    if program.constant(x) is not None and weight.meta["val"].dim() == 1:
        return _make_linear(program, node, weight, x, None)
    return _make_transposed(program, node, x, weight, None)


def _from_left(program: Program, node: fx.Node, weight: fx.Node, x: fx.Node) -> fx.Node | None:
    """`W @ x` as the transpose of the layer `x.T @ W.T`, which is how a sparse matrix is multiplied in torch."""
    turned = _turned(program, node, x)
    y = _make_linear(program, node, turned, weight, None)
    if y is None:
        return None
    y.meta["val"] = node.meta["val"].t()
    for user in list(node.users):
        if _turns(user):
            program.replace(user, y)
    return program.call(aten.permute.default, (y, [1, 0]), like=node)


def _turns(node: fx.Node) -> bool:
    """Whether a node transposes a matrix."""
    swaps = node.target is aten.transpose.int and {a % 2 for a in node.args[1:]} == {0, 1}
    return node.target is aten.t.default or swaps or (node.target is aten.permute.default and [*node.args[1]] == [1, 0])


def _turned(program: Program, before: fx.Node, x: fx.Node) -> fx.Node:
    """The transpose of a matrix."""
    if x.op == "call_function" and x.meta["val"].dim() == 2 and _turns(x):
        return x.args[0]
    made = program.call(aten.permute.default, (x, [1, 0]), like=x, before=before)
    made.meta["val"] = x.meta["val"].t()
    return made


def _make_transposed(program: Program, node: fx.Node, x, weight, bias) -> fx.Node | None:
    value = program.constant(weight)
    if value is None or value.dim() != 2 or not _is_float(node):
        return None
    # A view: where the constant was itself a transposed weight, this is that weight again, and is stored once.
    turned = program.add_constant(weight.target, value.t(), before=node)
    turned.meta.update({k: v for k, v in weight.meta.items() if k != "val"})
    if weight.target in program.integers:
        program.integers[turned.target] = program.integers[weight.target].t()
    return _make_linear(program, node, x, turned, bias)


def _make_linear(program: Program, node: fx.Node, x, weight, bias) -> fx.Node | None:
    value = program.constant(weight)
    if value is None or value.dim() != 2 or not _is_float(node):
        return None
    # A layer's bias is a vector of its outputs; anything else is added apart.
    added = bias is not None and not _is_bias(program.constant(bias), value.shape[0])
    rows: tuple[Any, ...] = (x, weight, None if added else bias, None, "", [])
    if x.meta["val"].dim() > 1:
        y = program.call(gossamer.linear.default, rows, like=node)
    else:
        # A vector is one row.
        row = program.call(aten.unsqueeze.default, (x, 0), like=node)
        row.meta["val"] = x.meta["val"].unsqueeze(0)
        made = program.call(gossamer.linear.default, (row, *rows[1:]), like=node)
        made.meta["val"] = node.meta["val"].unsqueeze(0)
        y = program.call(aten.squeeze.dims, (made, [0]), like=node)
    return program.call(aten.add.Tensor, (y, bias), like=node) if added else y


def _is_bias(value: Tensor | None, m: int) -> bool:
    return value is not None and tuple(value.shape) == (m,)


REWRITES: dict[str, Callable[[Program, fx.Node], fx.Node | None]] = {
    "aten.conv1d.default": _conv,
    "aten.conv2d.default": _conv,
    "aten.conv1d.padding": _conv,
    "aten.conv2d.padding": _conv,
    "aten.convolution.default": _convolution,
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.mm.default": _matmul,
    "aten.matmul.default": _matmul,
    "aten.mv.default": _matmul,
    "gossamer.linear_w8.default": _linear_w8,
    "gossamer.conv_w8.default": _conv_w8,
}
