"""Which channels of a network belong together, and how to take some of them out.

The graph is followed from the layers that make channels to those that read them. What must have the same channels
(the terms of a residual addition, a batch-norm and its input) shares a *space*; a concatenation is a list of
spaces. A space that reaches the network's output, or an operation not known to treat channels one by one, stays
whole. Taking channel c out of a space means: row c out of the layers that make it, entry c out of the norms and
depthwise convolutions on its way, columns c out of the layers that read it. The smaller network computes what the
whole one computes with those columns zero, whatever lies between.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .modules import Chosen, M, holders, is_depthwise, is_masked, refresh, to_matrix, weight_of

# A concatenation of spaces, each by its number.
Segments = tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """The channels of a value and where they lie.

    `map`: axis 1 of (n, c, ...); `rows`: the last axis; `flat`: the last axis, each channel as many features as its
    plane had pixels.
    """

    kind: str
    segments: Segments


@dataclass
class Space:
    """Channels that live or die together."""

    size: int
    pinned: str | None = None
    makers: list[tuple[nn.Module, int]] = field(default_factory=list)
    """Layers whose rows from an offset on are this space."""
    readers: list[tuple[nn.Module, int, int]] = field(default_factory=list)
    """Layers whose columns from an offset on are this space, so many columns a channel."""


@dataclass
class Plan:
    """What `shrink` takes out: for each layer, the rows and columns that stay."""

    rows: dict[nn.Module, Tensor]
    columns: dict[nn.Module, Tensor]


# Modules and functions that compute each element from itself, so that channels pass through in any position.
ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Identity, nn.Dropout,
)  # fmt: skip
ELEMENTWISE = {
    torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.neg, torch.square, torch.clamp, torch.exp,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardswish,
    F.hardsigmoid, F.hardtanh, F.softplus, F.softsign, F.logsigmoid, F.dropout, operator.neg,
    "relu", "relu_", "sigmoid", "tanh", "abs", "neg", "square", "clamp", "clamp_", "exp", "contiguous", "float",
    "clone", "detach",
}  # fmt: skip
# Those that compute each plane of a map from itself.
PLANEWISE_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d,
    nn.ReplicationPad2d, nn.Dropout1d, nn.Dropout2d,
)  # fmt: skip
# nn.functional's max-pools are dispatchers made at import, found by name in the traced graph.
PLANEWISE = {
    "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "boolean_dispatch", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "interpolate", "dropout1d", "dropout2d",
}  # fmt: skip
BINARY = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv,
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_",
}  # fmt: skip


class Follower:
    """Follows the channels of a module through its graph.

    Raises:
        ValueError: The module's forward cannot be traced.
    """

    def __init__(self, module: nn.Module, chosen: Chosen, pattern: str) -> None:
        self.spaces: list[Space] = []
        self.parent: list[int] = []
        # By layer: the segments of its rows, and of its columns with the columns a channel.
        self.rows: dict[nn.Module, Segments] = {}
        self.columns: dict[nn.Module, tuple[Segments, int]] = {}
        self.values: dict[fx.Node, Channels | None] = {}
        graph = trace(module)
        # The layer that each node computes, and its name.
        self.layers = {node: found for node in graph.nodes if (found := layer_of(module, node)) is not None}
        uses = Counter(layer for _, layer in self.layers.values())
        # Layers whose weights serve in two places.
        self.repeated = {layer for layer, count in uses.items() if count > 1}
        self.repeated.update(layer for held in holders(module).values() if len(held) > 1 for layer in held)
        for node in graph.nodes:
            self.values[node] = self._follow(node)
        for name, layer in self.layers.values():
            if chosen.skips(name, layer):
                kept = self.rows.get(layer, ()) if pattern == "unit" else self.columns.get(layer, ((), 1))[0]
                self._pin(kept, f"skip keeps {name}")
        for layer, segments in self.rows.items():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and not is_depthwise(layer):
                for space, offset in self._offsets(segments):
                    space.makers.append((layer, offset))
        for layer, (segments, repeat) in self.columns.items():
            for space, offset in self._offsets(segments):
                space.readers.append((layer, offset * repeat, repeat))

    def free(self) -> list[int]:
        """The spaces of which channels may be taken."""
        roots = sorted({self._root(i) for i in range(len(self.spaces))})
        return [i for i in roots if not self.spaces[i].pinned and self.spaces[i].makers and self.spaces[i].readers]

    def reasons(self) -> str:
        """Why spaces are not free, for a message."""
        return "; ".join(sorted({space.pinned for space in self.spaces if space.pinned})) or "no layer reads another"

    def kept(self, segments: Segments, keep: dict[int, Tensor], repeat: int = 1) -> Tensor:
        """Indices that stay along an axis made of `segments`, each channel `repeat` entries."""
        parts, offset = [], 0
        for space in map(self._root, segments):
            size = self.spaces[space].size
            parts.append(keep.get(space, torch.arange(size)) + offset)
            offset += size
        index = torch.cat(parts)
        return (index[:, None] * repeat + torch.arange(repeat)).flatten()

    def _offsets(self, segments: Segments) -> Iterable[tuple[Space, int]]:
        offset = 0
        for space in map(self._root, segments):
            yield self.spaces[space], offset
            offset += self.spaces[space].size

    def _root(self, space: int) -> int:
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def _new(self, size: int, pinned: str | None = None) -> Segments:
        self.spaces.append(Space(size, pinned))
        self.parent.append(len(self.parent))
        return (len(self.parent) - 1,)

    def _sizes(self, segments: Segments) -> list[int]:
        return [self.spaces[self._root(space)].size for space in segments]

    def _pin(self, segments: Segments, reason: str) -> None:
        for space in map(self._root, segments):
            self.spaces[space].pinned = self.spaces[space].pinned or reason

    def _pin_inputs(self, node: fx.Node, reason: str) -> None:
        for source in node.all_input_nodes:
            if value := self.values[source]:
                self._pin(value.segments, reason)

    def _unite(self, a: Segments, b: Segments) -> bool:
        """Makes one of the spaces of two values whose channels go together."""
        if self._sizes(a) != self._sizes(b):
            return False
        for x, y in zip(map(self._root, a), map(self._root, b), strict=True):
            if self._root(x) != self._root(y):
                self.parent[y] = x
                self._pin((x,), reason) if (reason := self.spaces[y].pinned) else None
        return True

    def _follow(self, node: fx.Node) -> Channels | None:
        """The channels of a node's value; None where they are the caller's, or unknown and therefore pinned."""
        if node.op in ("placeholder", "get_attr"):
            return None
        if node.op == "output":
            self._pin_inputs(node, "channels of an output stay")
            return None
        value = self._layer(node, self.layers[node][1]) if node in self.layers else self._call(node)
        if value is None and not _is_size(node):
            self._pin_inputs(node, f"channels are not followed through {self._name(node)}")
        return value

    def _name(self, node: fx.Node) -> str:
        if node in self.layers:
            name, layer = self.layers[node]
            return f"{name} ({type(layer).__name__})"
        return str(getattr(node.target, "__name__", node.target))

    def _layer(self, node: fx.Node, layer: nn.Module) -> Channels | None:
        source = node.args[0] if node.args else None
        x = self.values.get(source) if isinstance(source, fx.Node) else None
        if layer in self.repeated:
            return None
        if isinstance(layer, ELEMENTWISE_MODULES):
            return x
        if isinstance(layer, PLANEWISE_MODULES):
            return x if x and x.kind == "map" else None
        match layer:
            case nn.Linear():
                return self._linear(layer, x)
            case nn.Conv1d() | nn.Conv2d():
                return self._conv(layer, x)
            case nn.BatchNorm1d() | nn.BatchNorm2d() if x and x.kind != "flat":
                return self._along(layer, x, layer.num_features)
            case nn.PReLU() if x and (layer.num_parameters == 1 or x.kind == "map"):
                return x if layer.num_parameters == 1 else self._along(layer, x, layer.num_parameters)
            case nn.Flatten(start_dim=1, end_dim=-1) if x:
                return Channels("flat" if x.kind == "map" else x.kind, x.segments)
        return None

    def _along(self, layer: nn.Module, x: Channels, size: int) -> Channels | None:
        """A layer with one entry of its parameters a channel."""
        if sum(self._sizes(x.segments)) != size:
            return None
        self.rows[layer] = x.segments
        return x

    def _linear(self, layer: nn.Linear, x: Channels | None) -> Channels:
        if x is not None:
            total = sum(self._sizes(x.segments))
            repeat = layer.in_features // total if x.kind == "flat" else 1
            if x.kind == "map" or total * repeat != layer.in_features:
                self._pin(x.segments, "a linear layer reads another axis than the channels")
            else:
                self.columns[layer] = (x.segments, repeat)
        self.rows[layer] = self._new(layer.out_features)
        return Channels("rows", self.rows[layer])

    def _conv(self, layer: nn.Conv1d | nn.Conv2d, x: Channels | None) -> Channels | None:
        if is_depthwise(layer) and layer.out_channels == layer.in_channels:
            return self._along(layer, x, layer.in_channels) if x else None
        if layer.groups > 1:
            return None
        if x is not None:
            if x.kind != "map" or sum(self._sizes(x.segments)) != layer.in_channels:
                return None
            self.columns[layer] = (x.segments, 1)
        self.rows[layer] = self._new(layer.out_channels)
        return Channels("map", self.rows[layer])

    def _call(self, node: fx.Node) -> Channels | None:
        target, args = node.target, node.args
        if target in BINARY:
            return self._binary(node)
        if target in (torch.cat, torch.concat):
            return self._cat(node)
        source = args[0] if args and isinstance(args[0], fx.Node) else None
        x = self.values.get(source) if source is not None else None
        if x is None:
            return None
        if target in ELEMENTWISE:
            return x
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if name in PLANEWISE or (target is F.pad and len(_given(node, 1, "pad", ())) <= 4):
            return x if x.kind == "map" else None
        if x.kind == "map" and (
            (name == "flatten" and _flattens(node)) or (name in ("view", "reshape") and _keeps_batch(node))
        ):
            return Channels("flat", x.segments)
        if x.kind == "map" and name == "mean":
            axes, keep = _given(node, 1, "dim", None), _given(node, 2, "keepdim", False)
            if isinstance(axes, Sequence) and set(axes) in ({2, 3}, {-1, -2}, {2, -1}):
                return Channels("map" if keep else "rows", x.segments)
        return None

    def _binary(self, node: fx.Node) -> Channels | None:
        sources = [arg for arg in node.args if isinstance(arg, fx.Node)]
        values = [self.values[source] for source in sources]
        if len(node.args) < 2 or any(value is None for value in values) or not values:
            return None
        if len(values) == 1:
            return values[0]
        a, b = values
        assert a is not None and b is not None
        return a if a.kind == b.kind and self._unite(a.segments, b.segments) else None

    def _cat(self, node: fx.Node) -> Channels | None:
        tensors, axis = _given(node, 0, "tensors", None), _given(node, 1, "dim", 0)
        if not isinstance(tensors, Sequence):
            return None
        values = [self.values.get(tensor) for tensor in tensors]
        if any(value is None or value.kind != values[0].kind for value in values):
            return None
        kind = values[0].kind
        # Of a matrix that is (n, c) the last axis is also axis 1; rank is not known here, so only -1 is taken.
        if axis != (1 if kind == "map" else -1) or kind == "flat":
            return None
        return Channels(kind, tuple(space for value in values for space in value.segments))


def trace(module: nn.Module) -> fx.Graph:
    """The module's graph, with the layers of torch.nn as its leaves.

    Raises:
        ValueError: The forward cannot be traced: it branches on its data, say.
    """
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        message = f"{type(module).__name__} cannot be followed by torch.fx, which structured pruning needs: {error}"
        raise ValueError(message) from error


def layer_of(module: nn.Module, node: fx.Node) -> tuple[str, nn.Module] | None:
    """The layer of a module that a node computes, and its name.

    A subclass with a forward of its own is looked into; where that calls the function of torch with nothing but the
    layer's weight and bias, the node is that layer all the same.
    """
    if node.op == "call_module":
        return str(node.target), module.get_submodule(str(node.target))
    kind = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.linear: nn.Linear}.get(node.target)
    if kind is None:
        return None
    weight, bias = _given(node, 1, "weight", None), _given(node, 2, "bias", None)
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    name, _, leaf = str(weight.target).rpartition(".")
    layer = module.get_submodule(name)
    whole = leaf == "weight" and (bias is None or getattr(bias, "target", None) == f"{name}.bias".lstrip("."))
    alike = kind is nn.Linear or _given(node, 6, "groups", 1) == getattr(layer, "groups", 0)
    return (name, layer) if isinstance(layer, kind) and whole and alike else None


def _is_size(node: fx.Node) -> bool:
    """Whether a node only asks for sizes other than the number of channels."""
    if node.target is getattr and node.args[1] == "shape":
        return all(user.target is operator.getitem and user.args[1] in (0, 2, 3) for user in node.users)
    if node.target == "size":
        return len(node.args) == 2 and node.args[1] in (0, 2, 3)
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _is_size(node.args[0])


def _given(node: fx.Node, index: int, name: str, default: Any) -> Any:
    """An argument of a call, by its place or its name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _flattens(node: fx.Node) -> bool:
    """Whether all but the batch becomes one axis."""
    return (_given(node, 1, "start_dim", 0), _given(node, 2, "end_dim", -1)) == (1, -1)


