"""Rows, or columns, that were pruned together are stored, and multiplied, together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gossamer
from gossamer import _core, compress, runtime


def network(m: int) -> nn.Module:
    """A convolution, a grouped one, and two linear layers, wide enough that zeros pay."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, m, 3, padding=1), nn.ReLU(), nn.Conv2d(m, 32, 3, groups=2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * 36, m), nn.SiLU(), nn.Linear(m, 32)).eval()


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("pattern", "m"), [("2x1", 48), ("4x1", 62), ("16x1", 64), ("1x4", 56)])
def test_blocks_are_kept_whole(pattern, m, weights, tmp_path):
    path = tmp_path / "net.goss"
    module = compress.prune(network(m), 0.9, pattern=pattern)
    report = gossamer.convert(module, (torch.randn(2, 8, 8, 8),), path, weights=weights)
    assert [row.format for row in report.rows] == [f"sparse {pattern} {weights}"] * 4
    plain = gossamer.convert(
        compress.prune(network(m), 0.9), (torch.randn(2, 8, 8, 8),), tmp_path / "plain.goss", weights=weights
    )
    assert all(row.format == f"sparse {weights}" for row in plain.rows)
    assert report.bytes_after < plain.bytes_after
    tolerance = {"float32": 1e-5, "float16": 2e-3, "int8": 3e-2}[weights]
    for isa in ("scalar", None):
        model = runtime.load(path, isa=isa, threads=1)
        for n in (1, 5, 40):
            x = torch.randn(n, 8, 8, 8)
            with torch.no_grad():
                want = module(x)
            got = model.run(x)
            torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))
            twice = runtime.load(path, isa=isa, threads=2).run(x)
            assert torch.equal(got, twice)
    kernels = {layer["name"]: layer["kernel"] for layer in runtime.load(path).layers}
    assert f"spmm_f32 {pattern}" in kernels["0"]
    profile = str(runtime.load(path).profile(torch.randn(40, 8, 8, 8)))
    assert f"spmm_f32 {pattern}" in profile


def test_integer_layers_are_not_stacked(tmp_path):
    x = torch.randn(4, 8, 8, 8)
    module = compress.quantize(compress.prune(network(64), 0.9, pattern="4x1"), [(x,)])
    report = gossamer.convert(module, (x,), tmp_path / "net.goss")
    assert {row.format for row in report.rows} == {"sparse int8"}
    torch.testing.assert_close(runtime.load(tmp_path / "net.goss").run(x), module(x), rtol=0, atol=0)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni", None])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_fours_of_columns_are_multiplied_in_integers(mode, isa, tmp_path):
    x, path = torch.randn(4, 8, 8, 8), tmp_path / "net.goss"
    if isa is not None and isa not in _core.cpu()["tiers"]:
        pytest.skip(f"this CPU has no {isa}")
    calibration = [(x,)] if mode == "static" else None

    def converted(pattern, path):
        module = compress.quantize(compress.prune(network(64), 0.9, pattern=pattern), calibration, mode=mode)
        return module, gossamer.convert(module, (x,), path)

    module, report = converted("1x4", path)
    assert {row.format for row in report.rows if "int8" in row.format} == {"sparse 1x4 int8"}
    _, plain = converted("unstructured", tmp_path / "plain.goss")
    assert report.bytes_after < 0.8 * plain.bytes_after
    for n in (1, 4, 40):
        x = torch.randn(n, 8, 8, 8)
        for threads in (1, 2):
            got = runtime.load(path, isa=isa, threads=threads).run(x)
            if mode == "static":
                torch.testing.assert_close(got, module(x), rtol=0, atol=0)
            else:
                torch.testing.assert_close(got, module(x), rtol=1e-4, atol=1e-4)
    kernels = {layer["name"]: layer["kernel"] for layer in runtime.load(path, isa=isa).layers}
    assert any("spmv_i8 1x4" in kernel for kernel in kernels.values()), kernels
    if mode == "static" and isa == "avx512vnni":
        assert any("spmm_i8 1x4" in kernel for kernel in kernels.values()), kernels


def test_columns_that_are_no_fours_are_stored_one_by_one(tmp_path):
    module = compress.prune(nn.Sequential(nn.Linear(66, 32)), 0.9, pattern="1x4")
    report = gossamer.convert(module, (torch.randn(2, 66),), tmp_path / "net.goss")
    assert {row.format for row in report.rows} == {"sparse float32"}


def test_channels_are_taken_out_by_whole_fours(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, 48, 1))
    module = compress.prune(module.eval(), 0.8, pattern="1x4")
    with torch.no_grad():
        for channel in (*range(8, 13), 30):
            module[0].weight_mask[channel] = 0
            module[0].bias[channel] = 0
    path, x = tmp_path / "net.goss", torch.randn(2, 8, 9, 9)
    report = gossamer.convert(module, (x,), path)
    assert "4 of 0" in str(report)
    assert [row.format for row in report.rows][1:] == ["sparse 1x4 float32"] * 2
    torch.testing.assert_close(runtime.load(path).run(x), module(x).detach(), rtol=0, atol=1e-5)


def test_blocks_with_too_few_weights_are_not_worth_it(tmp_path):
    module = compress.prune(network(64), 0.8, pattern="4x1")
    with torch.no_grad():
        for layer in module:
            if hasattr(layer, "weight_mask"):
                layer.weight_mask *= torch.rand_like(layer.weight_mask) > 0.25
    report = gossamer.convert(module, (torch.randn(2, 8, 8, 8),), tmp_path / "net.goss")
    assert {row.format for row in report.rows} == {"sparse float32"}


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
@pytest.mark.parametrize("unit", [(2, 1), (4, 1), (16, 1), (1, 4)])
def test_rows_of_blocks_are_looked_up(unit, weights, tmp_path):
    height, width = unit

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(80, 300), nn.Linear(300, 80, bias=False)
            with torch.no_grad():
                there = torch.rand(80 // height, 300 // width) > 0.9
                self.table.weight *= there.repeat_interleave(height, 0).repeat_interleave(width, 1)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(torch.tanh(self.table(ids)))

    torch.manual_seed(0)
    module, path = Tied().eval(), tmp_path / "net.goss"
    report = gossamer.convert(module, (torch.randint(0, 80, (2, 40)),), path, weights=weights)
    assert f"sparse {height}x{width} {weights}" in {row.format for row in report.rows}
    ids = torch.arange(80).reshape(2, 40)
    want = module(ids).detach()
    tolerance = {"float32": 1e-5, "float16": 2e-3, "int8": 3e-2}[weights]
    torch.testing.assert_close(runtime.load(path).run(ids), want, rtol=0, atol=tolerance * float(want.abs().max()))
