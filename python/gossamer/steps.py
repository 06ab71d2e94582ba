"""How torch's operators compute on steps: uint8 numbers of which each stands for a real one.

For an operator of torch and the grids of what it reads and makes, the call of the integer operator (`ops_i8`) that
computes the same. Whoever quantizes a network, or finds one quantized, decides on the grids; this is common to both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from . import ops, ops_i8
from .program import arguments, shape_of

aten = torch.ops.aten
gossamer = torch.ops.gossamer

# What is called, and with which arguments.
Call = tuple[Any, tuple[Any, ...]]

LAYERS = {gossamer.conv.default, gossamer.linear.default}

# Activations that are a clamp of the output, by name; with their own parameters where None.
CLAMPS: dict[str, tuple[float, float] | None] = {
    "": (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "hardtanh": None,
}

# torch's own op for each activation of `ops.ACTIVATIONS`, its parameters in the same order.
ATEN: dict[str, Any] = {
    "relu": aten.relu.default,
    "relu6": aten.relu6.default,
    "silu": aten.silu.default,
    "sigmoid": aten.sigmoid.default,
    "tanh": aten.tanh.default,
    "hardswish": aten.hardswish.default,
    "hardsigmoid": aten.hardsigmoid.default,
    "gelu": aten.gelu.default,
    "gelu_tanh": aten.gelu.default,
    "elu": aten.elu.default,
    "selu": aten.selu.default,
    "celu": aten.celu.default,
    "leaky_relu": aten.leaky_relu.default,
    "mish": aten.mish.default,
    "softplus": aten.softplus.default,
    "log_sigmoid": aten.log_sigmoid.default,
    "hardshrink": aten.hardshrink.default,
    "softshrink": aten.softshrink.default,
    "threshold": aten.threshold.default,
    "hardtanh": aten.hardtanh.default,
}

# Each element of the output is one of the first argument, whatever its type.
MOVES = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.clone.default,
}
MAX_POOLS = {aten.max_pool1d.default, aten.max_pool2d.default}
AVG_POOLS = {aten.avg_pool1d.default, aten.avg_pool2d.default}
ADAPTIVE = {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
MEANS = AVG_POOLS | ADAPTIVE | {aten.mean.dim}
# Padding: its mode, where the op does not take one.
PADS = {
    aten.constant_pad_nd.default: "constant",
    aten.pad.default: "",
    aten.reflection_pad1d.default: "reflect",
    aten.reflection_pad2d.default: "reflect",
    aten.replication_pad1d.default: "replicate",
    aten.replication_pad2d.default: "replicate",
}
# Resizing: its kind in the file.
RESIZES = {
    getattr(getattr(aten, f"{name}{n}d"), overload): kind
    for name, kind, ranks in (
        ("upsample_nearest", "nearest", (1, 2)),
        ("_upsample_nearest_exact", "nearest_exact", (1, 2)),
        ("upsample_linear", "linear", (1,)),
        ("upsample_bilinear", "linear", (2,)),
    )
    for n in ranks
    for overload in ("vec", "default")
}


@dataclass(frozen=True)
class Grid:
    """The reals that a uint8 value stands for: `(q - zero_point) · scale`."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, lo: float, hi: float) -> Grid:
        """256 steps from `min(lo, 0)` to `max(hi, 0)`, zero among them."""
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        scale = single((hi - lo) / 255)
        if scale < ops_i8.SMALLEST_SCALE:
            return cls(1.0, 0)
        return cls(scale, min(max(round(-lo / scale), 0), 255))

    def step(self, real: float) -> int:
        """The step nearest a real number, within the grid."""
        if math.isinf(real):
            return 0 if real < 0 else 255
        return min(max(round(real / self.scale) + self.zero_point, 0), 255)

    def reals(self) -> Tensor:
        """What each of the 256 steps stands for."""
        return ops_i8.dequantize(torch.arange(256, dtype=torch.uint8), self.scale, self.zero_point)

    def steps(self, reals: Tensor) -> Tensor:
        """The step nearest each real number, uint8."""
        return ops_i8.quantize(reals, self.scale, self.zero_point)


def single(value: float) -> float:
    """A number as float32 holds it."""
    return torch.tensor(value, dtype=torch.float64).to(torch.float32).item()


def in_units(scale: Tensor, bias: Tensor | None, unit: float) -> tuple[Tensor, Tensor]:
    """What a layer multiplies its sums by, (m,) float64, and adds, in units of its output, float32."""
    factors = (scale / unit).to(torch.float32)
    addends = torch.zeros(len(scale)) if bias is None else (bias.to(torch.float64) / unit).to(torch.float32)
    return factors, addends


