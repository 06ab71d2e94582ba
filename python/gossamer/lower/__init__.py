"""From a simplified program to a file: one function for each torch op, each adding one or a few ops to the file.

A lowering is called with the arguments of the torch op in the order of its schema, defaults filled in, and returns the
token of its value (a list of tokens where the op returns several). What cannot be lowered is collected, and reported
all at once.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sympy
import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from .. import ops  # noqa: F401  (defines torch.ops.gossamer)
from .._core import Builder, Error, UnsupportedOpError
from ..program import Program, arguments, module_path, shape_of, size_of, source_line

Token: TypeAlias = str
Lower: TypeAlias = Callable[..., Any]

gossamer = torch.ops.gossamer

LOWERINGS: dict[str, Lower] = {}

# What gossamer computes with, by torch's type.
DTYPES = {
    torch.float32: "float32",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.bool: "bool",
}

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def lowers(*targets: str) -> Callable[[Lower], Lower]:
    """Registers the lowering of torch ops, named as they print: `aten.relu.default`."""

    def register(function: Lower) -> Lower:
        for target in targets:
            assert target not in LOWERINGS, f"{target} has two lowerings"
            LOWERINGS[target] = function
        return function

    return register


class Unsupported(Exception):
    """Why a node cannot be lowered."""


@dataclass
class Layer:
    """What a lowered layer was in torch, for the report."""

    name: str
    path: str
    op: str
    weights: list[fx.Node] = field(default_factory=list)


class Lowering:
    """A program half lowered: the builder, and the token of each node so far.

    Attributes:
        program: What is lowered.
        builder: What it is lowered to.
        weights: Storage of the weights that are not integers already: `float32`, `float16` or `int8`.
        node: The node at hand.
        layers: One entry for each op of the file that has weights.
        pairs: Layers that are lowered as one with the layer before them: see `factors`.
    """

    def __init__(self, program: Program, builder: Builder, weights: str = "float32") -> None:
        self.program, self.builder, self.weights = program, builder, weights
        self.node: fx.Node
        self.layers: list[Layer] = []
        self.pairs = factors(program)
        self._tokens: dict[fx.Node, Any] = {}
        self._stored: dict[Any, Token] = {}
        self._alive: list[Tensor] = []
        self._names: set[str] = set()

    def add(self, op: str, inputs: Iterable[Token | None], weights: Iterable[fx.Node] = (), **attrs: Any) -> Any:
        """Adds an op of the file for the node at hand; `weights` are the nodes that its report counts."""
        path = module_path(self.node)
        used = list(weights)
        if used and not path:
            path = str(used[0].target).rpartition(".")[0] or str(used[0].target)
        name = self._unique(path if used else f"{path}/{op}".lstrip("/"))
        if used:
            self.layers.append(Layer(name, path, op, used))
        return self.builder.add(op, list(inputs), attrs, name=name)

    def _unique(self, name: str) -> str:
        free, count = name, 1
        while free in self._names:
            count += 1
            free = f"{name}#{count}"
        self._names.add(free)
        return free

    def value(self, node: fx.Node, dtype: torch.dtype | None = None) -> Token:
        """The token of a node's value, cast to `dtype` where it has another."""
        known = self.program.constant(node)
        if known is not None:
            return self.tensor(known, str(node.target), dtype)
        if not isinstance(node.meta["val"], Tensor):
            raise Unsupported("a size that depends on the inputs is used as a number")
        token = self._tokens[node]
        if dtype is not None and node.meta["val"].dtype != dtype:
            return self.add("cast", [token], dtype=type_name(dtype))
        return token

    def operand(self, value: fx.Node | float | int | bool, dtype: torch.dtype) -> Token:
        """The token of an operand of that type: a node's value, or a number."""
        if isinstance(value, fx.Node):
            return self.value(value, dtype)
        return self.tensor(torch.tensor(value, dtype=dtype), f"number {value!r}")

    def optional(self, node: fx.Node | None) -> Token | None:
        """The token of an operand that may be absent."""
        return None if node is None else self.value(node)

    def function(self) -> str:
        """The name of the torch op at hand, without namespace and overload."""
        return str(self.node.target._schema.name).partition("::")[2]

    def token(self, node: fx.Node) -> Any:
        """What the lowering of a node returned."""
        return self._tokens[node]

    def sizes(self, node: fx.Node | None = None) -> list[int | str]:
        """The shape of a node's value (by default that of the node at hand), as the file writes sizes.

        Where an op returns several values, it is the first one's.
        """
        value = (node or self.node).meta["val"]
        shape = (value[0] if isinstance(value, (tuple, list)) else value).shape
        return [self.size(size_of(size)) for size in shape]

    def size(self, size: Any) -> int | str:
        """A size as the file writes it."""
        if isinstance(size, fx.Node):
            size = size.meta["val"]
        if isinstance(size, torch.SymInt):
            size = size.node.expr
        return size if isinstance(size, int) else size_text(size, self.program.symbols)

    def tensor(self, value: Tensor, name: str, dtype: torch.dtype | None = None) -> Token:
        """Stores plain numbers, as `dtype` where that is given, once however often they are used."""
        dtype = dtype or value.dtype
        key = (_identity(value) if value.dim() else ("number", value.item()), dtype)
        if key not in self._stored:
            type_name(dtype)
            self._stored[key] = self.builder.tensor(self._unique(name), value.to(dtype).contiguous().numpy())
            # A tensor is known by its place in memory, which must not be given to another.
            self._alive.append(value)
        return self._stored[key]

    def keep(self, value: Tensor, name: str, key: Any = None) -> Token:
        """Stores plain numbers that a lowering made, once for each key, which by default is the name."""
        key = name if key is None else (name, key)
        if key not in self._stored:
            self._stored[key] = self.builder.tensor(self._unique(name), value.contiguous().numpy())
        return self._stored[key]

    def matrix(self, node: fx.Node, groups: int = 1) -> Token:
        """Stores the weight of a layer, (m, ...), as a matrix of m rows, once however many layers share it."""
        value = self.program.constant(node)
        if value is None:
            raise Unsupported("its weight is computed from the inputs")
        key = (*_identity(value), groups)
        if key not in self._stored:
            rows = value.flatten(1)
            name = self._unique(node.target)
            integers = self.program.int8(node)
            if value.dtype == torch.int8:
                token = self.builder.matrix_int8(name, rows.contiguous().numpy(), groups=groups)
            elif integers is not None:
                q, scales = integers
                rows = q.flatten(1).contiguous()
                token = self.builder.matrix_int8(name, rows.numpy(), groups=groups, scales=scales.tolist())
            else:
                half = self.weights == "float16" and torch.equal(rows, rows.half().float())
                storage = "float16" if half else "float32"
                token = self.builder.matrix(name, rows.contiguous().numpy(), groups=groups, storage=storage)
            self._stored[key] = token
        return self._stored[key]

    def made_matrix(self, rows: Tensor, name: str, groups: int) -> Token:
        """Stores a matrix that a lowering made of a weight, once for each name."""
        if name not in self._stored:
            half = self.weights == "float16" and torch.equal(rows, rows.half().float())
            storage = "float16" if half else "float32"
            self._stored[name] = self.builder.matrix(self._unique(name), rows.numpy(), groups=groups, storage=storage)
        return self._stored[name]

    def low_rank(self, name: str, u: Token, v: Token) -> Token:
        """Stores the product of two matrices as its factors."""
        key = ("low rank", u, v)
        if key not in self._stored:
            self._stored[key] = self.builder.low_rank(self._unique(f"{name}.factors"), u, v)
        return self._stored[key]

    def run(self, progress: Callable[[], None] = lambda: None) -> None:
        """Lowers every node.

        Raises:
            UnsupportedOpError: Some cannot be lowered; it names them all.
        """
        problems: list[str] = []
        lost: set[fx.Node] = set()
        example = iter(self.program.example)
        for node in self.program.graph.nodes:
            self.node = node
            try:
                if node.op == "placeholder":
                    value = next(example)
                    dtype = type_name(value.dtype)
                    self._tokens[node] = self.builder.input(node.target, dtype, self.sizes(node), list(value.shape))
                elif node.op == "call_function" and not lost.isdisjoint(node.all_input_nodes):
                    lost.add(node)
                elif node.op == "call_function" and not _is_size(node):
                    self._tokens[node] = self._lower(node)
            except (Unsupported, Error) as error:
                lost.add(node)
                problems.append(_problem(node, str(error)))
            progress()
        _refuse(problems)
        results = next(iter(n for n in self.program.graph.nodes if n.op == "output")).args[0]
        for name, node in zip(self.program.outputs, results, strict=True):
            self.node = node
            try:
                self.builder.output(name, self.value(node), self.sizes(node))
            except (Unsupported, Error) as error:
                problems.append(_problem(node, str(error)))
        _refuse(problems)

    def _lower(self, node: fx.Node) -> Any:
        lowering = LOWERINGS.get(_target(node))
        if lowering is None:
            name = _target(node).split(".")[1] if "." in _target(node) else ""
            if name.removesuffix("_cell") in _RECURRENT:
                raise Unsupported("recurrent layers are not supported: gossamer runs feed-forward networks")
            if any(map(free_unbacked_symbols, _values(node.meta["val"]))):
                raise Unsupported("the shape of its result depends on the values of the inputs")
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise Unsupported("it draws random numbers, as training does: gossamer answers alike every time")
            raise Unsupported("gossamer has no such operation")
        for value in _values(node.meta["val"]):
            type_name(value.dtype)
        return lowering(self, *arguments(node))


