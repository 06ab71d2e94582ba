"""The whole path on the smallest nets, in seconds: what pre-commit runs."""

import numpy as np
import pytest
import torch
from torch import nn

import gossamer
from gossamer import compress, runtime


class Tiny(nn.Module):
    """A convolution, a depthwise one, a residual, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.pointwise(torch.relu(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, 3, 18, 18, generator=torch.Generator().manual_seed(1))


def run(module, x, path, **options):
    gossamer.convert(module, (x[:2],), path, **options)
    with torch.no_grad():
        return runtime.load(path).run(x.numpy()), module(x).numpy()


def close(got, expected):
    """Some layers of sums no longer than 200: docs/numerics.md."""
    assert np.abs(expected - expected.mean(0)).max() > 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=6 * 200 * 2.0**-24 * np.abs(expected).max())


def test_a_network_answers_as_in_torch(net, x, tmp_path):
    close(*run(net, x, tmp_path / "net.goss"))


def test_a_pruned_network_answers_as_in_torch(net, x, tmp_path):
    close(*run(compress.prune(net, 0.8), x, tmp_path / "net.goss"))


def test_a_factorized_network_answers_as_in_torch(net, x, tmp_path):
    close(*run(compress.factorize(net, rank=2), x, tmp_path / "net.goss"))


def test_an_integer_network_gives_the_same_bits_as_in_torch(net, x, tmp_path):
    got, expected = run(compress.quantize(net, [(x,)]), x, tmp_path / "net.goss")
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(got, expected)


def test_torch_tensors_in_torch_tensors_out(net, x, tmp_path):
    gossamer.convert(net, (x,), tmp_path / "net.goss")
    y = gossamer.load(tmp_path / "net.goss").run(x)
    assert isinstance(y, torch.Tensor)
    close(y.numpy(), net(x).detach().numpy())
