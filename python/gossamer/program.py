"""A captured model on its way to a file: a flat graph of torch ops, its weights, an example that it must still answer.

Passes rewrite a `Program`; lowering reads it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

import sympy
import torch
from torch import Tensor, fx, nn


@dataclass
class Program:
    """A model as a flat graph: tensors in, a tuple of tensors out, weights as attributes.

    Attributes:
        module: Runs in torch. Every node carries `val` (its shape and dtype, symbolic where a dimension is dynamic),
            `nn_module_stack` and `stack_trace` in its `meta`; a constant of which channels were taken out also `whole`,
            the number of elements that it had.
        example: One tensor for each placeholder.
        expected: What the model answered on the example before any pass.
        outputs: A name for each output.
        symbols: Name of each dynamic dimension, by the symbol that `val` has for it.
        notes: What the caller should know of how the model was captured.
        integers: int8 weights found behind a floating-point constant, by that constant's attribute name.
        quantized: Whether it is quantized by a tool of torch, which writes float operators between steps.
        rounded: Whether a pass changed how what is rounded to integers is computed: it can be a step off then.
    """

    module: fx.GraphModule
    example: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]
    outputs: list[str]
    symbols: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    integers: dict[str, Tensor] = field(default_factory=dict)
    quantized: bool = False
    rounded: bool = False

    @property
    def graph(self) -> fx.Graph:
        """The graph of `module`."""
        return self.module.graph

    def calls(self, *targets: object) -> Iterator[fx.Node]:
        """The nodes that call one of those overloads, in order; safe to rewrite while walking."""
        calls = (n for n in list(self.graph.nodes) if n.op == "call_function" and n.target in targets)
        return (n for n in calls if not n._erased)

    def constant(self, node: object) -> Tensor | None:
        """The tensor that a node reads from the module, or None where it is computed."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            value = getattr(self.module.get_submodule(owner), leaf)
            return value.detach() if isinstance(value, Tensor) else None
        return None

    def weight(self, layer: fx.Node) -> Tensor:
        """The weight of one of our layers, which is constant: that is what makes it one."""
        value = self.constant(layer.args[1])
        assert value is not None, f"{layer.name} has a weight that is computed"
        return value

    def int8(self, weight: fx.Node) -> tuple[Tensor, Tensor] | None:
        """A weight (m, ...) as int8 and a scale for each row, where it is known to be exactly their product."""
        q, value = self.integers.get(weight.target), self.constant(weight)
        if q is None or value is None:
            return None
        scales = _scales(value.flatten(1), q.reshape(value.shape).flatten(1))
        return None if scales is None else (q.reshape(value.shape), scales)

    def add_constant(self, name: str, value: Tensor, before: fx.Node) -> fx.Node:
        """Keeps a tensor in the module under that name (or one like it) and returns the node that reads it."""
        owner, _, leaf = name.rpartition(".")
        module = submodule(self.module, owner)
        free, count = leaf, 0
        while hasattr(module, free):
            count += 1
            free = f"{leaf}_{count}"
        module.register_buffer(free, value.detach())
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(f"{owner}.{free}" if owner else free)
        node.meta["val"] = torch.empty_like(value, device="meta")
        return node

    def call(self, target: object, args: tuple, like: fx.Node, before: fx.Node | None = None) -> fx.Node:
        """A new call that takes over what `like` knew of its shape, module path and source line."""
        with self.graph.inserting_before(before or like):
            node = self.graph.call_function(target, args)
        node.meta.update(like.meta)
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Puts `new` wherever `old` was used, and drops `old`."""
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)


def _scales(rows: Tensor, integers: Tensor) -> Tensor | None:
    """The scale of each row, where `rows` is exactly the integers times it."""
    # In 16 bits, where 128 is a number.
    largest, at = integers.to(torch.int16).abs().max(1, keepdim=True)
    picked = rows.gather(1, at) / integers.gather(1, at)
    scales = torch.where(largest > 0, picked, 1.0).float()
    for candidate in (scales, _nudged(rows, integers, scales)):
        if torch.equal(integers.float() * candidate, rows):
            return candidate.reshape(-1).contiguous()
    return None


def _nudged(rows: Tensor, integers: Tensor, scales: Tensor) -> Tensor:
    """Scales one step up or down where only that gives the rows back: the quotient of a rounded product may be off."""
    best = scales.clone()
    for direction in (float("inf"), float("-inf")):
        other = torch.nextafter(scales, torch.tensor(direction))
        better = (integers.float() * other == rows).all(1, keepdim=True)
        best = torch.where(better, other, best)
    return best


def submodule(module: nn.Module, path: str) -> nn.Module:
    """The submodule of that path, made where there is none."""
    for part in filter(None, path.split(".")):
        if not isinstance(getattr(module, part, None), nn.Module):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    return module


def size_of(size: int | torch.SymInt) -> int | sympy.Expr:
    """A size as a number where it is one, else as an expression over the dynamic dimensions."""
    if isinstance(size, int):
        return size
    # A symbol that turned out to be a constant is replaced here and nowhere else.
    expression = size.node.expr
    return int(expression) if expression.is_number else expression


def shape_of(node: fx.Node) -> list[int | sympy.Expr]:
    """The sizes of a node's value."""
    return [size_of(size) for size in node.meta["val"].shape]


def arguments(node: fx.Node) -> list:
    """The arguments of a call in the order of its schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return list(node.args)
    values = []
    for i, argument in enumerate(node.target._schema.arguments):
        if i < len(node.args) and not argument.kwarg_only:
            values.append(node.args[i])
        elif argument.name in node.kwargs:
            values.append(node.kwargs[argument.name])
        else:
            values.append(argument.default_value)
    return values


def module_path(node: fx.Node) -> str:
    """The path of the torch module that a node came from, as in `named_modules()`; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for value in stack.values():
        path = value[0]
    # torch marks a second call of one module with "@1".
    return path.partition("@")[0]


def source_line(node: fx.Node) -> str:
    """The innermost line of the model's own code that made a node, `net.py:12: x = self.norm(x)`; empty if unknown."""
    trace = (node.meta.get("stack_trace") or "").splitlines()
    found = ""
    for i, line in enumerate(trace):
        if line.strip().startswith('File "') and "/torch/" not in line and '"<' not in line:
            file, _, rest = line.strip()[len('File "') :].partition('", line ')
            number = rest.partition(",")[0]
            code = trace[i + 1].strip() if i + 1 < len(trace) else ""
            found = f"{file}:{number}: {code}"
    return found


def is_getitem(node: fx.Node, index: int) -> bool:
    """Whether a node picks that output of a call."""
    return node.op == "call_function" and node.target is operator.getitem and node.args[1] == index
