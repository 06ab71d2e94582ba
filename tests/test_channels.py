"""Channels that are zero, or that nothing reads, are gone from the file, and the answer is the module's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer
from gossamer import compress, passes, runtime
from gossamer.capture import capture


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.goss"


def lively(module: nn.Module) -> nn.Module:
    """Norms that do something, and biases that are not small."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.5)
            nn.init.normal_(layer.running_mean, 0, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        elif getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias, 0, 0.5)
    return module.eval()


@torch.no_grad()
def silence(layer: nn.Module, rows: slice, bias: bool = False) -> None:
    """Zeroes filters or neurons."""
    layer.weight[rows] = 0
    if bias and layer.bias is not None:
        layer.bias[rows] = 0


@torch.no_grad()
def silence_norm(norm: nn.Module, rows: slice) -> None:
    norm.weight[rows] = 0
    norm.bias[rows] = 0


def shapes(module: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """The weights of the layers of a converted program, which is compared with torch after every pass."""
    program = passes.run(capture(module, (x,)), check=True)
    layers = program.calls(torch.ops.gossamer.conv.default, torch.ops.gossamer.linear.default)
    return [tuple(program.weight(layer).shape) for layer in layers]


def check(module: nn.Module, path, make: Callable[[int], Tensor]) -> gossamer.report.Report:
    """The file answers as the module does, on inputs it was not shown."""
    report = gossamer.convert(module, (make(2),), path)
    model = runtime.load(path)
    for n in (1, 3):
        x = make(n)
        with torch.no_grad():
            want = module(x)
        torch.testing.assert_close(model.run(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    return report


def image(n: int) -> Tensor:
    return torch.randn(n, 3, 12, 12)


class Residual(nn.Module):
    """Two blocks as in ResNet, the second with a projection, between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.conv1, self.norm1 = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.norm2 = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv3, self.norm3 = nn.Conv2d(16, 20, 3, 2, 1, bias=False), nn.BatchNorm2d(20)
        self.project = nn.Conv2d(16, 20, 1, 2)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        x = torch.relu(self.project(x) + self.norm3(self.conv3(x)))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """As in DenseNet and Inception: branches side by side, pooled, read together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(28 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.silu(self.a(x)), torch.relu(self.b(x))], 1)
        x = F.max_pool2d(torch.relu(self.norm(x)), 2)
        x = torch.cat([x, torch.sigmoid(self.mix(x))], 1)
        return self.head(torch.flatten(x, 1))


class Mobile(nn.Module):
    """An inverted residual with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Linear(16, 8), nn.Linear(8, 16)
        self.project = nn.Conv2d(16, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.depth(F.hardswish(self.norm(self.expand(x)))))
        s = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return self.project(x * s[:, :, None, None])


def test_zero_neurons_and_what_they_answer_are_folded(path):
    net = lively(nn.Sequential(nn.Linear(9, 20), nn.GELU(), nn.Linear(20, 16), nn.Sigmoid(), nn.Linear(16, 4)))
    silence(net[0], slice(3, 9))
    silence(net[2], slice(0, 10))  # sigmoid: half and more for ever, unless the bias of the next takes it up
    assert shapes(net, torch.randn(2, 9)) == [(14, 9), (6, 14), (4, 6)]
    report = check(net, path, lambda n: torch.randn(n, 9))
    assert "6 of 0" in str(report) and "10 of 2" in str(report)
    first = next(row for row in report.rows if row.path == "0")
    assert first.bytes_before == (20 * 9 + 20) * 4
    assert first.bytes_after < first.bytes_before
    assert first.sparsity == pytest.approx(6 / 20)


def test_a_constant_that_padding_surrounds_stays(path):
    net = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3)))
    with torch.no_grad():
        net[0].weight[:4] = 0
        net[0].bias[:4] = torch.tensor([0.0, -1.0, 2.0, 3.0])
        net[2].weight[:5] = 0
    # Zero and a negative number are zeros after the activation; 2 and 3 meet zeros at the edge, so that they are read.
    # The constants of the second layer meet no padding.
    assert shapes(net, image(2)) == [(6, 3, 3, 3), (3, 6, 3, 3), (4, 3, 3, 3)]
    check(net, path, image)


def test_what_nobody_reads_is_not_made(path):
    net = lively(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ELU(), nn.Conv2d(6, 4, 1))
    )
    with torch.no_grad():
        net[2].weight[:, 2:5] = 0
        net[4].weight[:, [0, 5]] = 0
        net[2].weight[[0, 5]] += 1
    assert shapes(net, image(2)) == [(5, 3, 3, 3), (4, 5, 3, 3), (4, 4, 1, 1)]
    check(net, path, image)


def test_one_loss_brings_another(path):
    net = lively(nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(12, 12), nn.ReLU())]))
    with torch.no_grad():
        net[6].weight[:, :4] = 0  # nobody reads these rows of 4, nor what only they read
        net[4].weight[4:, :7] = 0
        net[2].weight[7:, :9] = 0
    assert shapes(net, torch.randn(2, 12)) == [(3, 12), (5, 3), (8, 5), (12, 8)]
    check(net, path, lambda n: torch.randn(n, 12))


def test_residual_additions_lose_what_all_terms_lack(path):
    net = lively(Residual())
    silence(net.stem[0], slice(0, 6), bias=True)
    silence_norm(net.stem[1], slice(0, 6))
    silence_norm(net.norm2, slice(0, 4))  # two more of the stem's have no partner
    silence(net.conv1, slice(0, 10))
    silence_norm(net.norm1, slice(0, 8))  # the norm makes constants of two, which the padding sees
    silence(net.project, slice(15, 20))
    silence_norm(net.norm3, slice(17, 20))
    # Of the first block's ten the norm makes zeros of eight and constants of two: one is negative, and so a zero after
    # the activation; one is not, and padding sees it.
    stem, inner = (12, 3, 3, 3), [(15, 12, 3, 3), (12, 15, 3, 3)]
    assert shapes(net, image(2)) == [stem, *inner, (17, 12, 3, 3), (17, 12, 1, 1), (5, 17)]
    report = check(net, path, image)
    assert report.bytes_after < 0.8 * gossamer.convert(lively(Residual()), (image(2),), path).bytes_after


def test_concatenations_lose_channels_of_each_part(path):
    net = lively(Concat())
    silence(net.a, slice(4, 10))
    silence(net.b, slice(0, 2))
    silence(net.mix, slice(0, 7))
    got = shapes(net, image(2))
    assert got == [(4, 3, 3, 3), (4, 3, 1, 1), (5, 8, 1, 1), (5, (8 + 5) * 36)]
    check(net, path, image)


def test_depthwise_norms_and_gates_go_along(path):
    net = lively(Mobile())
    silence(net.expand, slice(0, 6))
    silence_norm(net.norm, slice(0, 6))
    silence(net.depth, slice(0, 4), bias=True)  # of six that read nothing, two are constants nonetheless
    silence(net.depth, slice(14, 16), bias=True)
    silence(net.squeeze, slice(0, 3))
    got = shapes(net, image(2))
    assert got[0] == (10, 3, 1, 1) and got[1] == (10, 1, 3, 3)
    assert got[2:] == [(5, 10), (10, 5), (7, 10, 1, 1)]
    check(net, path, image)


@pytest.mark.parametrize("make", [Residual, Concat, Mobile])
@pytest.mark.parametrize("trial", range(2))
def test_masked_networks_shrink_as_pruned_ones_do(make, trial, path):
    """Whole rows and columns at random, by masks; only the answer and the size are known beforehand."""
    net = lively(make())
    generator = torch.Generator().manual_seed(trial)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = torch.rand(layer.weight.shape[0], generator=generator) > 0.4
            columns = torch.rand(layer.weight.shape[1], generator=generator) > 0.2
            mask = rows.reshape(-1, *[1] * (layer.weight.dim() - 1)) & columns.reshape(
                1, -1, *[1] * (layer.weight.dim() - 2)
            )
            nn.utils.prune.custom_from_mask(layer, "weight", mask.expand(layer.weight.shape).float())
    x = image(2)
    before = sum(layer.weight.numel() for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    assert sum(torch.Size(s).numel() for s in shapes(net, x)) < before
    check(net, path, image)


@pytest.mark.parametrize("pattern", ["unit", "channel"])
def test_the_file_is_as_small_as_that_of_a_module_pruned_so(pattern, path):
    """Columns zeroed as compress.prune takes them: the file has what the smaller module has."""
    from gossamer.compress import channels
    from gossamer.compress.modules import Chosen, duplicate

    net = lively(Residual())
    plan = channels.plan(net, 0.5, pattern, "layer", Chosen(net, ()))
    names = {layer: name for name, layer in net.named_modules()}
    masked = duplicate(net)
    with torch.no_grad():
        for layer, keep in plan.columns.items():
            gone = torch.ones(layer.weight.shape[1], dtype=torch.bool)
            gone[keep] = False
            masked.get_submodule(names[layer]).weight[:, gone] = 0
    x = image(2)
    assert shapes(masked, x) == shapes(compress.prune(net, 0.5, pattern=pattern), x)
    check(masked, path, image)


def test_int8_weights_shrink_too(path):
    net = lively(nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20)))
    silence(net[0], slice(0, 24))
    report = gossamer.convert(net, (torch.randn(4, 64),), path, weights="int8")
    assert report.rows[0].bytes_after < 16 * 64 + 16 * 12
    quantized = compress.quantize(net, mode="weight_only")
    assert shapes(quantized, torch.randn(2, 64)) == [(16, 64), (20, 16)]
    check(quantized, path, lambda n: torch.randn(n, 64))


def test_what_is_shared_or_seen_stays(path):
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b, self.c = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.c.weight = self.b.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(self.norm(self.a(x)))))

    net = lively(Seen())
    silence(net.a, slice(0, 3))
    silence(net.b, slice(0, 3))
    assert shapes(net, torch.randn(2, 6)) == [(8, 6), (8, 8), (8, 8)]
    check(net, path, lambda n: torch.randn(n, 6))


def test_a_layer_that_is_all_zeros_keeps_one(path):
    net = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    silence(net[0], slice(0, 8))
    assert shapes(net, image(2)) == [(1, 3, 3, 3), (4, 1, 3, 3)]
    report = gossamer.convert(net, (image(2),), path)
    assert report.difference < 1e-4
