"""Static quantization: a captured graph, calibrated and rewritten to integers.

First every node is asked whether it has an integer form: layers have, and what passes integers on has where its
inputs are integers and something wants them as such. Then the ranges of those values are recorded, and the graph is
written anew; between integer and float parts stand `gossamer::quantize` and `gossamer::dequantize`.
"""

from __future__ import annotations

import copyreg
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph_module import reduce_graph_module
from torch.utils import _pytree as pytree

from .. import capture, ops, ops_i8, passes, steps
from ..passes.fuse import activation_of
from ..program import Program, arguments, module_path, submodule
from ..steps import CLAMPS, LAYERS, MAX_POOLS, MEANS, MOVES, PADS, RESIZES, Grid
from .layers import quantize_weight
from .modules import Chosen

aten = torch.ops.aten
gossamer = torch.ops.gossamer


class Int8Module(fx.GraphModule):
    """A quantized graph. Its copies and pickles know the integer ops."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Module:
        """As of any graph module, and of this class."""
        return Int8Module._of(super().__deepcopy__(memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Restored by a function of this module, whose import defines the ops."""
        _, state = super().__reduce__()
        return _restore, state

    @classmethod
    def _of(cls, module: Any) -> Int8Module:
        made = cls(module, module.graph, "Int8Module")
        made.training = module.training
        return made


def _restore(*state: Any) -> Int8Module:
    return Int8Module._of(reduce_graph_module(*state))


copyreg.constructor(_restore)


def quantize(module: nn.Module, calibration: Iterable[Any], per_channel: bool, chosen: Chosen) -> Int8Module:
    """Captures, calibrates and rewrites; see `compress.quantize`."""
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise ValueError("calibration is empty: mode 'static' needs at least one input tuple")
    program = passes.run(capture.capture(module, _inputs(first)))
    types = dict(module.named_modules())
    kept = {node for node in program.graph.nodes if _stays_float(node, types, chosen)}
    integer = _integer(program, kept)
    total = len(calibration) if isinstance(calibration, Sized) else None
    ranges = _calibrate(program, integer, _shown(chain([first], batches), total))
    _widen_for_cat(program, integer, ranges)
    return _Writer(program, integer, ranges, per_channel).write()


def _inputs(batch: Any) -> tuple[Any, ...]:
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def _stays_float(node: fx.Node, types: dict[str, nn.Module], chosen: Chosen) -> bool:
    path = module_path(node)
    return bool(path) and path in types and chosen.skips(path, types[path])


# -- which nodes compute in integers ----------------------------------------------------------------------------------


def _is_float(node: object) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _sources(node: fx.Node) -> list[fx.Node]:
    """The activations that a node computes from; of the other arguments none is float32 but the weights of a layer."""
    if node.target in LAYERS:
        return [arg for arg in (node.args[0], node.args[3]) if isinstance(arg, fx.Node)]
    return [source for source in node.all_input_nodes if _is_float(source)]


def _integer(program: Program, kept: set[fx.Node]) -> set[fx.Node]:
    """The nodes to compute in integers."""
    able: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            fits = _is_float(node)
        else:
            fits = node.op == "call_function" and node not in kept and _is_float(node)
            fits = fits and _has_integer_form(program, node)
            # A layer quantizes its inputs if need be, others only pass integers on.
            fits = fits and (node.target in LAYERS or all(source in able for source in _sources(node)))
        if fits:
            able.add(node)
    integer: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        if node in able and (node.target in LAYERS or any(user in integer for user in node.users)):
            integer.add(node)
    return integer


def _has_integer_form(program: Program, node: fx.Node) -> bool:
    target = node.target
    if target in LAYERS:
        weight = program.constant(node.args[1])
        bias = None if node.args[2] is None else program.constant(node.args[2])
        if weight is None or weight.dtype != torch.float32 or (node.args[2] is not None and bias is None):
            return False
        # So that no sum leaves int32: at most 127 a weight and 255 an activation.
        return weight.numel() > 0 and weight[0].numel() * 127 * 255 < 2**31
    if target is aten.add.Tensor:
        a, b, alpha = arguments(node)
        return alpha == 1 and _is_float(a) and _is_float(b) and _shape(a) == _shape(b) == _shape(node)
    if target is aten.mul.Tensor:
        return all(_is_float(factor) for factor in arguments(node))
    if target is aten.cat.default:
        return all(_is_float(source) for source in arguments(node)[0])
    if target in MAX_POOLS | MEANS or target in PADS or target in RESIZES:
        return steps.takes_steps(node)
    return target in MOVES or activation_of(node) is not None