def factors(program: Program) -> dict[fx.Node, fx.Node]:
    """Layers that are the second of a pair of factors, each with the first.

    Two layers in a row are one matrix as a product u·v where nothing stands between them, and are worth keeping so
    where the factors are smaller than the product.
    """
    pairs: dict[fx.Node, fx.Node] = {}
    for second in program.calls(gossamer.linear.default, gossamer.conv.default):
        first = second.args[0]
        if not isinstance(first, fx.Node) or first.target is not second.target or set(first.users) != {second}:
            continue
        v, u = shape_of(first.args[1]), shape_of(second.args[1])
        if first.target is gossamer.conv.default:
            stride, padding, _, groups = second.args[4:8]
            name = first.args[8]
            pointwise = all(s == 1 for s in [*u[2:], *stride, groups, first.args[7]]) and not any(padding)
        else:
            name, pointwise = first.args[4], True
        bare = first.args[2] is None and first.args[3] is None and not name
        m, r, k = u[0], v[0], math.prod(v[1:])
        if pointwise and bare and first not in pairs and r * (m + k) < m * k:
            pairs[second] = first
    return pairs


def _refuse(problems: list[str]) -> None:
    """Raises what there is to say of nodes that cannot be lowered."""
    if problems:
        count = f"{len(problems)} operations" if len(problems) > 1 else "1 operation"
        raise UnsupportedOpError(f"{count} of this model cannot be converted:\n" + "\n".join(problems))


