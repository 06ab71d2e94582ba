"""Windows added up: transposed convolutions, and the two halves of a convolution by themselves."""

from __future__ import annotations

import math

import torch

from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers
from .pool import batched, spread, times


@lowers("aten.conv_transpose1d.default", "aten.conv_transpose2d.input")
def conv_transpose(at: Lowering, x, weight, bias, stride, padding, output_padding, groups, dilation) -> Token:
    """The product of the weight with every pixel, a window each, and the windows added up."""
    kernel = shape_of(weight)[2:]
    if not all(isinstance(size, int) for size in shape_of(weight)):
        raise Unsupported("a weight whose shape depends on the inputs")
    n = len(kernel)
    stride, padding, dilation = (spread(v, n) for v in (stride, padding, dilation))
    # A bias that the file holds is what the sums begin with; one that is computed is added to them.
    held = bias if bias is not None and at.program.constant(bias) is not None else None

    def make(image: Token) -> Token:
        y = at.add(
            "fold",
            [_columns(at, x, image, weight, held, groups), *([] if held is None else [at.value(held)])],
            output_size=at.sizes()[-n:],
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        if held is bias:
            return y
        addend = at.add("reshape", [at.value(bias)], shape=[-1, *[1] * n])
        return at.add("binary", [y, addend], fn="add")

    return batched(at, x, n, make)


def _columns(at: Lowering, x, image: Token, weight, bias, groups: int) -> Token:
    """What each pixel adds to each output channel and tap around it."""
    value = at.program.constant(weight)
    c, outputs, *kernel = shape_of(weight)
    n = len(kernel)
    if value is None:
        *batch, _ = at.sizes(x)[:-n]
        plane, rows = at.sizes(x)[-n:], outputs * math.prod(kernel)
        taps = at.add("reshape", [at.value(weight)], shape=[groups, c // groups, rows])
        taps = at.add("permute", [taps], axes=[0, 2, 1])
        pixels = at.add("reshape", [image], shape=[*(batch or [1]), groups, c // groups, times(plane)])
        columns = at.add("matmul", [taps, pixels])
        return at.add("reshape", [columns], shape=[*(batch or [1]), groups * rows, *plane])
    ones = [1] * n
    return at.add(
        "conv",
        [image, _taps(at, weight, value, groups), None, None],
        [weight, *([] if bias is None else [bias])],
        kernel=ones,
        stride=ones,
        padding=[[0, 0]] * n,
        dilation=ones,
        groups=groups,
        activation=None,
    )


def _taps(at: Lowering, weight, value: torch.Tensor, groups: int) -> Token:
    """The weight `(c, m / groups, *kernel)` with a row for each output channel and tap."""
    rows = value.reshape(groups, value.shape[0] // groups, -1).transpose(1, 2).flatten(0, 1).contiguous()
    name = f"{weight.target}.taps"
    if groups == value.shape[0] and groups > 1:
        return at.keep(rows, name)
    return at.made_matrix(rows, name, groups)


@lowers("aten.im2col.default")
def im2col(at: Lowering, x, kernel, dilation, padding, stride) -> Token:
    kernel, dilation, padding, stride = (spread(v, 2) for v in (kernel, dilation, padding, stride))
    pads = [[p, p] for p in padding]
    attrs = {"kernel": kernel, "stride": stride, "padding": pads, "dilation": dilation}
    return batched(at, x, 2, lambda image: at.add("unfold", [image], **attrs))


@lowers("aten.col2im.default")
def col2im(at: Lowering, x, output_size, kernel, dilation, padding, stride) -> Token:
    kernel, dilation, padding, stride = (spread(v, 2) for v in (kernel, dilation, padding, stride))
    if not all(isinstance(size, int) for size in output_size):
        raise Unsupported("folding into a plane that depends on the inputs' sizes")
    # Windows that lie one after the other, as rows of them.
    sides = zip(output_size, kernel, dilation, padding, stride, strict=True)
    grid = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in sides]
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}

    def make(columns: Token) -> Token:
        batch = at.sizes(x)[:-2]
        shape = [*(batch or [1]), at.sizes(x)[-2], *grid]
        return at.add("fold", [at.add("reshape", [columns], shape=shape)], output_size=output_size, **attrs)

    return batched(at, x, 1, make)