def _keeps_batch(node: fx.Node) -> bool:
    """Whether a view is (batch, -1)."""
    shape = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], Sequence):
        shape = tuple(shape[0])
    if len(shape) != 2 or shape[1] != -1 or not isinstance(shape[0], fx.Node):
        return False
    return _is_size(shape[0]) and bool(shape[0].args[1] == 0)


def plan(module: nn.Module, sparsity: float, pattern: str, scope: str, chosen: Chosen) -> Plan:
    """Chooses the channels of least magnitude.

    Args:
        module: The module that `shrink` will change.
        sparsity: The share of channels to take, of every space or of all together.
        pattern: `unit`, by the weights that make a channel; `channel`, by those that read it.
        scope: `layer` or `global`.
        chosen: What to leave alone.

    Raises:
        ValueError: The module cannot be followed, or no channel may be taken.
    """
    follower = Follower(module, chosen, pattern)
    free = follower.free()
    if not free:
        raise ValueError(f"no channels to prune: {follower.reasons()}")
    score: Callable[[Space], Tensor] = _made if pattern == "unit" else _read
    scores = {space: score(follower.spaces[space]) for space in free}
    keep: dict[int, Tensor] = {}
    if scope == "layer":
        counts = {space: round(sparsity * len(values)) for space, values in scores.items()}
    else:
        order = torch.cat(list(scores.values())).argsort(stable=True)
        owner = torch.cat([torch.full((len(values),), space) for space, values in scores.items()])
        gone = owner[order[: round(sparsity * len(order))]]
        counts = {space: int((gone == space).sum()) for space in free}
    for space, values in scores.items():
        count = min(counts[space], len(values) - 1)
        keep[space] = values.argsort(stable=True)[count:].sort().values
    rows = {layer: follower.kept(segments, keep) for layer, segments in follower.rows.items()}
    columns = {layer: follower.kept(segments, keep, repeat) for layer, (segments, repeat) in follower.columns.items()}
    return Plan(rows, columns)


