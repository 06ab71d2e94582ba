"""Layers that hold int8 weights: what `quantize` leaves in a module with the modes `dynamic` and `weight_only`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops_i8


def quantize_weight(weight: Tensor, per_channel: bool = True) -> tuple[Tensor, Tensor]:
    """Symmetric int8: `q = clamp(rint(w / scale), -127, 127)`, `scale = f32(max|w| / 127)`, computed in float64.

    Args:
        weight: (m, ...).
        per_channel: One scale a row, else all rows have the same.

    Returns:
        The integers, of the weight's shape, and the scales, (m,) float32. Zeros stay zero; a row of zeros has scale 1.

    Raises:
        ValueError: A weight is not finite.
    """
    rows = weight.detach().reshape(weight.shape[0], -1).to(torch.float64)
    if not bool(rows.isfinite().all()):
        raise ValueError("a weight to quantize is not finite")
    largest = rows.abs().amax(1) if rows.shape[1] else torch.zeros(len(rows), dtype=torch.float64)
    if not per_channel and len(rows):
        largest = largest.max().expand_as(largest)
    scale = (largest / 127).to(torch.float32)
    # A row of numbers too small for float32 is a row of zeros.
    scale = torch.where(scale < ops_i8.SMALLEST_SCALE, 1.0, scale)
    q = (rows / scale.to(torch.float64)[:, None]).round().clamp(-127, 127)
    return q.to(torch.int8).reshape(weight.shape), scale.contiguous()


class Int8Layer(nn.Module):
    """An int8 weight, its scales and a bias, as buffers.

    Args:
        weight: (m, ...) int8.
        scale: (m,) float32.
        bias: (m,) float32, or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.float32).clone())

    def extra_repr(self) -> str:
        """Shape and bias, as torch's own layers print them."""
        return f"{tuple(self.weight.shape)}, bias={self.bias is not None}"


class DynamicInt8Linear(Int8Layer):
    """`nn.Linear` in integers, each row of its input quantized by its own range (`gossamer::dynamic_linear_i8`)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) float32 to (..., m)."""
        y: Tensor = torch.ops.gossamer.dynamic_linear_i8(x, self.weight, self.scale, self.bias)
        return y


class DynamicInt8Conv2d(Int8Layer):
    """A 1x1 `nn.Conv2d` as `DynamicInt8Linear` over channels: a row is a pixel. The weight is (m, c).

    Args:
        weight: (m, c) int8.
        scale: (m,) float32.
        bias: (m,) float32, or None.
        stride: Of rows and columns.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> None:
        super().__init__(weight, scale, bias)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) float32 to (n, m, h', w')."""
        if self.stride != (1, 1):
            x = x[..., :: self.stride[0], :: self.stride[1]]
        pixels = torch.movedim(x, -3, -1)
        y: Tensor = torch.ops.gossamer.dynamic_linear_i8(pixels, self.weight, self.scale, self.bias)
        return torch.movedim(y, -1, -3).contiguous()


class Int8Linear(Int8Layer):
    """`nn.Linear` with the weight `scale[r] · q`, computed in float32 (`gossamer::linear_w8`)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) float32 to (..., m)."""
        y: Tensor = torch.ops.gossamer.linear_w8(x, self.weight, self.scale, self.bias)
        return y


class Int8Conv(Int8Layer):
    """`nn.Conv1d` or `nn.Conv2d` with the weight `scale[r] · q`, computed in float32 (`gossamer::conv_w8`).

    Args:
        weight: (m, c / groups, ...) int8.
        scale: (m,) float32.
        bias: (m,) float32, or None.
        stride: One a spatial dimension.
        padding: Two a spatial dimension, zeros before and after.
        dilation: One a spatial dimension.
        groups: Of channels.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> None:
        super().__init__(weight, scale, bias)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, ...) float32 to (n, m, ...)."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        y: Tensor = torch.ops.gossamer.conv_w8(x, self.weight, self.scale, self.bias, *geometry)
        return y


def dynamic(layer: nn.Module, weight: Tensor, scale: Tensor) -> Int8Layer | None:
    """The layer with those integers and a dynamic input; None unless it is linear or a plain 1x1 convolution."""
    match layer:
        case nn.Linear():
            return DynamicInt8Linear(weight, scale, layer.bias)
        case nn.Conv2d(kernel_size=(1, 1), groups=1) if not any(padding_of(layer)):
            return DynamicInt8Conv2d(weight.flatten(1), scale, layer.bias, (layer.stride[0], layer.stride[1]))
    return None


def weight_only(layer: nn.Module, weight: Tensor, scale: Tensor) -> Int8Layer | None:
    """The layer with those integers and float32 activations; None for convolutions that pad with other than zeros."""
    match layer:
        case nn.Linear():
            return Int8Linear(weight, scale, layer.bias)
        case nn.Conv1d(padding_mode="zeros") | nn.Conv2d(padding_mode="zeros"):
            geometry = (list(layer.stride), padding_of(layer), list(layer.dilation), layer.groups)
            return Int8Conv(weight, scale, layer.bias, *geometry)
    return None


def padding_of(layer: nn.Conv1d | nn.Conv2d) -> list[int]:
    """A convolution's padding, two a spatial dimension."""
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        # torch puts the odd one after.
        return [side for t in total for side in (t // 2, t - t // 2)]
    if layer.padding == "valid":
        return [0] * (2 * len(layer.kernel_size))
    return [side for p in layer.padding for side in (int(p), int(p))]
