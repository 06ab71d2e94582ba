"""One table of small models, at least one for each op: test_ops.py compares them with torch, test_sync.py counts."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer
from gossamer import compress, converter, passes
from gossamer.program import Program


@dataclass
class Case:
    """A model, made anew with seeded weights, and the inputs it is shown.

    Attributes:
        make: Makes the module.
        inputs: Makes its inputs for a batch size.
        batches: What it is run with, after a conversion with the first.
        options: For `convert`.
        exact: Whether the file gives the bits that torch gives, as integer networks do.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    batches: Sequence[int] = (2, 1, 5)
    options: dict[str, Any] = field(default_factory=dict)
    exact: bool = False


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


CASES: dict[str, Case] = {}


def add(name: str, make: Callable[..., Any], *shapes: Any, **more: Any) -> None:
    """Adds a case: a function, or what makes a module; shapes are those of the inputs without the batch."""
    assert name not in CASES, name
    module = isinstance(make, type | functools.partial)

    def inputs(n: int) -> tuple[Tensor, ...]:
        return tuple(s(n) if callable(s) else torch.randn(n, *s) for s in shapes)

    CASES[name] = Case(make if module else lambda: Fn(make), inputs, **more)


def ids(*shape: int, high: int = 10) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(0, high, (n, *shape))