def _shape(node: fx.Node) -> tuple[str, ...]:
    # As expressions: comparing symbolic sizes themselves would guard them.
    return tuple(str(size) for size in node.meta["val"].shape)


# -- the ranges of values ---------------------------------------------------------------------------------------------


def _shown(batches: Iterator[Any], total: int | None) -> Iterable[Any]:
    """The batches, with a progress bar where there is a terminal to show one and rich to draw it."""
    if not sys.stderr.isatty():
        return batches
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return batches
    return track(batches, "calibrating", total=total, console=Console(stderr=True), transient=True)


class _Recorder(fx.Interpreter):
    """Runs a graph and widens the range of each value that is wanted; a layer's also before its activation."""

    def __init__(self, program: Program, wanted: set[fx.Node]) -> None:
        super().__init__(program.module)
        self.wanted = wanted
        self.ranges: dict[tuple[fx.Node, str], tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        if n in self.wanted and n.target in LAYERS:
            args, _ = self.fetch_args_kwargs_from_env(n)
            *before, name, params = args
            y = n.target(*before, "", [])
            self._record(n, "sum", y)
            value = ops.activate(y, name, params)
        else:
            value = super().run_node(n)
        if n in self.wanted:
            self._record(n, "value", value)
        return value

    def _record(self, node: fx.Node, what: str, value: Tensor) -> None:
        if value.numel():
            lo, hi = self.ranges.get((node, what), (0.0, 0.0))
            least, most = (bound.item() for bound in value.aminmax())
            if not (math.isfinite(least) and math.isfinite(most)):
                path = module_path(node)
                raise ValueError(f"calibration: {node.name}{f' of {path}' if path else ''} is not finite")
            self.ranges[node, what] = (min(lo, least), max(hi, most))


Ranges = dict[tuple[fx.Node, str], tuple[float, float]]


def _calibrate(program: Program, integer: set[fx.Node], batches: Iterable[Any]) -> Ranges:
    wanted = integer | {source for node in integer for source in _sources(node)}
    recorder = _Recorder(program, wanted)
    with torch.no_grad():
        for batch in batches:
            recorder.run(*(leaf for leaf in pytree.tree_leaves(_inputs(batch)) if isinstance(leaf, Tensor)))
    return recorder.ranges


def _widen_for_cat(program: Program, integer: set[fx.Node], ranges: Ranges) -> None:
    """Gives what only a concatenation reads the range of the whole, so that nothing need be requantized."""
    for node in reversed(program.graph.nodes):
        if node in integer and node.target is aten.cat.default and (node, "value") in ranges:
            for source in arguments(node)[0]:
                # What passes bytes on has the range of what it reads.
                while len(source.users) == 1 and steps.keeps_grid(source):
                    source = source.args[0]
                if len(source.users) == 1 and not steps.keeps_grid(source):
                    ranges[source, "value"] = ranges[node, "value"]


# -- the graph in integers --------------------------------------------------------------------------------------------


class _Writer:
    """Writes the graph anew; each old value has an integer or a float form, or both once both are asked for."""

    def __init__(self, program: Program, integer: set[fx.Node], ranges: Ranges, per_channel: bool) -> None:
        self.program, self.integer, self.ranges, self.per_channel = program, integer, ranges, per_channel
        self.graph, self.root = fx.Graph(), nn.Module()
        self.integers: dict[fx.Node, tuple[fx.Node, Grid]] = {}
        self.floats: dict[fx.Node, fx.Node] = {}
        # What a look-up was made of: its input, and its table.
        self.looked: dict[fx.Node, tuple[fx.Node, Tensor]] = {}
        # By the storage of a weight: the name of its integers, and their scales.
        self.weights: dict[tuple[Any, ...], tuple[str, Tensor]] = {}

    def write(self) -> Int8Module:
        """The module with the new graph."""
        for node in self.program.graph.nodes:
            if node.op == "output":
                values = [self._float(value) for value in node.args[0]]
                self.graph.output(values[0] if len(values) == 1 else tuple(values))
            elif node.op == "call_function" and node in self.integer:
                if node not in self.integers:
                    self._compute(node)
            elif node.op != "get_attr":
                self.floats[node] = self.graph.node_copy(node, self._float)
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return Int8Module(self.root, self.graph, "Int8Module").eval()

    def _emit(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self.graph.call_function(target, args)

    def _call(self, call: steps.Call) -> fx.Node:
        """An integer operator, by its arguments in the old graph but for what it computes from."""
        target, args = call
        return self._emit(target, *fx.map_arg(args, lambda n: n if n.graph is self.graph else self._float(n)))

    def _constant(self, target: str, value: Tensor) -> fx.Node:
        """Keeps a tensor under that name, or one like it."""
        owner, _, leaf = target.rpartition(".")
        place, name, count = submodule(self.root, owner), leaf, 0
        while hasattr(place, name):
            count += 1
            name = f"{leaf}_{count}"
        place.register_buffer(name, value)
        return self.graph.get_attr(f"{owner}.{name}" if owner else name)

    def _grid(self, node: fx.Node, what: str = "value") -> Grid:
        return Grid.of(*self.ranges.get((node, what), (0.0, 0.0)))

    def _float(self, node: fx.Node) -> fx.Node:
        """The float form of an old value, or the value itself where it is no activation."""
        if node not in self.floats and node.op == "get_attr":
            value = self.program.constant(node)
            assert value is not None, "attributes of a captured graph are tensors"
            self.floats[node] = self._constant(str(node.target), value)
        elif node not in self.floats:
            x, grid = self.integers[node]
            self.floats[node] = self._emit(gossamer.dequantize.default, x, grid.scale, grid.zero_point)
        return self.floats[node]

    def _int(self, node: fx.Node) -> tuple[fx.Node, Grid]:
        """The integer form of an old value and its grid."""
        if node not in self.integers:
            grid = self._grid(node)
            x = self._emit(gossamer.quantize.default, self.floats[node], grid.scale, grid.zero_point)
            self.integers[node] = (x, grid)
        return self.integers[node]

    def _compute(self, node: fx.Node) -> None:
        """Writes a node in integers."""
        target: Any = node.target
        args = arguments(node)
        if target in LAYERS:
            self._layer(node)
            return
        if target is aten.add.Tensor:
            self._add(node)
        elif target is aten.mul.Tensor:
            self._mul(node)
        elif target in PADS:
            self._pad(node)
        elif target in RESIZES:
            x, grid = self._int(args[0])
            self.integers[node] = (self._call(steps.resized(node, x)), grid)
        elif target is aten.cat.default:
            grid = self._grid(node)
            parts = [self._requantized(source, grid) for source in args[0]]
            self.integers[node] = (self._emit(target, parts, *args[1:]), grid)
        elif target in MAX_POOLS:
            x, grid = self._int(args[0])
            self.integers[node] = (self._call(steps.max_pooled(node, x)), grid)
        elif target in MEANS:
            (x, grid), to = self._int(args[0]), self._grid(node)
            self.integers[node] = (self._call(steps.averaged(node, x, grid, to)), to)
        elif target in MOVES:
            x, grid = self._int(args[0])
            rest: Any = fx.map_arg(node.args[1:], self._float)
            self.integers[node] = (self.graph.call_function(target, (x, *rest), node.kwargs), grid)
        else:
            found = activation_of(node)
            assert found is not None, "a node in integers is a layer, passes integers on, or is an activation"
            x, grid = self._int(args[0])
            self.integers[node] = self._lookup(x, grid, self._grid(node), *found)

    def _layer(self, node: fx.Node) -> None:
        source, _, added, term, *geometry, activation, params = arguments(node)
        x, x_grid = self._int(source)
        weight, weight_scale = self._weight(node)
        wanted = any(user in self.integer for user in node.users)
        clamp = CLAMPS[activation] or tuple(params) if activation in CLAMPS else None
        grid = self._grid(node, "value" if clamp else "sum")
        unit, output = 1.0, None
        if wanted:
            lo, hi = clamp or (-math.inf, math.inf)
            unit, output = grid.scale, [grid.zero_point, grid.step(lo), grid.step(hi)]
        bias = None if added is None else self.program.constant(added)
        scale, bias = steps.in_units(weight_scale.to(torch.float64) * x_grid.scale, bias, unit)
        residual, residual_scale, residual_zero_point = None, 1.0, 0
        if term is not None:
            residual, other = self._int(term)
            residual_scale, residual_zero_point = steps.single(other.scale / unit), other.zero_point
        path = _path(node)
        constants = (weight, self._constant(f"{path}scale", scale), self._constant(f"{path}bias", bias))
        target = gossamer.conv_i8.default if geometry else gossamer.linear_i8.default
        y = self._emit(
            target, x, *constants, residual, *geometry, x_grid.zero_point, residual_scale, residual_zero_point, output
        )
        if not wanted:
            self.floats[node] = self._activated(y, activation, params)
        elif clamp:
            self.integers[node] = (y, grid)
        else:
            self.integers[node] = self._lookup(y, grid, self._grid(node), activation, params)

    def _activated(self, y: fx.Node, activation: str, params: Sequence[float]) -> fx.Node:
        if not activation:
            return y
        return self.graph.call_function(*steps.activated(y, activation, params))

    def _weight(self, node: fx.Node) -> tuple[fx.Node, Tensor]:
        """A layer's weight in integers, kept once however many layers share it, and its scales."""
        value = self.program.constant(node.args[1])
        assert value is not None, "a layer in integers has a constant weight"
        key = (value.data_ptr(), tuple(value.shape), value.stride())
        if key in self.weights:
            name, scale = self.weights[key]
            return self.graph.get_attr(name), scale
        weight, scale = quantize_weight(value, self.per_channel)
        made = self._constant(f"{_path(node)}weight", weight)
        self.weights[key] = (str(made.target), scale)
        return made, scale

    def _clamped(self, node: fx.Node) -> tuple[fx.Node, Grid, list[int]]:
        """The clamp that alone reads a node, or the node; its grid, and how its bytes are stored."""
        last, clamp = node, (-math.inf, math.inf)
        user = next(iter(node.users))
        if len(node.users) == 1 and user in self.integer and (found := activation_of(user)) is not None:
            name, params = found
            if name in CLAMPS:
                last, clamp = user, CLAMPS[name] or (params[0], params[1])
        grid = self._grid(last)
        return last, grid, [grid.zero_point, *map(grid.step, clamp)]

    def _add(self, node: fx.Node) -> None:
        """An addition, with the clamp after it where that alone reads it."""
        last, grid, output = self._clamped(node)
        (a, a_grid), (b, b_grid) = (self._int(term) for term in arguments(node)[:2])
        self.integers[last] = (self._call(steps.added(a, a_grid, b, b_grid, grid.scale, output)), grid)

    def _mul(self, node: fx.Node) -> None:
        """A product, with the clamp after it where that alone reads it."""
        last, grid, output = self._clamped(node)
        (a, a_grid), (b, b_grid) = (self._int(factor) for factor in arguments(node))
        self.integers[last] = (self._call(steps.multiplied(a, a_grid, b, b_grid, grid.scale, output)), grid)

    def _pad(self, node: fx.Node) -> None:
        """Padding, with zero or what is there already in the operand's grid, or else in one that holds the constant."""
        source = arguments(node)[0]
        x, grid = self._int(source)
        if not steps.keeps_grid(node):
            grid = self._grid(node)
            x = self._requantized(source, grid)
        self.integers[node] = (self._call(steps.padded(node, x, grid)), grid)

    def _requantized(self, source: fx.Node, grid: Grid) -> fx.Node:
        x, own = self._int(source)
        return x if own == grid else self._lookup(x, own, grid, "", ())[0]

    def _lookup(
        self, x: fx.Node, grid: Grid, to: Grid, activation: str, params: Sequence[float]
    ) -> tuple[fx.Node, Grid]:
        """A function of one number as its 256 values."""
        table = steps.table(grid, to, activation, params)
        if x in self.looked:
            # A look-up of a look-up is one; the first goes where nothing else reads it.
            x, first = self.looked[x]
            table = ops_i8.lookup_i8(first, table)
        y = self._emit(gossamer.lookup_i8.default, x, self._constant("table", table))
        self.looked[y] = (x, table)
        return y, to


def _path(layer: fx.Node) -> str:
    """The prefix of a layer's names: the path of the module it came from, or where its weight is."""
    path = module_path(layer) or str(arguments(layer)[1].target).rpartition(".")[0]
    return f"{path}." if path else ""