def activated(y: fx.Node, activation: str, params: Sequence[float]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Torch's own call of an activation."""
    return ATEN[activation], (y, *params), {"approximate": "tanh"} if activation == "gelu_tanh" else {}


def table(grid: Grid, to: Grid, activation: str = "", params: Sequence[float] = ()) -> Tensor:
    """A function of one number, from steps to steps, as its 256 values."""
    return to.steps(ops.activate(grid.reals(), activation, params))


def added(a: fx.Node, a_grid: Grid, b: fx.Node, b_grid: Grid, unit: float, output: Sequence[int]) -> Call:
    """A sum, stored in units of `unit`."""
    terms = (single(a_grid.scale / unit), a_grid.zero_point, single(b_grid.scale / unit), b_grid.zero_point)
    return gossamer.add_i8.default, (a, b, *terms, *output)


def multiplied(a: fx.Node, a_grid: Grid, b: fx.Node, b_grid: Grid, unit: float, output: Sequence[int]) -> Call:
    """A product, stored in units of `unit`."""
    scale = single(a_grid.scale * b_grid.scale / unit)
    return gossamer.mul_i8.default, (a, b, a_grid.zero_point, b_grid.zero_point, scale, *output)


def padding(node: fx.Node) -> tuple[str, float]:
    """The mode of padding, and what is put there if that is constant."""
    _, _, *rest = arguments(node)
    if node.target is aten.pad.default:
        return rest[0], float(rest[1] or 0)
    return PADS[node.target], float(rest[0] or 0) if rest else 0.0


def padded(node: fx.Node, x: fx.Node, grid: Grid) -> Call:
    """Padding of steps."""
    mode, value = padding(node)
    return gossamer.pad_i8.default, (x, arguments(node)[1], mode, grid.step(value))


def resizing(node: fx.Node) -> tuple[Any, list[float] | None, bool]:
    """The sizes that are asked for, or how much larger it gets, or both; and whether corners stay."""
    _, sizes, *rest = arguments(node)
    corners = rest.pop(0) if RESIZES[node.target] == "linear" else False
    given = rest[0] if "vec" in str(node.target) else rest
    known = given is not None and all(scale is not None for scale in given)
    return sizes, list(given) if known else None, corners


def resized(node: fx.Node, x: fx.Node) -> Call:
    """Resizing of steps, to the same grid."""
    sizes, scales, corners = resizing(node)
    return gossamer.resize_i8.default, (x, sizes, scales, RESIZES[node.target], corners)


def max_pooled(node: fx.Node, x: fx.Node) -> Call:
    """The largest of each window, to the same grid."""
    _, kernel, stride, pads, dilation, ceil_mode = arguments(node)
    rank = len(shape_of(node)) - 2
    window = (_spread(kernel, rank), _spread(stride or kernel, rank), _both(pads, rank), _spread(dilation, rank))
    return gossamer.max_pool_i8.default, (x, *window, ceil_mode)


def averaged(node: fx.Node, x: fx.Node, grid: Grid, to: Grid) -> Call:
    """The mean of each window, or over axes."""
    _, *args = arguments(node)
    rank = len(shape_of(node)) - 2
    numbers = (grid.zero_point, single(grid.scale / to.scale), [to.zero_point, 0, 255])
    if node.target in AVG_POOLS:
        kernel, stride, pads, ceil_mode, count_include_pad, *divisor = args
        window = (_spread(kernel, rank), _spread(stride or kernel, rank), _both(pads, rank))
        rest = (ceil_mode, count_include_pad, divisor[0] if divisor else None)
        return gossamer.avg_pool_i8.default, (x, *window, *rest, *numbers)
    if node.target in ADAPTIVE:
        return gossamer.adaptive_avg_pool_i8.default, (x, _spread(args[0], rank), *numbers)
    axes, keepdim, _ = args
    return gossamer.mean_i8.default, (x, list(axes), keepdim, *numbers)


def keeps_grid(node: fx.Node) -> bool:
    """Whether the steps of a node's value stand for what those of its first argument do."""
    if node.target in PADS:
        return padding(node)[1] == 0
    return node.target in MOVES | MAX_POOLS or node.target in RESIZES


def takes_steps(node: fx.Node) -> bool:
    """Whether there is an integer operator for a call of `PADS`, `RESIZES`, `MAX_POOLS` or `MEANS`."""
    if node.target in PADS:
        mode, value = padding(node)
        return mode != "constant" or math.isfinite(value)
    if node.target in RESIZES:
        _, scales, _ = resizing(node)
        return scales is None or all(isinstance(scale, int | float) for scale in scales)
    if node.target is aten.mean.dim:
        _, axes, _, dtype = arguments(node)
        return bool(axes) and dtype in (None, torch.float32)
    return len(shape_of(node)) == (3 if "1d" in str(node.target) else 4)


def _spread(value: int | Sequence[int], rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _both(pads: int | Sequence[int], rank: int) -> list[int]:
    """Padding on both sides of each dimension."""
    return [side for p in _spread(pads, rank) for side in (p, p)]