def positive(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.rand(n, *shape) + 0.1


def flags(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.rand(n, *shape) > 0.5


def whole(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(-9, 9, (n, *shape))


part = functools.partial

# -- layers ----------------------------------------------------------------------------------------------------------

for kernel, stride, padding, dilation, groups in [
    (1, 1, 0, 1, 1),
    (3, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (3, 1, 2, 2, 2),
    (5, 2, 0, 1, 4),
    ((1, 3), (2, 1), (0, 1), (1, 2), 1),
]:
    name = f"conv2d k{kernel} s{stride} p{padding} d{dilation} g{groups}"
    add(name, part(nn.Conv2d, 8, 12, kernel, stride, padding, dilation, groups), (8, 13, 11))
add("conv2d no bias", part(nn.Conv2d, 3, 5, 3, bias=False), (3, 9, 9))
add("conv2d same", part(nn.Conv2d, 3, 5, (4, 3), padding="same"), (3, 9, 9))
add("conv2d valid", part(nn.Conv2d, 3, 5, 3, padding="valid"), (3, 9, 9))
add("conv2d reflect", part(nn.Conv2d, 3, 5, 3, padding=1, padding_mode="reflect"), (3, 9, 9))
add("conv2d circular", part(nn.Conv2d, 3, 5, 3, padding=1, padding_mode="circular"), (3, 9, 9))
add("conv2d one image", part(nn.Conv2d, 3, 5, 3), lambda n: torch.randn(3, 9, 9), batches=(1,))
add("conv2d depthwise", part(nn.Conv2d, 6, 6, 3, padding=1, groups=6), (6, 9, 10))
add("conv2d depthwise stride", part(nn.Conv2d, 6, 6, 5, 2, 2, groups=6), (6, 11, 9))
add("conv2d depthwise multiplied", part(nn.Conv2d, 4, 8, 3, groups=4), (4, 9, 9))
add("conv2d padded unevenly", lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3, 2)), (3, 9, 9))
CASES["conv2d padded unevenly"].make = lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3, 2))
add("conv1d", part(nn.Conv1d, 4, 6, 3, 2, 1), (4, 17))
add("conv1d dilated groups", part(nn.Conv1d, 4, 6, 3, dilation=3, groups=2), (4, 17))
add("conv1d depthwise", part(nn.Conv1d, 6, 6, 3, groups=6), (6, 17))
add("linear", part(nn.Linear, 37, 19), (37,))
add("linear no bias", part(nn.Linear, 37, 19, bias=False), (37,))
add("linear of a sequence", part(nn.Linear, 12, 7), (5, 12))
add("linear 4-D", part(nn.Linear, 12, 7), (3, 5, 12))
add("embedding", part(nn.Embedding, 10, 6), ids(4))
add("matmul", lambda a, b: a @ b, (3, 4), (4, 5))
add("matmul heads", lambda a, b: a @ b.transpose(-1, -2), (2, 3, 4), (2, 5, 4))
add("matmul broadcast", lambda a, b: torch.matmul(a[:, None], b), (3, 4), (2, 4, 5))
add("matmul vector", lambda a, b: torch.matmul(a, b[0, 0]), (3, 4), (2, 4))
add("bmm", torch.bmm, (3, 4), (4, 5))
add("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b), (3, 4), (5, 4))
add("baddbmm", torch.baddbmm, (3, 5), (3, 4), (4, 5))
add("attention", F.scaled_dot_product_attention, (2, 5, 8), (2, 7, 8), (2, 7, 8))
add("attention causal", part(lambda: Fn(part(F.scaled_dot_product_attention, is_causal=True))), *[(2, 5, 8)] * 3)
add("attention mask", F.scaled_dot_product_attention, (2, 5, 8), (2, 5, 8), (2, 5, 8), (1, 5, 5))
add("attention flags", F.scaled_dot_product_attention, *[(2, 5, 8)] * 3, lambda n: torch.ones(n, 1, 5, 5).tril() > 0)


class Heads(nn.Module):
    """torch's own attention layer."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.weights, self.inner = weights, nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, x, x, need_weights=self.weights)[: 2 if self.weights else 1]


add("multihead attention", part(Heads, False), (5, 12))
add("multihead attention weights", part(Heads, True), (5, 12))
add("transformer layer", part(nn.TransformerEncoderLayer, 12, 3, 24, batch_first=True), (5, 12))

# -- functions of one variable ---------------------------------------------------------------------------------------

for module in (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.GELU, part(nn.GELU, "tanh"),
    nn.ELU, part(nn.ELU, 0.5), nn.SELU, nn.CELU, part(nn.CELU, 0.5), nn.LeakyReLU, part(nn.LeakyReLU, 0.2), nn.Mish,
    nn.Softplus, part(nn.Softplus, 2, 5), nn.LogSigmoid, nn.Hardtanh, part(nn.Hardtanh, -2, 0.5), nn.Softsign,
    nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, part(nn.Threshold, 0.1, 2.0), nn.PReLU, part(nn.PReLU, 3),
):  # fmt: skip
    given = module.args if isinstance(module, functools.partial) else ()
    name = (module.func if isinstance(module, functools.partial) else module).__name__
    add(" ".join(map(str, (name, *given))), module, (3, 7, 5))
for function in (
    torch.abs, torch.ceil, torch.cos, torch.erf, torch.exp, torch.expm1, torch.floor, torch.neg, torch.round,
    torch.sign, torch.sin, torch.square, torch.trunc, torch.frac, torch.tan, torch.atan, torch.sinh, torch.cosh,
    torch.asinh, torch.exp2,
):  # fmt: skip
    add(function.__name__, function, (3, 7))
for function in (torch.log, torch.log1p, torch.log2, torch.log10, torch.sqrt, torch.rsqrt, torch.reciprocal):
    add(function.__name__, function, positive(3, 7))
add(
    "inverse sines",
    lambda x: (torch.asin(x / 2), torch.acos(x / 2), torch.atanh(x / 2), torch.acosh(x + 1)),
    positive(5),
)
add("clamp", lambda x: x.clamp(-0.5, 0.7), (3, 7))
add("clamp below", lambda x: x.clamp(min=-0.5), (3, 7))
add("clamp above", lambda x: x.clamp(max=0.5), (3, 7))
add("clamp integers", lambda x: x.clamp(-2, 3), whole(7))
add("abs and sign of integers", lambda x: (x.abs(), -x, x.sign(), x.relu()), whole(7))
for exponent in (2, 3, 0.5, -0.5, -1, 1.7):
    add(f"power {exponent}", part(lambda e: Fn(lambda x: x**e), exponent), positive(3, 7))
add("spelled silu", lambda x: x * torch.sigmoid(x), (3, 7))
add("spelled hardswish", lambda x: x * F.relu6(x + 3) / 6, (3, 7))
add("spelled hardsigmoid", lambda x: F.relu6(x + 3) / 6, (3, 7))
add("spelled mish", lambda x: x * torch.tanh(F.softplus(x)), (3, 7))
add("casts", lambda x: (x.to(torch.int64), x.to(torch.int32), x > 0, (x * 3).long().float(), (x > 0).float()), (3, 7))

# -- functions of two ------------------------------------------------------------------------------------------------

for function in (torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.atan2):
    add(function.__name__, function, (3, 7), (3, 7))
add("broadcasting", lambda a, b: (a + b, a - b[:, :1], b * a, a / (b.abs() + 1)), (3, 4, 5), (1, 1, 5))
add("channels", lambda a, b: a * b, (3, 4, 5), (3, 1, 1))
add("numbers", lambda x: (x + 1, 2 - x, x * 0.5, x / 3, 1 / (x + 10), torch.add(x, x, alpha=0.3)), (3, 7))
add("remainders", lambda x: (x % 2, torch.remainder(x, 0.7), torch.div(x, 2, rounding_mode="floor"), x // 2), (3, 7))
add("powers", torch.pow, positive(3, 7), (3, 7))
add("power of a number", lambda x: 2.5**x, (3, 7))
add("comparisons", lambda a, b: (a == b, a != b, a < b, a <= b, a > b, a >= b, a > 0.3), (3, 7), (3, 7))
add("logic", lambda a, b: (a & b, a | b, a ^ b, ~a, torch.logical_and(a, b), torch.logical_not(a)), flags(9), flags(9))
add("integers", lambda a, b: (a + b, a - b, a * b, a // (b.abs() + 1), a % 5, a / 2, a.float() + b), whole(9), whole(9))
add("int32", lambda x: (x.to(torch.int32) + 1) * 2, whole(9))
add("where", lambda a, b: torch.where(a > b, a, b * 2), (3, 7), (3, 7))
add("where number", lambda a: torch.where(a > 0, a, 0.25), (3, 7))
add("masked fill", lambda a, m: a.masked_fill(m, -3.0), (3, 7), flags(1, 7))
add("gate", part(nn.GLU, 1), (6, 5))

# -- pools and norms -------------------------------------------------------------------------------------------------

for kernel, more in [
    (2, {}),
    (3, {"stride": 2, "padding": 1}),
    ((2, 3), {"stride": (1, 2)}),
    (3, {"stride": 2, "ceil_mode": True}),
]:
    add(f"max pool {kernel} {more}", part(nn.MaxPool2d, kernel, **more), (3, 11, 10))
    add(f"avg pool {kernel} {more}", part(nn.AvgPool2d, kernel, **more), (3, 11, 10))
add("max pool dilated", part(nn.MaxPool2d, 2, 1, dilation=2), (3, 11, 10))
add("avg pool inside", part(nn.AvgPool2d, 3, 2, 1, count_include_pad=False), (3, 11, 10))
add("avg pool divisor", part(nn.AvgPool2d, 3, 2, 1, divisor_override=5), (3, 11, 10))
add("pools of sequences", lambda x: (F.max_pool1d(x, 3, 2), F.avg_pool1d(x, 3, 2, 1)), (3, 11))
add("pool of one image", lambda x: F.max_pool2d(x, 2), lambda n: torch.randn(3, 8, 8), batches=(1,))
add("adaptive avg pool", part(nn.AdaptiveAvgPool2d, (3, 4)), (3, 11, 10))
add("global avg pool", part(nn.AdaptiveAvgPool2d, 1), (3, 11, 10))
add("global max pool", part(nn.AdaptiveMaxPool2d, 1), (3, 11, 10))
add("adaptive max pool", part(nn.AdaptiveMaxPool2d, (3, None)), (3, 11, 10))
add("adaptive pools of sequences", lambda x: (F.adaptive_avg_pool1d(x, 4), F.adaptive_max_pool1d(x, 4)), (3, 11))


class Used(nn.Module):
    """A norm whose statistics are those of some data."""

    def __init__(self, norm: nn.Module, *shape: int) -> None:
        super().__init__()
        self.norm = norm.train()
        for _ in range(8):
            self.norm(torch.randn(4, *shape) * 2 + 1)
        for parameter in self.norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


add("batch norm 2d", part(lambda: Used(nn.BatchNorm2d(6), 6, 5, 5)), (6, 5, 5))
add("batch norm 1d", part(lambda: Used(nn.BatchNorm1d(6), 6)), (6,))
add("batch norm of sequences", part(lambda: Used(nn.BatchNorm1d(6), 6, 5)), (6, 5))
add("conv batch norm relu", part(lambda: nn.Sequential(
    nn.Conv2d(3, 6, 3, bias=False), Used(nn.BatchNorm2d(6), 6, 5, 5), nn.ReLU())), (3, 9, 9))  # fmt: skip
add("linear batch norm", part(lambda: nn.Sequential(nn.Linear(5, 6), Used(nn.BatchNorm1d(6), 6))), (5,))
add("layer norm", part(lambda: Used(nn.LayerNorm(7), 7)), (5, 7))
add("layer norm 2 axes", part(lambda: Used(nn.LayerNorm((5, 7)), 5, 7)), (3, 5, 7))
add("layer norm plain", part(nn.LayerNorm, 7, elementwise_affine=False), (5, 7))
add("rms norm", part(nn.RMSNorm, 7), (5, 7))
add("group norm", part(lambda: Used(nn.GroupNorm(2, 6), 6, 5, 5)), (6, 5, 5))
add("instance norm", part(lambda: Used(nn.InstanceNorm2d(6, affine=True), 6, 5, 5)), (6, 5, 5))
add("softmax", part(nn.Softmax, -1), (5, 7))
add("softmax of channels", part(nn.Softmax, 1), (5, 7, 3))
add("log softmax", part(nn.LogSoftmax, -1), (5, 7))

# -- reductions ------------------------------------------------------------------------------------------------------

for name in ("sum", "mean", "amax", "amin", "prod", "var", "std", "norm"):
    add(f"reduce {name}", part(lambda name: Fn(lambda x: getattr(x, name)(dim=-1)), name), (4, 5))
for name in ("sum", "mean", "amax", "amin", "var", "std"):
    axes = part(lambda name: Fn(lambda x: getattr(x, name)(dim=(2, 3), keepdim=True)), name)
    add(f"reduce {name} over planes", axes, (4, 5, 3))
add("mean over planes", lambda x: x.mean((2, 3)), (4, 5, 3))
add("reduce all", lambda x: (x.sum(), x.mean(), x.max(), x.min(), x.std()), (4, 5))
add("reduce max with indices unused", lambda x: x.max(1).values, (4, 5))
add("reduce any", lambda x: ((x > 1).any(1), (x > -1).all(1)), (4, 5))
add("reduce uncorrected", lambda x: x.var(1, unbiased=False), (4, 5))
add("reduce integers", lambda x: (x.sum(1), x.amax(1)), whole(9))
add("norms", lambda x: (x.norm(p=1, dim=1), x.norm(p=float("inf"), dim=1), F.normalize(x)), (4, 5))
add("var and mean", lambda x: torch.var_mean(x, 1), (4, 5))
add("logsumexp", lambda x: torch.logsumexp(x, 1), (4, 5))

# -- shapes ----------------------------------------------------------------------------------------------------------

add("flatten", part(nn.Flatten), (3, 4, 5))
add("view", lambda x: (x.view(x.shape[0], -1, 2), x.reshape(-1, 4), x.unflatten(1, (3, 2))), (6, 4))
add("squeezes", lambda x: (x.unsqueeze(1), x[:, None, :, None], x.unsqueeze(-1).squeeze(-1)), (6, 4))
add("permute", lambda x: x.permute(0, 3, 1, 2), (4, 5, 3))
add("transpose", lambda x: x.transpose(1, 3), (4, 5, 3))
add("batch to the end", lambda x: x.permute(1, 2, 0), (4, 5))
add("cat", lambda a, b: torch.cat([a, b, a], 1), (4, 5), (2, 5))
add("cat of channels", lambda a, b: torch.cat([F.relu(a), b], 1), (4, 5, 3), (2, 5, 3))
add("cat of batches", lambda a, b: torch.cat([a, b]), (4,), (4,))
add("stack", lambda a, b: torch.stack([a, b], 1), (4, 5), (4, 5))
add("slices", lambda x: (x[:, 1:3], x[:, ::2], x[:, -2:], x[..., 1], x[:, -1], x[:, 1:-1]), (6, 5))
add("slices of the batch", lambda x: (x[:1], x[-1:]), (4,))
add("splits", lambda x: (*x.split(4, 1), *x.chunk(2, 2), *torch.split(x, [1, 9], 1)), (10, 4))
add("unbind", lambda x: torch.unbind(x, 1), (3, 4))
add("expand", lambda x: (x[:, None].expand(-1, 3, -1), x.unsqueeze(2).expand(-1, -1, 5)), (4,))
add("repeat", lambda x: (x.repeat(1, 3), x.repeat(2, 1, 2)), (4,), batches=(2, 3))
add("repeat interleave", lambda x: x.repeat_interleave(3, 1), (4,))
add("pad", lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=1.5), F.pad(x, (-1, 2, 0, -1))), (5, 6))
add("pad reflect", lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), (3, 5, 6))
add("pad replicate", lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), (3, 5, 6))
add("pixel shuffle", part(nn.PixelShuffle, 2), (8, 3, 4))
add("pixel unshuffle", part(nn.PixelUnshuffle, 2), (2, 6, 4))
add("channel shuffle", part(nn.ChannelShuffle, 2), (8, 3, 4))
add("upsample nearest", part(nn.Upsample, scale_factor=2), (3, 4, 5))
add("flip and roll", lambda x: (x.flip(1), torch.roll(x, 2, 2)), (4, 5))
add("index", lambda x: (x[:, torch.tensor([0, 2, 1])], torch.index_select(x, 2, torch.tensor([3, 1]))), (4, 5))
add(
    "index with computed places",
    lambda x, i: (x[i[0]], x[:, i[0]], F.embedding(i, x[0])),
    (4, 5),
    ids(3, high=4),
    batches=(4,),
)
add("index several axes", lambda x, i: (x[:, i[0], i[0] - 4], x[0, :, i[0]]), (4, 5), ids(3, high=4), batches=(4,))
add("gather", lambda x, i: (x.gather(1, i), x.gather(2, i[:, :, :2])), (4, 5), ids(3, 5, high=4))
add("scatter", lambda x, i: (x.scatter(1, i, 2.0), x.scatter_add(1, i, x[:, :3]), x.long().scatter_add(1, i, i)),
    (4, 5), ids(3, 5, high=4))  # fmt: skip
add("sort", lambda x: (*x.sort(1), *x.sort(2, descending=True), x.argsort(1)), (4, 5))
add("sort integers", lambda x: x.sort(dim=1, stable=True), whole(9))
add("topk", lambda x: (*x.topk(2, 1), *x.topk(5, 2, largest=False), *x.topk(3)), (4, 5))
add("argmax", lambda x: (x.argmax(1), x.argmin(2, keepdim=True), x.argmax(), *x.max(1), *x.min(2)), (4, 5))
add("argmax of integers", lambda x: (x.argmax(1), x.argmin(1)), whole(9))
add("running", lambda x: (x.cumsum(1), x.cumsum(2), x.cumprod(1), x.long().cumsum(1)), (4, 5))
add("pad circular", lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), (3, 5, 6))
add(
    "pad anything",
    lambda x: (F.pad(x, (1, 2), value=7), F.pad(x > 0, (2, 0), value=True), F.pad(x, (0, 0, 1, 1))),
    whole(3, 4),
)
for kind in ("nearest", "nearest-exact", "bilinear", "bicubic"):
    for more in ({"scale_factor": 1.7}, {"size": (3, 11)}):
        mode = {"mode": kind, **more}
        add(f"resize {mode}", part(nn.Upsample, **mode), (3, 5, 7))
        if kind.startswith("bi"):
            mode["align_corners"] = True
            add(f"resize {mode}", part(nn.Upsample, **mode), (3, 5, 7))
add("resize sequences", lambda x: (F.interpolate(x, 9), F.interpolate(x, 9, mode="linear")), (3, 5))
for mode in ("bilinear", "nearest", "bicubic"):
    for outside in ("zeros", "border", "reflection"):
        function = part(F.grid_sample, mode=mode, padding_mode=outside, align_corners=mode == "nearest")
        add(f"grid sample {mode} {outside}", part(lambda f: Fn(f), function), (3, 5, 7), (4, 6, 2))
for kernel, more in [
    (3, {}),
    (3, {"stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 3), {"stride": (3, 1), "dilation": (1, 2), "groups": 2, "bias": False}),
    (4, {"stride": 2, "padding": 1, "groups": 4}),
    (2, {"dilation": 3, "output_padding": 2}),
]:
    add(f"transposed conv {kernel} {more}", part(nn.ConvTranspose2d, 4, 8, kernel, **more), (4, 5, 6))
add("transposed conv of sequences", part(nn.ConvTranspose1d, 4, 6, 3, 2), (4, 9))
add("transposed conv of one image", part(nn.ConvTranspose2d, 4, 6, 3), lambda n: torch.randn(4, 5, 6), batches=(1,))
add("unfold and fold", lambda x: (F.unfold(x, 3, 2, 1, 2), F.fold(F.unfold(x, 2), (9, 8), 2)), (3, 9, 8))
add("conv of a computed weight", lambda x, w: (F.conv2d(x, w[0], padding=1, groups=2),
    F.conv1d(x[:, :, 0], w[0, :, :, 0], groups=2)), (4, 7, 6), (4, 2, 3, 3), batches=(2, 3))  # fmt: skip
add("linear of a computed weight", lambda x, w: F.linear(x, w[0].t(), w[0, :4, 0].repeat(1)[:3]), (5, 4), (4, 3))
add("transposed conv of a computed weight", lambda x, w: F.conv_transpose2d(x, w[:4], stride=2, groups=2),
    (4, 5, 6), (3, 3, 2), batches=(4,))  # fmt: skip
add("linear of a vector", part(nn.Linear, 7, 5), lambda n: torch.randn(7), batches=(1,))
add("matrix times vector", part(lambda: Fn(part(torch.mv, torch.randn(6, 7)))), lambda n: torch.randn(7), batches=(1,))
add("bilinear", part(nn.Bilinear, 4, 5, 6), (3, 4), (3, 5))
add("norms of computed weights", lambda x, w: (F.layer_norm(x, (5,), w[0]), F.rms_norm(x, (5,), w[0]),
    F.group_norm(x, 2, w[0, :4], w[0, 1:]), F.batch_norm(x, w[0, :4], w[0, 1:].abs() + 1, w[0, :4])),
    (4, 5), (5,))  # fmt: skip
add("batch norm of the batch", part(nn.BatchNorm2d, 6, track_running_stats=False), (6, 5, 5))
add("instance norm of training", part(lambda: Used(nn.InstanceNorm2d(6, track_running_stats=True), 6, 5, 5)), (6, 5, 5))
add("local response norm", part(nn.LocalResponseNorm, 3), (7, 5, 6))
add("pools with places", lambda x: (*F.max_pool2d(x, 3, 2, 1, ceil_mode=True, return_indices=True),
    *F.adaptive_max_pool2d(x, (3, 2), return_indices=True)), (3, 8, 7))  # fmt: skip
add("scatter by", lambda x, i: (*(x.scatter_reduce(1, i, x[:, :3], by, include_self=own)
    for by in ("sum", "prod", "mean", "amax", "amin") for own in (True, False)),
    x.long().scatter_reduce(1, i, i, "amax"), x.scatter(1, i, 2.0, reduce="multiply")),
    (4, 5), ids(3, 5, high=4))  # fmt: skip
add("put", lambda x, i: (_put(x, i[0]), x.index_add(1, i[0], x[:, :3]),
    x.index_put((i[0] * 0, i[0]), x[:3, 0], accumulate=True), x.index_fill(2, i[0], 7.0), x.masked_fill(x > 1, 3)),
    (4, 5), ids(3, high=4), batches=(4,))  # fmt: skip
add("index axes apart", lambda x, i: (x[i[0], :, i[0]], x[:, i[0], :, i[0]]), (4, 5, 4), ids(3, high=4), batches=(4,))
add("assign every second", lambda x: torch.slice_scatter(x, x[:, ::2] * 2, 1, 0, None, 2), (6, 5))
add("diagonals", lambda x: (x.diagonal(1, 1, 2), x.diagonal(-1, 2, 1), torch.einsum("bii->b", x)), (5, 5))
add("repeat by numbers", lambda x, i: torch.repeat_interleave(x, i[0], 1, output_size=7), (3, 5),
    lambda n: torch.tensor([[2, 0, 5]]).expand(n, 3).clone(), batches=(2, 3))  # fmt: skip
add("windows", lambda x: (x.unfold(1, 3, 2), x.unfold(2, 2, 1)), (7, 5))
add("bounds that are computed", lambda x, y: (x.clamp(y, y + 1), x.clamp(min=y), torch.fmax(x, y)), (3, 7), (3, 7))
add("signs", lambda x, y: (x.copysign(y), x.signbit(), torch.hypot(x, y), x.round(decimals=2)), (3, 7), (3, 7))
add("what an error function leaves of 1", lambda x: (torch.special.erfc(x), torch.special.erfc(2 + x.abs())), (3, 7))
add("kinds of number", lambda x: (x.isnan(), x.isinf(), x.log().nan_to_num(), x.nansum(1)), (3, 7))
add("replicated beyond what is cut", lambda x: F.pad(x, (-4, 5, 1, -2), mode="replicate"), (3, 5, 4))
add("lengths", lambda x: (torch.arange(x.shape[1]) * x, torch.arange(2, x.shape[1], 3).float()), (7,))
add("attention shared heads", part(lambda: Fn(part(F.scaled_dot_product_attention, enable_gqa=True))),
    (4, 5, 8), (2, 5, 8), (2, 5, 8))  # fmt: skip
add("attention large", F.scaled_dot_product_attention, *[(2, 150, 72)] * 3, batches=(2,))
add("matmul large", lambda a, b: a @ b, (130, 300), (300, 70), batches=(2,))
add("assign", lambda x: _assigned(x), (4, 5))
add("constants", lambda x: (torch.zeros_like(x), x + torch.ones(5), torch.full((x.shape[0], 2), 3.0)), (4, 5))
add("triangle", lambda x: (x.tril(), x.triu(1)), (4, 5))
add("several outputs", lambda x: {"a": x + 1, "b": [x, x * 2]}, (4, 5))
add("one output thrice", lambda x: (x, x + 1, x), (4, 5))


def _put(x: Tensor, places: Tensor) -> Tensor:
    y = x.clone()
    y[:, places] = x[:, :3]
    return y


def _assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0.0
    y[:, 2:4] = y[:, 1:3] * 2
    return y


# -- fused and shared ------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """Channels that are weighted by what an average of them says."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.body(x))
        return self.head(y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1))))


