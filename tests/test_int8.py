"""Quantized networks that stay in bytes from end to end, against the same network in torch, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer
from gossamer import _core, compress, runtime


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups)


class Excited(nn.Module):
    """Bottlenecks with gates, as in MobileNetV3 (hardswish, hardsigmoid) and EfficientNet (silu, sigmoid)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = conv(3, 16, stride=2), conv(16, 24, 1)
        self.deep, self.project = conv(24, 24, 5, groups=24), conv(24, 16, 1)
        self.squeeze, self.excite = conv(24, 6, 1), conv(6, 24, 1)
        self.inner, self.outer = nn.Linear(16, 4), nn.Linear(4, 16)
        self.last, self.head = conv(16, 20, 1), nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.hardswish(self.deep(F.hardswish(self.expand(x))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = x + self.project(y)
        gate = torch.sigmoid(self.outer(F.silu(self.inner(x.mean((2, 3))))))
        x = F.relu(gate[:, :, None, None] * x)
        return self.head(F.silu(self.last(x)).mean((2, 3)))


class Joined(nn.Module):
    """Branches of different ranges, joined along the channels, as in SqueezeNet and Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = conv(3, 12, 3, 2), conv(12, 8, 1)
        self.one, self.three, self.pooled = conv(8, 10, 1), conv(8, 14, 3), conv(12, 6, 1)
        self.last, self.head = conv(42, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.squeeze(x))
        pooled = F.avg_pool2d(self.pooled(x), 3, 1, 1)
        # The last is read twice, and so keeps a range of its own.
        parts = [F.relu(self.one(y)), F.silu(self.three(y)), F.max_pool2d(pooled, 3, 1, 1), x]
        return self.head(F.relu(self.last(torch.cat(parts, 1))).mean((2, 3)))


class Hourglass(nn.Module):
    """Down and up again, with what was there joined to it, as in U-Net."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.enter, self.down, self.deep = conv(3, 8), conv(8, 16, 3, 2), conv(16, 16, 3, 2)
        self.up, self.leave, self.head = conv(32, 8), nn.Conv2d(16, 8, 3), conv(8, 2, 1)

    def larger(self, x: Tensor, like: Tensor) -> Tensor:
        corners = False if self.mode == "bilinear" else None
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, like.shape[2:], mode=self.mode, align_corners=corners)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.enter(x))
        b = F.relu(self.down(a))
        c = F.relu(self.deep(b))
        y = F.relu(self.up(torch.cat([self.larger(c, b), b], 1)))
        y = F.pad(torch.cat([self.larger(y, a), a], 1), (1, 1, 1, 1), "reflect")
        y = F.relu(self.leave(y))
        y = F.pad(y, (1, 0, 0, 2), "replicate")
        return self.head(F.max_pool2d(F.pad(y, (0, 1, 2, 0), value=0.25), 2, 1))


NETWORKS = {
    "excited": (Excited, {"gossamer.mul_i8", "gossamer.lookup_i8"}),
    "joined": (Joined, {"aten.cat"}),
    **{
        mode: (lambda mode=mode: Hourglass(mode), {"gossamer.resize_i8", "gossamer.pad_i8", "aten.cat"})
        for mode in ("nearest", "nearest-exact", "bilinear")
    },
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_network_stays_in_bytes_and_gives_the_bits_of_torch(name, tmp_path):
    torch.manual_seed(0)
    make, wanted = NETWORKS[name]
    module = make().eval()
    size = 48 if name in ("excited", "joined") else 36
    quantized = compress.quantize(module, [(torch.randn(2, 3, size, size),) for _ in range(4)])
    x = torch.randn(3, 3, size, size)
    want = quantized(x)
    error = (want - module(x)).norm() / module(x).norm()
    assert error < 0.15, error
    nodes = [node for node in quantized.graph.nodes if node.op == "call_function"]
    targets = [str(node.target).removesuffix(".default") for node in nodes]
    assert wanted <= set(targets)
    # All activations between the first step and the last are bytes.
    assert targets.count("gossamer.quantize") == 1 and "gossamer.dequantize" not in targets
    path = tmp_path / "net.goss"
    gossamer.convert(quantized, (x,), path)
    for isa in _core.cpu()["tiers"]:
        for threads in (1, 2):
            model = runtime.load(path, threads=threads, isa=isa)
            for batch in (3, 1):
                assert torch.equal(model.run(x[:batch]), quantized(x[:batch])), (isa, threads, batch)


def depthwise(x: Tensor, weight: Tensor, stride: list[int], dilation: list[int]) -> Tensor:
    """The sums of an integer convolution without padding, each channel by kernels of its own; a zero point of 3."""
    m, still = len(weight), [0] * 2 * len(stride)
    return torch.ops.gossamer.conv_i8(
        x, weight, torch.ones(m), torch.zeros(m), None, stride, still, dilation, x.shape[1], 3, 1.0, 0, None
    )


@pytest.mark.parametrize(
    "channels, kernel, stride, dilation",
    (
        ((4, 4), (3, 3), [1, 1], [1, 1]),
        ((4, 8), (3, 5), [2, 1], [1, 2]),
        ((3, 9), (2, 2), [3, 2], [2, 1]),
        ((4, 8), (3,), [2], [2]),
    ),
)
def test_depthwise_sums_are_those_of_torchs_own_convolution(channels, kernel, stride, dilation):
    torch.manual_seed(0)
    c, m = channels
    x = torch.randint(0, 256, (2, c, *(11, 13)[: len(kernel)]), dtype=torch.uint8)
    weight = torch.randint(-128, 128, (m, 1, *kernel), dtype=torch.int8)
    conv = F.conv1d if len(kernel) == 1 else F.conv2d
    want = conv(x.double() - 3, weight.double(), None, stride, 0, dilation, c)
    assert torch.equal(depthwise(x, weight, stride, dilation), want.float())


def test_depthwise_refuses_what_torchs_own_convolution_refuses():
    weight = torch.ones(4, 1, 3, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match="larger than its padded input"):
        depthwise(torch.zeros(1, 4, 2, 9, dtype=torch.uint8), weight, [1, 1], [1, 1])
