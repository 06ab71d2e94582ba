"""The two layers that carry a model's weights, each with what may follow it in one kernel, as torch custom ops.

`gossamer::conv` and `gossamer::linear` compute `activation(layer(x) + bias + residual)`. They run in torch (and so can
be checked after every pass, and exported again), and each lowers to one op of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


class Activation(NamedTuple):
    """A function of one variable: the names of its parameters in the file, and the function in torch."""

    params: tuple[str, ...]
    compute: Callable[..., Tensor]


# The name is that of the op `map` and of the attribute `activation` in the file.
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation((), torch.relu),
    "relu6": Activation((), F.relu6),
    "silu": Activation((), F.silu),
    "sigmoid": Activation((), torch.sigmoid),
    "tanh": Activation((), torch.tanh),
    "hardswish": Activation((), F.hardswish),
    "hardsigmoid": Activation((), F.hardsigmoid),
    "gelu": Activation((), F.gelu),
    "gelu_tanh": Activation((), lambda x: F.gelu(x, approximate="tanh")),
    "elu": Activation(("alpha",), F.elu),
    "selu": Activation((), F.selu),
    "celu": Activation(("alpha",), F.celu),
    "leaky_relu": Activation(("slope",), F.leaky_relu),
    "mish": Activation((), F.mish),
    "softplus": Activation(("beta", "threshold"), F.softplus),
    "log_sigmoid": Activation((), F.logsigmoid),
    "softsign": Activation((), F.softsign),
    "hardshrink": Activation(("lambda",), F.hardshrink),
    "softshrink": Activation(("lambda",), F.softshrink),
    "threshold": Activation(("threshold", "value"), F.threshold),
    "hardtanh": Activation(("lo", "hi"), F.hardtanh),
}


def activate(x: Tensor, activation: str, params: Sequence[float]) -> Tensor:
    """Applies the activation of that name, or none where the name is empty."""
    return ACTIVATIONS[activation].compute(x, *params) if activation else x


def _finish(y: Tensor, residual: Tensor | None, activation: str, params: Sequence[float]) -> Tensor:
    return activate(y if residual is None else y + residual, activation, params)


@torch.library.custom_op("gossamer::conv", mutates_args=())
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    params: Sequence[float],
) -> Tensor:
    """`activation(conv(x, weight) + bias + residual)`.

    Args:
        x: `(n, c, *spatial)`, one or two spatial dimensions.
        weight: `(m, c / groups, *kernel)`.
        bias: `(m,)` or none.
        residual: Of the output's shape, or none.
        stride: One a spatial dimension; so is `dilation`.
        padding: Zeros before and after each spatial dimension: `[low, high, low, high]`.
        dilation: Distance between taps.
        groups: Groups of channels.
        activation: A name of `ACTIVATIONS`, or empty.
        params: The activation's parameters, in its order.
    """
    low, high = padding[0::2], padding[1::2]
    if list(low) == list(high):
        symmetric = list(low)
    else:
        # F.pad takes the last dimension first.
        x = F.pad(x, [p for lo, hi in reversed(list(zip(low, high, strict=True))) for p in (lo, hi)])
        symmetric = [0] * len(low)
    convolve = F.conv1d if weight.dim() == 3 else F.conv2d
    y = convolve(x, weight, bias, list(stride), symmetric, list(dilation), groups)
    return _own(_finish(y, residual, activation, params))


@conv.register_fake
def _(x, weight, bias, residual, stride, padding, dilation, groups, activation, params):
    spatial = []
    for i in range(weight.dim() - 2):
        reach = dilation[i] * (weight.shape[2 + i] - 1)
        spatial.append((x.shape[2 + i] + padding[2 * i] + padding[2 * i + 1] - reach - 1) // stride[i] + 1)
    return x.new_empty([x.shape[0], weight.shape[0], *spatial])


@torch.library.custom_op("gossamer::linear", mutates_args=())
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    params: Sequence[float],
) -> Tensor:
    """`activation(x @ weight.T + bias + residual)`.

    Args:
        x: `(..., k)`.
        weight: `(m, k)`.
        bias: `(m,)` or none.
        residual: Of the output's shape, or none.
        activation: A name of `ACTIVATIONS`, or empty.
        params: The activation's parameters, in its order.
    """
    return _own(_finish(F.linear(x, weight, bias), residual, activation, params))


@linear.register_fake
def _(x, weight, bias, residual, activation, params):
    return x.new_empty([*x.shape[:-1], weight.shape[0]])


def _own(y: Tensor) -> Tensor:
    """What a custom op returns has to be plainly laid out, as its fake says."""
    return y.contiguous()


# aten overload -> (name, parameters) from its arguments after the first, defaults filled in.
RECOGNISED: dict[object, Callable[..., tuple[str, tuple[float, ...]]]] = {
    aten.relu.default: lambda: ("relu", ()),
    aten.relu6.default: lambda: ("relu6", ()),
    aten.silu.default: lambda: ("silu", ()),
    aten.sigmoid.default: lambda: ("sigmoid", ()),
    aten.tanh.default: lambda: ("tanh", ()),
    aten.hardswish.default: lambda: ("hardswish", ()),
    aten.hardsigmoid.default: lambda: ("hardsigmoid", ()),
    aten.gelu.default: lambda approximate: ("gelu" if approximate == "none" else "gelu_tanh", ()),
    aten.elu.default: lambda alpha, scale, input_scale: _elu(alpha, scale, input_scale),
    aten.selu.default: lambda: ("selu", ()),
    aten.celu.default: lambda alpha: ("celu", (alpha,)),
    aten.leaky_relu.default: lambda slope: ("leaky_relu", (slope,)),
    aten.mish.default: lambda: ("mish", ()),
    aten.softplus.default: lambda beta, threshold: ("softplus", (beta, threshold)),
    aten.log_sigmoid.default: lambda: ("log_sigmoid", ()),
    aten.hardshrink.default: lambda lambd: ("hardshrink", (lambd,)),
    aten.softshrink.default: lambda lambd: ("softshrink", (lambd,)),
    aten.threshold.default: lambda threshold, value: ("threshold", (threshold, value)),
    aten.hardtanh.default: lambda lo, hi: _clamp(lo, hi),
    aten.clamp.default: lambda lo, hi: _clamp(lo, hi),
    aten.clamp_min.default: lambda lo: _clamp(lo, None),
    aten.clamp_max.default: lambda hi: _clamp(None, hi),
}

# The constants that torch.nn.SELU has, as elu's alpha and scale.
_SELU = (1.6732632423543772, 1.0507009873554805)


def _elu(alpha: float, scale: float, input_scale: float) -> tuple[str, tuple[float, ...]]:
    if (scale, input_scale) == (1, 1):
        return "elu", (alpha,)
    if (alpha, scale, input_scale) == (*_SELU, 1):
        return "selu", ()
    if scale == 1 and input_scale == 1 / alpha:
        return "celu", (alpha,)
    return "", ()


def _clamp(lo: float | None, hi: float | None) -> tuple[str, tuple[float, ...]]:
    if (lo, hi) == (0, None):
        return "relu", ()
    if (lo, hi) == (0, 6):
        return "relu6", ()
    return "hardtanh", (float("-inf") if lo is None else float(lo), float("inf") if hi is None else float(hi))