class Residual(nn.Module):
    """Convolutions whose sum goes through an activation."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
        self.b = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(x + self.b(F.leaky_relu(self.a(x), 0.1)))


add("residual", Residual, (6, 7, 7))
add("residual grouped", part(Residual, 2), (6, 7, 7))
add("residual depthwise", part(Residual, 6), (6, 7, 7))
add("bias apart", part(lambda: nn.Sequential(nn.Linear(5, 6, bias=False), Added(6), nn.GELU())), (5,))


class Added(nn.Module):
    """Adds a parameter."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class Tied(nn.Module):
    """A table of words that is also the weight of the last layer."""

    def __init__(self, zeros: float = 0.0) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 12), nn.Linear(12, 50, bias=False)
        self.head.weight = self.words.weight
        with torch.no_grad():
            self.words.weight *= torch.rand(50, 12) >= zeros

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.words(ids)))


for weights in ("float32", "float16", "int8"):
    add(f"tied {weights}", Tied, ids(4, high=50), options={"weights": weights})
    add(f"tied sparse {weights}", part(Tied, 0.9), ids(4, high=50), options={"weights": weights})
    add(f"embedding {weights}", part(nn.Embedding, 300, 300), ids(4, high=300), options={"weights": weights})


class LowRank(nn.Module):
    """Two factors in a row, of a linear layer and of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(8, 2, 3, padding=1, bias=False), nn.Conv2d(2, 12, 1)
        self.l1, self.l2 = nn.Linear(12, 2, bias=False), nn.Linear(2, 20)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.l2(self.l1(torch.relu(self.c2(self.c1(x))).mean((2, 3)))))


add("low rank", LowRank, (8, 6, 6))
add("low rank int8", LowRank, (8, 6, 6), options={"weights": "int8"})
add(
    "float16",
    part(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10))),
    (3, 9, 9),
    options={"weights": "float16"},
)
add(
    "int8 weights",
    part(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10))),
    (3, 9, 9),
    options={"weights": "int8"},
)


class Sparse(nn.Module):
    """Layers of few weights in a row, whose values are read once, twice, with an addend, and outside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(60, 70), nn.Linear(70, 90), nn.Linear(90, 60)
        self.d, self.e = nn.Linear(90, 70), nn.Linear(70, 40)
        with torch.no_grad():
            for weight in (layer.weight for layer in self.children()):
                weight *= torch.rand(weight.shape) >= 0.93

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.relu(self.b(F.gelu(self.a(x))))
        outside = self.d(y)
        return self.c(y) + x, self.e(outside), outside


