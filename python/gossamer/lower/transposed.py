"""Windows added up: transposed convolutions, and the two halves of a convolution by themselves."""

from __future__ import annotations

import torch

from . import Lowering, Token, Unsupported, lowers
from .pool import batched, spread


@lowers("aten.conv_transpose1d.default", "aten.conv_transpose2d.input")
def conv_transpose(at: Lowering, x, weight, bias, stride, padding, output_padding, groups, dilation) -> Token:
    """The product of the weight with every pixel, a window each, and the windows added up."""
    value = at.program.constant(weight)
    if value is None or (bias is not None and at.program.constant(bias) is None):
        raise Unsupported("its weight is computed from the inputs")
    n = value.dim() - 2
    kernel = list(value.shape[2:])
    stride, padding, dilation = (spread(v, n) for v in (stride, padding, dilation))
    token = _taps(at, weight, value, groups)
    used = [weight] + ([] if bias is None else [bias])

    def make(image: Token) -> Token:
        ones = [1] * n
        columns = at.add(
            "conv",
            [image, token, None, None],
            used,
            kernel=ones,
            stride=ones,
            padding=[[0, 0]] * n,
            dilation=ones,
            groups=groups,
            activation=None,
        )
        return at.add(
            "fold",
            [columns, *([] if bias is None else [at.value(bias)])],
            output_size=at.sizes()[-n:],
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )

    return batched(at, x, n, make)


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
