"""Networks quantized by torch's own tools, layer by layer and whole, against those tools' answers."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import gossamer
from gossamer import _core, runtime

with warnings.catch_warnings():
    # What these tools deprecate of each other and of torch is theirs.
    warnings.simplefilter("ignore")
    import torchao.quantization as torchao
    from torch.ao import quantization as eager
    from torch.ao.nn import quantized as nnq
    from torch.ao.quantization import quantize_fx
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer, x86_inductor_quantizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

STEPS = torch.ops.quantized_decomposed


class Net(nn.Module):
    """A residual of a depthwise-separable block, branches that join, a gate, an average, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = eager.QuantStub(), eager.DeQuantStub()
        self.stem, self.act = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.ReLU()
        self.deep, self.act6, self.point = nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.ReLU6(), nn.Conv2d(32, 32, 1)
        self.norm = nn.BatchNorm2d(32)
        self.sum, self.product, self.joined = (nnq.FloatFunctional() for _ in range(3))
        self.most, self.mean = nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)
        self.wide, self.hard, self.gate = nn.Conv2d(64, 128, 3, padding=1), nn.Hardswish(), nn.Conv2d(128, 128, 1)
        self.sigmoid, self.all, self.head = nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Linear(128, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(self.enter(x))))
        x = self.sum.add_relu(x, self.point(self.act6(self.deep(x))))
        x = self.joined.cat([self.most(x), self.mean(x)], 1)
        x = self.hard(self.wide(x))
        x = self.product.mul(x, self.sigmoid(self.gate(x)))
        return self.leave(self.head(self.all(x).flatten(1)))


