"""Takes out channels that do nothing: those that are constant, and those that nobody reads.

A channel is constant where the filter or neuron that makes it is all zeros, so that its bias and what follows are all
that is left of it; it is unread where every layer after it has zeros in its columns. Channels are followed from the
layers that make them to those that read them. Values that must have the same channels (the terms of a residual
addition) share a *space*; a concatenation is a list of spaces. A space that reaches an output of the network, or an
operation that is not known to treat channels one by one, stays whole.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ..ops import RECOGNISED
from ..program import Program, arguments, is_getitem, module_path, shape_of
from .fold_batch_norm import scale_and_shift

aten = torch.ops.aten
gossamer = torch.ops.gossamer

# Where a layer has its input, weight and bias; where a convolution has its padding and groups.
_X, _WEIGHT, _BIAS, _PADDING, _GROUPS = 0, 1, 2, 5, 7

_NORM = aten._native_batch_norm_legit_no_training.default

# Each element by itself, from the first argument; the others are numbers.
_ELEMENTWISE = {
    *RECOGNISED, aten.abs.default, aten.neg.default, aten.exp.default, aten.sqrt.default, aten.square.default,
    aten.sin.default, aten.cos.default, aten.erf.default, aten.round.default, aten.floor.default, aten.ceil.default,
    aten.pow.Tensor_Scalar,
}  # fmt: skip
# Of two values, or of one and a constant or a number.
_BINARY = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default,
    aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar,
}  # fmt: skip
# Each plane from itself: what a constant plane becomes is the same constant, padding apart.
_PLANEWISE = {
    aten.max_pool1d.default, aten.max_pool2d.default, aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default, aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec,
    aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default, aten.reflection_pad1d.default, aten.reflection_pad2d.default,
    aten.replication_pad1d.default, aten.replication_pad2d.default,
}  # fmt: skip
_AVERAGES = {aten.avg_pool1d.default, aten.avg_pool2d.default}
_RESHAPES = {aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims, aten.squeeze.dim}


@dataclass(frozen=True)
class _Channels:
    """The channels of a value.

    Attributes:
        axis: Where they lie: 1, or -1 where the last axis may be another.
        segments: The spaces they are of, one after the other.
        repeat: Features a channel, more than one where a map was flattened.
        known: Which are constant over batch and positions.
        values: What those are.
    """

    axis: int
    segments: tuple[int, ...]
    repeat: int
    known: Tensor
    values: Tensor

    def like(self, known: Tensor, values: Tensor) -> _Channels:
        return _Channels(self.axis, self.segments, self.repeat, known, values)


@dataclass
class _Space:
    """Channels that live or die together, and which of them no reader would miss."""

    size: int
    free: Tensor
    pinned: bool = False
    makers: list[str] = field(default_factory=list)
    height: int = 1
    """Rows of its layers, or columns of their readers, that are stored together, and so go together."""


@dataclass(frozen=True)
class _Cut:
    """A tensor with an entry a channel: argument `at` of a call, along `axis`, `repeat` entries a channel."""

    node: fx.Node
    at: int
    axis: int
    segments: tuple[int, ...]
    repeat: int = 1


def drop_channels(program: Program) -> Program:
    """Takes channels out until none is left that may go; what they added to their readers goes into the biases."""
    removed: dict[str, int] = {}
    while _Follower(program).drop(removed):
        pass
    if removed:
        what = ", ".join(f"{count} of {name}" for name, count in removed.items())
        program.notes.append(f"channels that are zero, or that nothing reads, were taken out: {what}")
    return program


class _Follower:
    """Follows the channels of a program once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.spaces: list[_Space] = []
        self.parent: list[int] = []
        self.values: dict[fx.Node, _Channels] = {}
        self.cuts: list[_Cut] = []
        # Layers that read channels, and what they read.
        self.readers: list[tuple[fx.Node, _Channels]] = []
        self.shared = self._shared()
        for node in program.graph.nodes:
            value = self._follow(node) if node.op == "call_function" else None
            if value is not None:
                self.values[node] = value
            elif node.op == "output" or (node.op == "call_function" and _tensors(node)):
                for source in node.all_input_nodes:
                    self._pin(source)

    # -- what may go ---------------------------------------------------------------------------------------------------

    def drop(self, removed: dict[str, int]) -> bool:
        """Takes out what may go, and counts it by the layer that made it; False where nothing may."""
        for node, x in self.readers:
            self._ask(node, x)
        keep: dict[int, Tensor] = {}
        for i in {self._root(i) for i in range(len(self.spaces))}:
            space = self.spaces[i]
            # To lose one row of a stack would part those below it, and so with fours of columns.
            stacks = torch.ones(-(-space.size // space.height) * space.height, dtype=torch.bool)
            stacks[: space.size] = space.free
            whole = stacks.reshape(-1, space.height).all(1)
            space.free = space.free & whole.repeat_interleave(space.height)[: space.size]
            if space.pinned or not space.free.any():
                continue
            index = (~space.free).nonzero().flatten()
            # A layer without outputs is none.
            keep[i] = index if len(index) else torch.zeros(1, dtype=torch.int64)
            if len(keep[i]) == space.size:
                del keep[i]
                continue
            for name in space.makers:
                removed[name] = removed.get(name, 0) + space.size - len(keep[i])
        if not keep:
            return False
        for node, x in self.readers:
            self._fold(node, x, keep)
        self._cut(keep)
        return True

    def _ask(self, node: fx.Node, x: _Channels) -> None:
        """Marks the channels that a reader would miss: those with weights that multiply what is not constant."""
        unread = (self._columns(node, x) == 0).flatten(2).all(2).all(0)
        at = 0
        foldable = x.known & x.values.isfinite() & ((x.values == 0) | (not _pads(node)))
        for i in map(self._root, x.segments):
            space = self.spaces[i]
            part = slice(at, at + space.size)
            space.free = space.free & (unread[part] | foldable[part])
            at += space.size

    def _fold(self, node: fx.Node, x: _Channels, keep: dict[int, Tensor]) -> None:
        """Adds to a reader's bias what constant channels that go have added to its sums."""
        stays = torch.zeros(len(x.known), dtype=torch.bool)
        stays[self._kept(x.segments, keep)] = True
        gone = ~stays & x.known & (x.values != 0)
        if not gone.any():
            return
        columns = self._columns(node, x).double().flatten(2).sum(2)
        added = columns[:, gone] @ x.values[gone].double()
        bias = self.program.constant(node.args[_BIAS])
        total = added if bias is None else bias.double() + added
        name = f"{str(node.args[_WEIGHT].target).rpartition('.')[0]}.bias".lstrip(".")
        node.update_arg(_BIAS, self.program.add_constant(name, total.float(), before=node))

    def _columns(self, node: fx.Node, x: _Channels) -> Tensor:
        """A reader's weight as (m, channels, weights a channel)."""
        weight = self.program.weight(node)
        return weight.reshape(weight.shape[0], len(x.known), -1)

    def _cut(self, keep: dict[int, Tensor]) -> None:
        program = self.program
        indices: dict[tuple[fx.Node, int], list[tuple[int, Tensor]]] = {}
        for cut in self.cuts:
            if any(self._root(i) in keep for i in cut.segments):
                index = self._kept(cut.segments, keep, cut.repeat)
                indices.setdefault((cut.node, cut.at), []).append((cut.axis, index))
        for (node, at), selections in indices.items():
            old = node.args[at]
            value = program.constant(old)
            if value is None:
                continue
            integers = program.integers.get(old.target)
            for axis, index in selections:
                value = value.index_select(axis, index)
                integers = None if integers is None else integers.index_select(axis, index)
            made = program.add_constant(old.target, value, before=node)
            made.meta.update({k: v for k, v in old.meta.items() if k != "val"})
            made.meta.setdefault("whole", program.constant(old).numel())
            if integers is not None:
                program.integers[made.target] = integers
            if at == _WEIGHT and _depthwise(node):
                node.update_arg(_GROUPS, value.shape[0])
            node.update_arg(at, made)
        for node, channels in self.values.items():
            if any(self._root(i) in keep for i in channels.segments):
                self._resize(node, channels, len(self._kept(channels.segments, keep, channels.repeat)))

    def _resize(self, node: fx.Node, channels: _Channels, size: int) -> None:
        """Tells a node how many features its value now has."""
        known = node.meta["val"]
        old = known[0] if isinstance(known, (tuple, list)) else known
        shape = list(old.shape)
        shape[channels.axis] = size
        made = old.new_empty(shape)
        node.meta["val"] = (made, *known[1:]) if isinstance(known, (tuple, list)) else made
        if node.target is aten.reshape.default and node.args[1][channels.axis] != -1:
            sizes = list(node.args[1])
            sizes[channels.axis] = size
            node.update_arg(1, sizes)

    # -- spaces --------------------------------------------------------------------------------------------------------

    def _root(self, space: int) -> int:
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def _new(self, size: int, maker: str) -> tuple[int, ...]:
        self.spaces.append(_Space(size, torch.ones(size, dtype=torch.bool), makers=[maker]))
        self.parent.append(len(self.parent))
        return (len(self.parent) - 1,)

    def _pin(self, source: fx.Node) -> None:
        if source in self.values:
            for i in self.values[source].segments:
                self.spaces[self._root(i)].pinned = True

    def _unite(self, a: _Channels, b: _Channels) -> bool:
        """Makes one of the spaces of two values that are combined channel by channel."""
        left, right = ([self._root(i) for i in v.segments] for v in (a, b))
        if [self.spaces[i].size for i in left] != [self.spaces[i].size for i in right]:
            return False
        for i, j in zip(a.segments, b.segments, strict=True):
            x, y = self._root(i), self._root(j)
            if x != y:
                self.parent[y] = x
                self.spaces[x].pinned |= self.spaces[y].pinned
                self.spaces[x].makers += self.spaces[y].makers
                self.spaces[x].height = max(self.spaces[x].height, self.spaces[y].height)
        return True

    def _kept(self, segments: tuple[int, ...], keep: dict[int, Tensor], repeat: int = 1) -> Tensor:
        """Indices that stay along an axis of those channels."""
        parts, at = [], 0
        for i in map(self._root, segments):
            size = self.spaces[i].size
            parts.append(keep.get(i, torch.arange(size)) + at)
            at += size
        return (torch.cat(parts)[:, None] * repeat + torch.arange(repeat)).flatten()

    def _shared(self) -> set[int]:
        """The places in memory of tensors that several calls read: a weight that is shared is kept as it is."""
        uses: Counter[int] = Counter()
        for node in self.program.graph.nodes:
            value = self.program.constant(node)
            if value is not None and value.numel():
                uses[_place(value)] += len(node.users)
        return {place for place, count in uses.items() if count > 1}

    # -- each operation ------------------------------------------------------------------------------------------------

    def _follow(self, node: fx.Node) -> _Channels | None:
        """The channels of a call's value; None where they are not followed, and those of its inputs have to stay."""
        target, args = node.target, arguments(node)
        if target is gossamer.conv.default or target is gossamer.linear.default:
            return self._layer(node)
        if target is aten.cat.default:
            return self._cat(node)
        if target in _BINARY:
            return self._binary(node)
        x = self.values.get(args[0]) if args and isinstance(args[0], fx.Node) else None
        if x is None:
            return None
        if target is _NORM:
            return self._norm(node, x)
        if is_getitem(node, 0) and args[0].target is _NORM:
            return x
        if any(isinstance(a, fx.Node) for a in args[1:]):
            return self._reshape(node, x) if target in _RESHAPES else None
        if target in _ELEMENTWISE:
            return x.like(x.known, node.target(x.values, *node.args[1:], **node.kwargs))
        if target in _RESHAPES:
            return self._reshape(node, x)
        if x.axis != 1:
            return None
        if target in _PLANEWISE:
            return x
        if target in _AVERAGES:
            # Padding counts as zeros, or not at all; a divisor of the caller's is neither.
            plain = not any(args[3]) and (len(args) < 7 or args[6] is None)
            return x.like(x.known & ((x.values == 0) | plain), x.values)
        if target is aten.constant_pad_nd.default and len(args[1]) <= 2 * (len(shape_of(node)) - 2):
            return x.like(x.known & (x.values == args[2]), x.values)
        if target is aten.mean.dim:
            return self._mean(node, x, args)
        return None

    def _layer(self, node: fx.Node) -> _Channels | None:
        if node.args[3] is not None or node.args[-2] or node.args[-1]:
            return None  # finishes a residual or an activation already
        program, weight, name = self.program, self.program.weight(node), module_path(node) or node.name
        if _place(weight) in self.shared or not weight.numel():
            return None
        x = self.values.get(node.args[_X])
        bias = program.constant(node.args[_BIAS])
        constant = weight.new_zeros(weight.shape[0]) if bias is None else bias
        silent = (weight == 0).flatten(1).all(1)
        convolves = node.target is gossamer.conv.default
        if convolves and _depthwise(node):
            if x is None:
                return None
            through = x.known & ((x.values == 0) | (not _pads(node)))
            sums = weight.flatten(1).double().sum(1) * torch.where(through, x.values, 0).double()
            value = torch.where(silent, constant, (sums + constant.double()).float())
            return self._along(node, x.like(silent | through, value), (_WEIGHT, _BIAS))
        if convolves and node.args[_GROUPS] != 1:
            return None
        if x is not None:
            reads = x.axis == (1 if convolves else -1) or len(shape_of(node.args[_X])) == 2
            if not reads or len(x.known) * x.repeat != weight.shape[1]:
                return None
            self.cuts.append(_Cut(node, _WEIGHT, 1, x.segments, x.repeat))
            self.readers.append((node, x))
            if _in_fours(weight, x.repeat * weight.shape[2:].numel()):
                for i in map(self._root, x.segments):
                    self.spaces[i].height = max(self.spaces[i].height, 4)
        segments = self._new(weight.shape[0], name)
        self.spaces[segments[0]].height = _height(weight)
        made = _Channels(1 if convolves else -1, segments, 1, silent, constant)
        return self._along(node, made, (_WEIGHT, _BIAS))

    def _along(self, node: fx.Node, value: _Channels, places: tuple[int, ...]) -> _Channels:
        """Notes the arguments that have an entry a channel."""
        for at in places:
            if node.args[at] is not None:
                self.cuts.append(_Cut(node, at, 0, value.segments))
        return value

    def _norm(self, node: fx.Node, x: _Channels) -> _Channels | None:
        affine = scale_and_shift(self.program, node)
        if affine is None or x.repeat != 1 or (x.axis == -1 and len(shape_of(node.args[0])) != 2):
            return None
        value = (x.values.double() * affine[0] + affine[1]).float()
        return self._along(node, x.like(x.known, value), (1, 2, 3, 4))

    def _reshape(self, node: fx.Node, x: _Channels) -> _Channels | None:
        """A map flattened, or features as a map of one pixel: the batch stays the first axis."""
        old, new = shape_of(node.args[0]), shape_of(node)
        if len(old) < 2 or len(new) < 2 or old[0] != new[0] or (x.axis == -1 and len(old) != 2):
            return None
        if x.repeat == 1 and len(new) > 2 and old[1] == new[1]:
            return _Channels(1, x.segments, 1, x.known, x.values)
        if len(new) == 2 and all(isinstance(size, int) for size in old[1:]):
            repeat = math.prod(old[2:]) * x.repeat
            if new[1] == len(x.known) * repeat:
                return _Channels(-1, x.segments, repeat, x.known, x.values)
        return None

    def _mean(self, node: fx.Node, x: _Channels, args: list[Any]) -> _Channels | None:
        rank = len(shape_of(node.args[0]))
        if {axis % rank for axis in args[1] or []} != set(range(2, rank)):
            return None
        return _Channels(1 if args[2] else -1, x.segments, 1, x.known, x.values)

    def _cat(self, node: fx.Node) -> _Channels | None:
        tensors, axis = arguments(node)
        values = [self.values.get(t) for t in tensors]
        if any(v is None or v.axis != values[0].axis or v.repeat != 1 for v in values):
            return None
        rank = len(shape_of(node))
        if axis % rank != values[0].axis % rank:
            return None
        segments = tuple(i for v in values for i in v.segments)
        known, numbers = (torch.cat([getattr(v, name) for v in values]) for name in ("known", "values"))
        return _Channels(values[0].axis, segments, 1, known, numbers)

    def _binary(self, node: fx.Node) -> _Channels | None:
        a, b = node.args[:2]
        x, y = (self.values.get(v) if isinstance(v, fx.Node) else None for v in (a, b))
        if x is not None and y is not None:
            if len(shape_of(a)) != len(shape_of(b)) or (x.axis, x.repeat) != (y.axis, y.repeat):
                return None
            known, values = x.known & y.known, node.target(x.values, y.values, *node.args[2:], **node.kwargs)
            if node.target is aten.mul.Tensor:
                # A zero times whatever it meets.
                still = (x.known & (x.values == 0)) | (y.known & (y.values == 0))
                known, values = known | still, torch.where(still, 0.0, values)
            return x.like(known, values) if self._unite(x, y) else None
        value, other = (x, b) if x is not None else (y, a)
        if value is None:
            return None
        numbers, at = other, 1 if x is not None else 0
        if isinstance(other, fx.Node):
            numbers = self.program.constant(other)
            if numbers is None:
                return None
            if numbers.numel() != 1:
                rank, axis = len(shape_of(node)), value.axis % len(shape_of(node))
                shape = [1] * (rank - numbers.dim()) + list(numbers.shape)
                if value.repeat != 1 or shape != [len(value.known) if i == axis else 1 for i in range(rank)]:
                    return None
                self.cuts.append(_Cut(node, at, axis - rank + numbers.dim(), value.segments))
            elif numbers.dim() > len(shape_of(a if x is not None else b)):
                return None
            numbers = numbers.flatten()
        pair = (value.values, numbers) if x is not None else (numbers, value.values)
        return value.like(value.known, node.target(*pair, *node.args[2:], **node.kwargs))


def _tensors(node: fx.Node) -> bool:
    """Whether a call makes tensors; one that makes sizes reads no channels."""
    known = node.meta.get("val")
    return any(isinstance(v, Tensor) for v in (known if isinstance(known, (tuple, list)) else [known]))


def _place(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _height(weight: Tensor) -> int:
    """Rows of a weight that have their non-zeros in the same columns, as the file's writer finds them."""
    there = weight.flatten(1) != 0
    there = there[:, there.any(0)]
    count = int(there.sum())
    # Where rows or columns are full or empty it is no pattern.
    if count * 2 > int(there.any(1).sum()) * there.shape[1]:
        return 1
    for height in (height for height in (16, 4, 2) if height <= there.shape[0]):
        m = there.shape[0] // height * height
        stacks = there[:m].reshape(m // height, height, -1).any(1)
        stored = height * int(stacks.sum()) + height * int(there[m:].any(0).sum())
        if count * 10 >= stored * 9:
            return height
    return 1


def _in_fours(weight: Tensor, columns: int) -> bool:
    """Whether non-zeros lie in fours of columns, as the file's writer finds them, that a lost channel would part."""
    there = weight.flatten(1) != 0
    if there.shape[1] % 4 or columns % 4 == 0:
        return False
    fours = there.unflatten(1, (-1, 4)).any(2)
    count = int(there.sum())
    full, whole = int(there.any(0).sum()) * int(there.any(1).sum()), 4 * int(fours.sum())
    return count * 2 <= full and count * 10 >= whole * 9


def _pads(node: fx.Node) -> bool:
    """Whether a layer also sums zeros around its input."""
    return node.target is gossamer.conv.default and any(node.args[_PADDING])


def _depthwise(node: fx.Node) -> bool:
    if node.target is not gossamer.conv.default:
        return False
    weight = node.args[_WEIGHT].meta["val"].shape
    groups = node.args[_GROUPS]
    return groups > 1 and weight[1] == 1 and weight[0] == groups