def _values(value: Any) -> list[Tensor]:
    return [v for v in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(v, Tensor)]


def _is_size(node: fx.Node) -> bool:
    """Whether a node computes sizes and no tensor; those are read as expressions where they are used."""
    return not _values(node.meta.get("val"))


def _target(node: fx.Node) -> str:
    target = node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _problem(node: fx.Node, why: str) -> str:
    where = module_path(node) or "(the model itself)"
    line = source_line(node)
    return f"  {where}: {_target(node)}: {why}" + (f"\n    {line}" if line else "")


def type_name(dtype: torch.dtype) -> str:
    """The file's name of a type.

    Raises:
        Unsupported: gossamer does not compute with it.
    """
    if dtype not in DTYPES:
        name = str(dtype).removeprefix("torch.")
        hint = ": call module.float() before converting" if dtype.is_floating_point else ""
        raise Unsupported(f"gossamer does not compute in {name}{hint}")
    return DTYPES[dtype]


def _identity(value: Tensor) -> tuple:
    """What two views of one tensor agree in, where they are the same numbers in the same places."""
    place = (value.untyped_storage().data_ptr(), value.storage_offset()) if value.numel() else ("empty",)
    return (*place, tuple(value.shape), value.stride(), value.dtype)


def size_text(size: sympy.Expr | int, symbols: dict[str, str]) -> int | str:
    """A size as the file writes it: a number, or an expression in names, `+ - * //` and parentheses.

    Raises:
        Unsupported: It is not such an expression.
    """
    size = sympy.sympify(size)
    return int(size) if size.is_Integer else _text(size, symbols)


def _text(e: sympy.Expr, symbols: dict[str, str]) -> str:
    kind = type(e).__name__
    parts = [_text(a, symbols) for a in e.args] if not e.is_Rational else []
    if e.is_Integer:
        return str(int(e)) if e >= 0 else f"(0 - {-int(e)})"
    if e.is_Symbol and str(e) in symbols:
        return symbols[str(e)]
    if e.is_Add:
        return f"({' + '.join(parts)})"
    if e.is_Mul:
        # A fraction stands before what it divides exactly.
        over, under = e.as_numer_denom()
        if under != 1:
            return f"({_text(over, symbols)})//({_text(under, symbols)})"
        return "*".join(parts)
    if e.is_Pow and e.exp.is_Integer and e.exp > 0:
        return "*".join([parts[0]] * int(e.exp))
    if kind in ("FloorDiv", "CleanDiv", "IntTrueDiv"):
        return f"(({parts[0]})//({parts[1]}))"
    if kind in ("Mod", "PythonMod"):
        return f"({parts[0]} - ({parts[0]})//({parts[1]})*({parts[1]}))"
    if any(str(symbol) not in symbols for symbol in e.free_symbols):
        raise Unsupported("a size depends on the values of the inputs: gossamer knows every shape before it runs")
    raise Unsupported(f"the size {e} cannot be written with + - * //")


_MODULES = (
    "activation", "arithmetic", "attention", "index", "integer", "layers", "norm", "order", "pool", "reduce", "resize",
    "shape", "transposed",
)  # fmt: skip
for _module in _MODULES:
    importlib.import_module(f"{__name__}.{_module}")