class Plain(Net):
    """The same written with torch's functions, as PT2E takes it."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.point(F.relu6(self.deep(x))))
        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1)], 1)
        x = F.hardswish(self.wide(x))
        x = x * torch.sigmoid(self.gate(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 3, 28, 28)


def batch() -> dict[int, object]:
    return {0: torch.export.Dim.DYNAMIC}


def by_pt2e(module: nn.Module, quantizer: object, calibration: list[Tensor]) -> fx.GraphModule:
    exported = torch.export.export(module, (calibration[0],), dynamic_shapes=(batch(),)).module()
    prepared = prepare_pt2e(exported, quantizer)
    for x in calibration:
        prepared(x)
    return convert_pt2e(prepared)


def x86(**options: bool) -> object:
    config = x86_inductor_quantizer.get_default_x86_inductor_quantization_config(**options)
    return x86_inductor_quantizer.X86InductorQuantizer().set_global(config)


def arm() -> object:
    config = arm_inductor_quantizer.get_default_arm_inductor_quantization_config()
    return arm_inductor_quantizer.ArmInductorQuantizer().set_global(config)


def by_eager(module: nn.Module, calibration: list[Tensor]) -> nn.Module:
    module = eager.fuse_modules(module, [["stem", "norm", "act"]])
    module.qconfig = eager.get_default_qconfig("x86")
    prepared = eager.prepare(module)
    for x in calibration:
        prepared(x)
    return eager.convert(prepared)


def by_fx(module: nn.Module, calibration: list[Tensor]) -> fx.GraphModule:
    prepared = quantize_fx.prepare_fx(module, eager.get_default_qconfig_mapping("x86"), (calibration[0],))
    for x in calibration:
        prepared(x)
    return quantize_fx.convert_fx(prepared)


def agrees(got: Tensor, want: Tensor, scale: float) -> None:
    """At most a step apart, and 99.9 % equal."""
    assert got.shape == want.shape
    steps = ((got - want) / scale).round().abs()
    assert steps.max() <= 1 and (steps == 0).double().mean() >= 0.999, (steps.max(), (steps == 0).double().mean())


def apart(converted: fx.GraphModule, x: Tensor) -> tuple[fx.GraphModule, list[Tensor], list[float]]:
    """A PT2E program cut at each quantizing: its inputs are what was quantized, its outputs what is."""
    cut = copy.deepcopy(converted)
    values: list[Tensor] = []

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n.target is STEPS.quantize_per_tensor.default:
                values.append(STEPS.dequantize_per_tensor.default(value, *n.args[1:]))
            return value

    Recorder(converted).run(x)
    graph = cut.graph
    graph.set_codegen(fx.graph.CodeGen())
    steps = [n for n in graph.nodes if n.target is STEPS.quantize_per_tensor.default]
    outputs = [*next(n for n in graph.nodes if n.op == "output").args[0]]
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    for i, node in enumerate(steps[1:]):
        with graph.inserting_after(last):
            last = graph.placeholder(f"given_{i}")
            last.meta["val"] = values[i + 1]
        with graph.inserting_after(node):
            again = graph.call_function(node.target, (last, *node.args[1:]))
            outputs.append(graph.call_function(STEPS.dequantize_per_tensor.default, (node, *node.args[1:])))
        node.replace_all_uses_with(again, delete_user_cb=lambda user, kept=outputs[-1]: user is not kept)
    next(n for n in graph.nodes if n.op == "output").args = (tuple(outputs),)
    cut.recompile()
    return cut, values[1:], [n.args[1] for n in steps[1:]]


@pytest.mark.parametrize("quantizer", [x86, arm])
@torch.no_grad()
def test_pt2e(quantizer, tmp_path):
    torch.manual_seed(0)
    module, x = Plain().eval(), images()
    converted = by_pt2e(module, quantizer(), [images() for _ in range(3)])
    cut, values, scales = apart(converted, x)
    gossamer.convert(cut, (x, *values), tmp_path / "apart.goss")
    got, want = runtime.load(tmp_path / "apart.goss").run(x, *values), cut(x, *values)
    assert len(got) == len(scales) + 1 > 5
    assert torch.allclose(got[0], want[0], rtol=0, atol=1e-5)
    for a, b, scale in zip(got[1:], want[1:], scales, strict=True):
        agrees(a, b, scale)
    report = gossamer.convert(converted, (x,), tmp_path / "net.goss")
    assert {row.path for row in report.rows} == {"stem", "deep", "point", "wide", "gate", "head"}
    assert {row.op for row in report.rows} == {"conv_i8", "linear_i8"}
    assert (tmp_path / "net.goss").stat().st_size < 0.3 * sum(p.numel() * 4 for p in module.parameters())
    model = runtime.load(tmp_path / "net.goss")
    for n in (6, 1):
        want = converted(x[:n])
        assert (model.run(x[:n]) - want).norm() < 0.005 * want.norm()


class Apart(nn.Module):
    """Layers that read and write quantized tensors, each with an input of its own."""

    def __init__(self, layers: list[tuple[nn.Module, Tensor]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _ in layers)
        self.enter = nn.ModuleList(nnq.Quantize(x.q_scale(), x.q_zero_point(), x.dtype) for _, x in layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [m(q(x)).dequantize() for m, q, x in zip(self.layers, self.enter, inputs, strict=True)]


@pytest.mark.parametrize("quantize", [by_eager, by_fx])
@torch.no_grad()
def test_torch_ao(quantize, tmp_path):
    torch.manual_seed(0)
    x, seen = images(), []
    quantized = quantize(Net().eval(), [images() for _ in range(3)])
    kinds = (nn.Identity, nnq.Quantize, nnq.DeQuantize)
    leaves = [
        m for m in quantized.modules() if hasattr(m, "weight") or (not any(m.children()) and "Packed" not in str(m))
    ]
    hooks = [
        m.register_forward_hook(lambda m, args, out: seen.append((m, args[0], out)))
        for m in leaves
        if m is not quantized and not isinstance(m, kinds)
    ]
    want = quantized(x)
    for hook in hooks:
        hook.remove()
    assert len(seen) >= 8
    layers, inputs = Apart([s[:2] for s in seen]).eval(), [given.dequantize() for _, given, _ in seen]
    gossamer.convert(layers, tuple(inputs), tmp_path / "apart.goss")
    for got, (_, _, out) in zip(runtime.load(tmp_path / "apart.goss").run(*inputs), seen, strict=True):
        agrees(got, out.dequantize(), out.q_scale())
    report = gossamer.convert(quantized, (x,), tmp_path / "net.goss")
    assert {row.path for row in report.rows} == {"stem", "deep", "point", "wide", "gate", "head"}
    assert {row.op for row in report.rows} == {"conv_i8", "linear_i8"}
    assert sum(row.bytes_after for row in report.rows) < 1.1 * sum(row.bytes_before for row in report.rows)
    model = runtime.load(tmp_path / "net.goss")
    for n in (6, 1):
        agrees(model.run(x[:n]), want[:n], quantized.head.scale)


@torch.no_grad()
def test_means_that_lie_halfway_between_two_steps_are_at_most_a_step_away(tmp_path):
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = (0.0173, 127, 0, 255, torch.uint8)
            x = STEPS.dequantize_per_tensor(STEPS.quantize_per_tensor(x, *grid), *grid)
            y = STEPS.quantize_per_tensor(F.avg_pool2d(x, 2), *grid)
            return STEPS.dequantize_per_tensor(y, *grid)

    torch.manual_seed(0)
    x = 1.5 * torch.randn(2, 8, 16, 16)
    gossamer.convert(Halved().eval(), (x,), tmp_path / "net.goss")
    steps = (x / 0.0173).round().clamp(-127, 128)
    halfway = F.avg_pool2d(steps, 2) % 1 == 0.5
    apart = ((runtime.load(tmp_path / "net.goss").run(x) - Halved()(x)) / 0.0173).round()
    assert 0.2 < halfway.double().mean() < 0.3
    assert apart.abs().max() <= 1 and not apart[~halfway].any()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(200, 128), nn.ReLU(), nn.Linear(128, 96), nn.GELU(), nn.Linear(96, 10)).eval()


def near(got: Tensor, want: Tensor) -> None:
    """Apart by what rounding sums in another order explains."""
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 2e-6 * want.abs().max()


@pytest.mark.parametrize(
    ("config", "op"),
    [(torchao.Int8WeightOnlyConfig, "linear"), (torchao.Int8DynamicActivationInt8WeightConfig, "linear_i8")],
)
@torch.no_grad()
def test_quantize_of_torchao(config, op, tmp_path):
    torch.manual_seed(0)
    module = mlp()
    torchao.quantize_(module, config())
    assert any(int(layer.weight.qdata.min()) == -128 for layer in module if isinstance(layer, nn.Linear))
    for shape in ((5, 200), (2, 7, 200)):
        x = torch.randn(shape)
        report = gossamer.convert(module, (x,), tmp_path / "net.goss")
        assert [(row.path, row.op, row.format) for row in report.rows] == [(n, op, "dense int8") for n in "024"]
        model = runtime.load(tmp_path / "net.goss")
        for part in (x, torch.randn(shape), x[:1]):
            near(model.run(part), module(part))


@torch.no_grad()
def test_a_range_of_the_whole_tensor(tmp_path):
    torch.manual_seed(0)
    module, x = mlp(), torch.randn(6, 200)
    dynamic = eager.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    for quantized in (dynamic, by_pt2e(module, x86(is_dynamic=True), [x])):
        report = gossamer.convert(quantized, (x,), tmp_path / "net.goss")
        assert [(row.path, row.op) for row in report.rows] == [(n, "dynamic_linear_i8") for n in "024"]
        model = runtime.load(tmp_path / "net.goss")
        # Rows of different ranges: each by itself would be quantized otherwise.
        for given in (x, x * torch.logspace(-2, 1, 6)[:, None], x[:1]):
            near(model.run(given), quantized(given))


@torch.no_grad()
def test_what_else_reads_a_dynamic_range_is_right(tmp_path):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            levels = (0, 255)
            grid = STEPS.choose_qparams.tensor(x, *levels, 1e-6, torch.uint8)
            q = STEPS.quantize_per_tensor.tensor(x, *grid, *levels, torch.uint8)
            return self.conv(STEPS.dequantize_per_tensor.tensor(q, *grid, *levels, torch.uint8))

    torch.manual_seed(0)
    module, x = Both().eval(), torch.randn(2, 4, 8, 8)
    gossamer.convert(module, (x,), tmp_path / "net.goss")
    near(runtime.load(tmp_path / "net.goss").run(x), module(x))


@pytest.mark.parametrize("how", ["fx", "pt2e"])
@torch.no_grad()
def test_pruned_and_quantized_is_sparse_int8(how, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(2304, 32)
    )
    for layer in (module[2], module[4]):
        prune.l1_unstructured(layer, "weight", 0.95)
        prune.remove(layer, "weight")
    calibration = [torch.randn(4, 8, 8, 8) for _ in range(2)]
    quantized = by_fx(module.eval(), calibration) if how == "fx" else by_pt2e(module.eval(), x86(), calibration)
    x = calibration[0]
    taken = quantized if how == "fx" else torch.export.export(quantized, (x,), dynamic_shapes=(batch(),))
    report = gossamer.convert(taken, (x,), tmp_path / "net.goss")
    assert [row.format for row in report.rows] == ["dense int8", "sparse int8", "sparse int8"]
    want = quantized(x)
    assert (runtime.load(tmp_path / "net.goss").run(x) - want).norm() < 0.01 * want.norm()


@torch.no_grad()
def test_steps_of_int8_and_what_only_moves_them(tmp_path):
    """Activations in int8, a weight with one scale, a bias in int32, and a layer for which there is no integer form."""

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.randint(-128, 128, (24, 16), dtype=torch.int8))
            self.register_buffer("bias", torch.randint(-900, 900, (24,), dtype=torch.int32))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            levels = (-128, 127, torch.int8)
            x = STEPS.quantize_per_tensor(x, 0.0317, -7, *levels)
            moved = x.reshape(-1, 4, 16)
            x = STEPS.dequantize_per_tensor(moved, 0.0317, -7, *levels)
            weight = STEPS.dequantize_per_tensor(self.weight, 0.01237, 0, *levels)
            bias = STEPS.dequantize_per_tensor(self.bias, 0.000391, 0, -(2**31), 2**31 - 1, torch.int32)
            y = F.linear(x.transpose(1, 2).transpose(1, 2), weight, bias).clamp(-1.0, 2.0)
            y = STEPS.quantize_per_tensor(y, 0.0153, 3, -100, 100, torch.int8)
            z = STEPS.dequantize_per_tensor(y, 0.0153, 3, -100, 100, torch.int8)
            return y, torch.softmax(z, -1)

    torch.manual_seed(0)
    module, x = Spelled().eval(), torch.randn(12, 16)
    report = gossamer.convert(module, (x,), tmp_path / "net.goss")
    assert [(row.op, row.format) for row in report.rows] == [("linear_i8", "dense int8")]
    got, want = runtime.load(tmp_path / "net.goss").run(x), module(x)
    assert got[0].dtype == torch.int8
    agrees(got[0].float(), want[0].float(), 1.0)
    assert torch.allclose(got[1], want[1], rtol=0, atol=1e-3)


@torch.no_grad()
def test_the_least_int8_on_every_tier(tmp_path):
    """-128 times -128, as activations less 128 are where there are signed products alone, and again beside it."""

    class Least(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.register_buffer("weight", weight)
            self.register_buffer("scale", torch.full((len(weight),), 2.0**-10))

        def forward(self, x: Tensor) -> Tensor:
            steps = torch.ops.gossamer.quantize(x, 1.0, 0)
            return torch.ops.gossamer.linear_i8(steps, self.weight, self.scale, self.scale, None, 255, 1.0, 0, None)

    module = Least(torch.full((33, 70), -128, dtype=torch.int8)).eval()
    for rows in (1, 3, 300):
        x = torch.zeros(rows, 70)
        gossamer.convert(module, (x,), tmp_path / "net.goss")
        for isa in _core.cpu()["tiers"]:
            assert torch.equal(runtime.load(tmp_path / "net.goss", isa=isa).run(x), module(x)), isa


@torch.no_grad()
def test_what_works_in_place_changes_what_it_is_called_on(tmp_path):
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.six = nnq.Quantize(0.05, 110, torch.quint8), nnq.ReLU6(inplace=True)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            a, b, c, d = (self.enter(x) for _ in range(4))
            torch.relu_(a)
            F.relu(b, inplace=True)
            self.six(c)
            torch.relu(d)
            return a.dequantize(), b.dequantize(), c.dequantize(), d.dequantize()

    torch.manual_seed(0)
    module, x = Reused().eval(), 4 * torch.randn(3, 50)
    gossamer.convert(module, (x,), tmp_path / "net.goss")
    want = module(x)
    assert want[0].min() == 0 > want[3].min()
    assert all(map(torch.equal, runtime.load(tmp_path / "net.goss").run(x), want))


class Inner(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.enter, self.layer, self.leave = nnq.Quantize(0.1, 3, torch.quint8), layer, nnq.DeQuantize()

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.layer(self.enter(x)))


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x)[0]


REFUSED = {
    "an op of torch.ops.quantized": (
        lambda: nnq.ConvTranspose2d(3, 4, 3),
        (1, 3, 8, 8),
        r"net\.layer: .*packed weights gossamer knows.*leave that module in float32",
    ),
    "three dimensions": (
        lambda: nnq.Conv3d(3, 4, 3),
        (1, 3, 8, 8, 8),
        r"net\.layer: Conv3dPackedParamsBase.*qconfig = None",
    ),
    "a function of torch": (Sorted, (2, 5), r"net\.layer: sort: .* call dequantize\(\) before it"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_mapped_is_named(what, tmp_path):
    make, shape, message = REFUSED[what]
    module = nn.Sequential()
    module.add_module("net", Inner(make()))
    with pytest.raises(gossamer.UnsupportedOpError, match=message):
        gossamer.convert(module.eval(), (torch.randn(shape),), tmp_path / "net.goss")
    assert not list(tmp_path.iterdir())


def test_converting_needs_no_torchao():
    code = "import sys, torch, gossamer.converter, gossamer.compress;print('torchao' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