def _relative(squares: Tensor) -> Tensor:
    """Mean squares by their own mean, so that layers of different scale compare."""
    return squares / squares.mean().clamp_min(torch.finfo(squares.dtype).tiny)


def _made(space: Space) -> Tensor:
    """The magnitude of the rows that make each channel."""
    rows = [to_matrix(weight_of(layer)).square().mean(1) for layer, _ in space.makers]
    parts = [_relative(r[offset : offset + space.size]) for r, (_, offset) in zip(rows, space.makers, strict=True)]
    return torch.stack(parts).mean(0)


def _read(space: Space) -> Tensor:
    """The magnitude of the columns that read each channel."""
    parts = []
    for layer, offset, repeat in space.readers:
        weight = weight_of(layer)[:, offset : offset + space.size * repeat].to(torch.float32)
        columns = weight.square().reshape(weight.shape[0], space.size, -1).mean((0, 2))
        parts.append(_relative(columns))
    return torch.stack(parts).mean(0)


def shrink(module: M, plan: Plan) -> M:
    """Takes out of a module, in place, what its plan does not keep."""
    for layer, index in plan.rows.items():
        for name in ("weight", "bias", "running_mean", "running_var"):
            _select(layer, name, 0, index)
        match layer:
            case nn.Linear():
                layer.out_features = len(index)
            case nn.Conv1d() | nn.Conv2d():
                if is_depthwise(layer):
                    layer.in_channels = layer.groups = len(index)
                layer.out_channels = len(index)
            case nn.PReLU():
                layer.num_parameters = len(index)
            case _:
                layer.num_features = len(index)  # type: ignore[assignment]
    for layer, index in plan.columns.items():
        _select(layer, "weight", 1, index)
        if isinstance(layer, nn.Linear):
            layer.in_features = len(index)
        else:
            layer.in_channels = len(index)  # type: ignore[assignment]
    return module


def _select(layer: nn.Module, name: str, axis: int, index: Tensor) -> None:
    """Keeps the entries `index` of a parameter or buffer, if there is one, and of its mask."""
    for key in (name, f"{name}_orig", f"{name}_mask"):
        if (value := layer._parameters.get(key)) is not None:
            layer._parameters[key] = nn.Parameter(value.detach().index_select(axis, index), value.requires_grad)
        elif (buffer := layer._buffers.get(key)) is not None:
            layer._buffers[key] = buffer.index_select(axis, index)
    if is_masked(layer, name):
        refresh(layer, name)