add("sparse in a row", Sparse, (60,), batches=(64, 9, 33, 130, 3, 0))
add("sparse in a row of tokens", Sparse, (7, 60), batches=(9, 2, 3))


# -- integers --------------------------------------------------------------------------------------------------------


def quantized(make: Callable[[], nn.Module], *shape: int, **options: Any) -> Callable[[], nn.Module]:
    """Makes a module and quantizes it on some data."""

    def made() -> nn.Module:
        return compress.quantize(make().eval(), [(torch.randn(4, *shape),) for _ in range(3)], **options)

    return part(made)


class Activated(nn.Module):
    """A layer and an activation."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.layer(x))


class Planes(nn.Module):
    """What integers go through between two convolutions."""

    def __init__(self, between: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 5, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))


for name, between in {
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg pool": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg pool divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive avg pool": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "hardswish": F.hardswish,
    "add": lambda x: x + F.max_pool2d(x, 3, 1, 1),
    "cat": lambda x: torch.cat([x[:, :4], F.max_pool2d(x, 3, 1, 1)[:, 4:]], 1),
    "reshape": lambda x: x.permute(0, 1, 3, 2),
}.items():
    add(f"int8 {name}", quantized(part(Planes, between), 3, 9, 8), (3, 9, 8), exact=True)
add("int8 gated", quantized(Gated, 6, 7, 7), (6, 7, 7), exact=True)
add("int8 residual", quantized(Residual, 6, 7, 7), (6, 7, 7), exact=True)
add("int8 depthwise", quantized(part(Residual, 6), 6, 7, 7), (6, 7, 7), exact=True)
add("int8 grouped", quantized(part(Residual, 2), 6, 7, 7), (6, 7, 7), exact=True)
add(
    "int8 linear",
    quantized(lambda: nn.Sequential(nn.Linear(37, 19), nn.ReLU(), nn.Linear(19, 5)), 37),
    (37,),
    exact=True,
)
add(
    "int8 sequence",
    quantized(lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Conv1d(6, 3, 1)), 4, 9),
    (4, 9),
    exact=True,
)
add("int8 and floats between", quantized(part(Planes, lambda x: F.max_pool2d(x, 3, 1, 1).square()), 3, 9, 8), (3, 9, 8))
add(
    "dynamic int8 linear",
    part(lambda: compress.quantize(nn.Sequential(nn.Linear(37, 19), nn.ReLU(), nn.Linear(19, 5)), mode="dynamic")),
    (37,),
    exact=True,
)


class Beside(nn.Module):
    """Bytes that an integer layer takes, and floats beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.a(x))
        return self.b(y), y.square()


add("int8 and floats beside", quantized(Beside, 3, 9, 8), (3, 9, 8))
add("numbers up to a size", lambda x: x + torch.arange(x.shape[0])[:, None], (5,))
add("weight-only int8 linear", part(lambda: compress.quantize(Activated(nn.Linear(37, 19)), mode="weight_only")), (37,))
add(
    "weight-only int8 conv",
    part(lambda: compress.quantize(Activated(nn.Conv2d(6, 8, 3)), mode="weight_only")),
    (6, 7, 7),
)


class Recorder:
    """A builder that notes which ops are added."""

    def __init__(self, builder: Any, ops: set[str]) -> None:
        self._builder, self._ops = builder, ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def add(self, op: str, *args: Any, **kwargs: Any) -> Any:
        self._ops.add(op)
        return self._builder.add(op, *args, **kwargs)


@dataclass
class Converted:
    """A case after its conversion: the module, its program, the file, the report, the ops in the file."""

    module: nn.Module
    program: Program
    path: Path
    report: gossamer.Report
    ops: set[str]


# What the doubles below stand before.
run, builder = passes.run, converter.Builder

_FOLDER = tempfile.TemporaryDirectory(prefix="gossamer-cases-")


@functools.cache
def converted(name: str) -> Converted:
    """Converts a case, with a check after every pass; once for all tests that ask for it."""
    case = CASES[name]
    torch.manual_seed(0)
    module = case.make().eval()
    path = Path(_FOLDER.name) / f"{list(CASES).index(name)}.goss"
    ops: set[str] = set()
    programs: list[Program] = []

    def checked(program: Program) -> Program:
        passes.verify(program)
        programs.append(run(program, check=True))
        return program

    with (
        mock.patch.object(converter, "Builder", lambda: Recorder(builder(), ops)),
        mock.patch.object(converter.passes, "run", checked),
    ):
        report = gossamer.convert(module, case.inputs(case.batches[0]), path, **case.options)
    return Converted(module, programs[0], path, report, ops)
