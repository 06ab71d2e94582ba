"""What `convert` promises, apart from the answers of each op."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import parametrizations, parametrize, prune

import gossamer
from gossamer import runtime


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.goss"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 40)]
    return nn.Sequential(*layers).eval()


def image(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


def check(module: nn.Module, path, *inputs: Tensor) -> None:
    """The file answers as the module does."""
    with torch.no_grad():
        want = module(*inputs)
    torch.testing.assert_close(runtime.load(path).run(*inputs), want, rtol=1e-5, atol=1e-5)


# -- what is found by itself -----------------------------------------------------------------------------------------


def test_masks_become_zeros_and_the_module_stays_as_it_was(path):
    module = net()
    prune.l1_unstructured(module[0], "weight", 0.3)
    prune.l1_unstructured(module[4], "weight", 0.9)
    module(image()).sum().backward()  # a mask after a training step: its weight is no leaf
    before = {name: value.clone() for name, value in module.state_dict().items()}
    report = gossamer.convert(module, (image(),), path)
    check(module, path, image(5))
    assert prune.is_pruned(module)
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    row = next(row for row in report.rows if row.path == "4")
    assert row.format == "sparse float32"
    assert row.sparsity == pytest.approx(0.9, abs=0.01)
    assert row.bytes_after < 0.2 * row.bytes_before


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, torch.nn.utils.spectral_norm]
)
def test_a_computed_weight_is_computed_once(path, wrap):
    module = nn.Sequential(wrap(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3))
    module.train()(torch.randn(4, 8))
    module.eval()
    report = gossamer.convert(module, (torch.randn(2, 8),), path)
    check(module, path, torch.randn(3, 8))
    assert [row.op for row in report.rows] == ["linear", "linear"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", ["to_sparse_csr", "to_sparse_coo", "to_sparse_bsr"])
def test_sparse_parameters_are_sparse_in_the_file(path, layout):
    class Layer(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x: Tensor) -> Tensor:
            return (self.weight @ x.T).T

    weight = torch.randn(64, 128) * (torch.rand(16, 32).repeat_interleave(4, 0).repeat_interleave(4, 1) > 0.9)
    make = getattr(weight, layout)
    module = Layer(make((4, 4)) if layout.endswith("bsr") else make())
    report = gossamer.convert(module, (torch.randn(2, 128),), path)
    x = torch.randn(5, 128)
    torch.testing.assert_close(runtime.load(path).run(x), x @ weight.T, rtol=1e-5, atol=1e-5)
    assert "sparse" in report.rows[0].format
    assert module.weight.layout != torch.strided


class Masked(nn.Module):
    """A parametrization that multiplies by a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def zeroed(layer: nn.Linear | nn.Conv2d, how: str, mask: Tensor) -> None:
    """Takes the weights out where a mask is zero, in one of the ways people do."""
    match how:
        case "mask":
            prune.custom_from_mask(layer, "weight", mask)
        case "mask made permanent":
            prune.custom_from_mask(layer, "weight", mask)
            prune.remove(layer, "weight")
        case "masks one on another":
            prune.custom_from_mask(layer, "weight", (mask + torch.rand_like(mask) > 0.5).float())
            prune.custom_from_mask(layer, "weight", mask)
        case "parametrization":
            parametrize.register_parametrization(layer, "weight", Masked(mask))
        case "parametrization made permanent":
            parametrize.register_parametrization(layer, "weight", Masked(mask))
            parametrize.remove_parametrizations(layer, "weight")
        case "zeros":
            layer.weight.data *= mask
        case "minus zeros":
            layer.weight.data = torch.where(mask > 0, layer.weight.data, -0.0)
        case _:
            # Of torch's layouts the one that its own linear layer takes.
            layer.weight = nn.Parameter((layer.weight.detach() * mask).to_sparse_csr(), requires_grad=False)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    ("how", "weights"),
    [
        ("mask", "float32"), ("mask", "float16"), ("mask", "int8"), ("mask made permanent", "float32"),
        ("masks one on another", "float32"), ("parametrization", "float32"),
        ("parametrization made permanent", "float32"), ("zeros", "float32"), ("minus zeros", "float32"),
        ("to_sparse_csr", "float32"),
    ],
)  # fmt: skip
def test_zeros_are_found_however_they_came(path, how, weights):
    torch.manual_seed(0)
    # In torch a convolution takes no sparse weight.
    convolves = how != "to_sparse_csr"
    layers = (
        [nn.Conv2d(4, 32, 3), nn.Flatten(), nn.Linear(128, 64)] if convolves else [nn.Flatten(), nn.Linear(144, 64)]
    )
    module = nn.Sequential(*layers).eval()
    wanted = {}
    for name, layer in module.named_children():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            mask = (torch.rand_like(layer.weight) > 0.9).float()
            zeroed(layer, how, mask)
            wanted[name] = 1 - float(mask.mean())
    x = torch.randn(3, 4, 4, 4) if convolves else torch.randn(3, 144)
    report = gossamer.convert(module, (x,), path, weights=weights)
    assert [row.path for row in report.rows] == list(wanted)
    for row in report.rows:
        assert row.format == f"sparse {weights}"
        assert row.sparsity == pytest.approx(wanted[row.path], abs=0.03)
    with torch.no_grad():
        want = module(x)
    tolerance = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2}[weights]
    torch.testing.assert_close(runtime.load(path).run(x), want, rtol=0, atol=tolerance * float(want.abs().max()))


def test_a_shared_weight_is_stored_once(path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(256, 256), nn.Linear(256, 256)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))) @ self.a.weight.T

    module = Tied()
    report = gossamer.convert(module, (torch.randn(2, 256),), path)
    check(module, path, torch.randn(3, 256))
    assert path.stat().st_size < 1.2 * 256 * 256 * 4
    assert report.rows[1].reason == "shares the weight of a"


class Words(nn.Module):
    """A table of words that is also the weight of the last layer, and a block that is used three times over."""

    def __init__(self, zeros: float) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(1000, 256), nn.Linear(256, 1000, bias=False)
        self.head.weight = self.words.weight
        self.block = nn.Sequential(nn.Linear(256, 256), nn.ReLU())
        with torch.no_grad():
            self.words.weight *= torch.rand(1000, 256, generator=torch.Generator().manual_seed(0)) >= zeros

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for _ in range(3):
            x = self.block(x)
        return self.head(x)


@pytest.mark.parametrize("zeros", [0.0, 0.9])
@pytest.mark.parametrize(("weights", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_what_is_tied_or_used_again_is_stored_and_held_once(path, weights, size, zeros):
    torch.manual_seed(0)
    module, ids = Words(zeros), torch.randint(0, 1000, (2, 7))
    gossamer.convert(module, (ids,), path, weights=weights)
    stored = size + 1 if zeros else size
    once = (1 - zeros) * stored * 1000 * 256 + size * 256 * 256
    # Scales, counts and the header are the rest.
    assert path.stat().st_size < 1.05 * once + 10_000
    # The lowest tier computes with the form that the file has.
    model = runtime.load(path, isa="scalar")
    assert model.memory["mapped"] + model.memory["private"] < 1.05 * once + 10_000
    tables = {layer["weight"] for layer in model.layers if layer["op"] in ("embedding", "linear") and "weight" in layer}
    assert len(tables) == 2
    if weights == "float32":
        check(module, path, torch.randint(0, 1000, (3, 7)))


@pytest.mark.parametrize(("weights", "size"), [("float16", 2), ("int8", 1)])
def test_a_table_of_words_is_stored_in_the_numbers_asked_for(path, weights, size):
    torch.manual_seed(0)
    table, ids = nn.Embedding(500, 200), torch.randint(0, 500, (2, 125))
    gossamer.convert(table, (ids,), path, weights=weights)
    assert path.stat().st_size < 1.1 * size * 500 * 200 + 4000
    step = table.weight.detach().abs().amax(1) / (127 if weights == "int8" else 1024)
    ids = torch.arange(500).reshape(4, 125)
    assert ((runtime.load(path).run(ids) - table(ids)).abs().amax(2) <= 0.51 * step[ids]).all()


def test_two_factors_are_one_layer(path):
    module = nn.Sequential(nn.Linear(64, 4, bias=False), nn.Linear(4, 64), nn.ReLU())
    report = gossamer.convert(module, (torch.randn(2, 64),), path)
    assert len(report.rows) == 1
    assert "low-rank" in report.rows[0].format
    check(module, path, torch.randn(7, 64))


def test_int8_times_a_scale_stays_int8(path):
    class Scaled(nn.Module):
        """As weight-only quantizers leave it."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("q", torch.randint(-127, 128, (48, 96), dtype=torch.int8))
            self.register_buffer("scale", torch.rand(48, 1) * 0.01)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.q.float() * self.scale)

    module = Scaled()
    report = gossamer.convert(module, (torch.randn(2, 96),), path)
    assert report.rows[0].format == "dense int8"
    assert path.stat().st_size < 96 * 48 * 2
    check(module, path, torch.randn(3, 96))


@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_narrow_weights_are_asked_for(path, weights):
    module = net()
    whole = gossamer.convert(module, (image(),), path).bytes_after
    report = gossamer.convert(module, (image(),), path, weights=weights)
    assert report.bytes_after < (0.6 if weights == "float16" else 0.4) * whole
    assert 0 < report.difference < 0.05 * report.size


def test_a_weight_beyond_float16_stays_and_is_named(path):
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        module[0].weight[0, 0] = 1e6
    report = gossamer.convert(module, (torch.randn(2, 8),), path, weights="float16")
    assert [row.format for row in report.rows] == ["dense float32", "dense float16"]
    assert any("0.weight stays float32" in note for note in report.notes)


# -- shapes ----------------------------------------------------------------------------------------------------------


def test_the_batch_is_dynamic_whatever_the_example(path):
    module = net()
    gossamer.convert(module, (image(1),), path)
    assert runtime.load(path).inputs[0].shape == ("batch", 3, 8, 8)
    for n in (1, 2, 7):
        check(module, path, image(n))


def test_a_model_that_needs_its_batch_keeps_it(path):
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(3, 8) + 1

    report = gossamer.convert(Fixed(), (torch.randn(4, 6),), path)
    assert runtime.load(path).inputs[0].shape == (4, 6)
    assert any("fixed" in note for note in report.notes)


def test_a_model_that_treats_a_batch_of_one_apart_keeps_its_batch(path):
    class Squeezing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2).squeeze()

    report = gossamer.convert(Squeezing(), (torch.randn(1, 6),), path)
    check(Squeezing(), path, torch.randn(1, 6))
    assert any("batch of one" in note for note in report.notes)


class Offset(nn.Module):
    """A buffer that has the name of the input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("x", torch.arange(4.0)[None])

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + self.x


def test_a_tensor_may_have_the_name_of_an_input(path):
    module = Offset()
    gossamer.convert(module, (torch.randn(1, 4),), path)
    model = runtime.load(path)
    assert [value.name for value in model.inputs] == ["x"]
    check(module, path, torch.randn(3, 4))


def test_dimensions_that_the_caller_names(path):
    class Scores(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.softmax(a @ b.transpose(1, 2), -1).reshape(a.shape[0] * a.shape[1], -1)

    shapes = {"a": {0: Dim("n"), 1: Dim("left")}, "b": {0: Dim("n"), 1: Dim("right")}}
    gossamer.convert(Scores(), (torch.randn(3, 4, 8), torch.randn(3, 5, 8)), path, dynamic_shapes=shapes)
    assert [value.shape for value in runtime.load(path).inputs] == [("n", "left", 8), ("n", "right", 8)]
    check(Scores(), path, torch.randn(2, 6, 8), torch.randn(2, 9, 8))


def test_a_place_that_a_size_tells(path):
    class Ends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, x.shape[1] - 3] * x[:, -2] + x[:, x.shape[1] - 1 :].sum(1)

    gossamer.convert(Ends(), (torch.randn(3, 10),), path, dynamic_shapes=({1: Dim("t", min=4)},))
    for length in (4, 11):
        check(Ends(), path, torch.randn(3, length))

    class Chosen(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            return x[:, i.sum().item()]

    with pytest.raises(gossamer.UnsupportedOpError, match="which slice depends on the values of the inputs"):
        gossamer.convert(Chosen(), (torch.randn(3, 10), torch.tensor([1, 2])), path)


def test_a_program_that_torch_exported(path):
    module = net()
    exported = torch.export.export(module, (image(3),), dynamic_shapes=({0: Dim.DYNAMIC},))
    gossamer.convert(exported, (image(3),), path)
    check(module, path, image(4))


def test_training_mode_is_converted_as_eval_and_left_on(path):
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.9)).train()
    report = gossamer.convert(module, (torch.randn(4, 6),), path)
    assert all(m.training for m in module.modules())
    assert any("training mode" in note for note in report.notes)
    check(module.eval(), path, torch.randn(3, 6))


# -- refusals --------------------------------------------------------------------------------------------------------


class Hopeless(nn.Module):
    """Two things that no file can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.memory(self.head(x))
        return y + torch.cummax(x, 1)[0]


def test_all_that_is_unsupported_is_named_at_once(tmp_path, path):
    with pytest.raises(gossamer.UnsupportedOpError) as refused:
        gossamer.convert(Hopeless().eval(), (torch.randn(3, 2, 4),), path)
    text = str(refused.value)
    assert "2 operations" in text
    assert "memory: aten.lstm" in text
    assert "recurrent" in text
    assert "aten.cummax" in text
    assert "test_convert.py:" in text
    assert "torch.cummax(x, 1)" in text
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_leaves_the_file_that_was_there(tmp_path, path):
    path.write_bytes(b"kept")
    with pytest.raises(gossamer.UnsupportedOpError):
        gossamer.convert(Hopeless().eval(), (torch.randn(3, 2, 4),), path)
    assert path.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [path]


def test_an_answer_that_is_not_torchs_is_refused(tmp_path, path):
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(gossamer.Error):
        gossamer.convert(Random(), (torch.randn(2, 4),), path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_never_kept(tmp_path, path, monkeypatch):
    from gossamer import converter

    honest = runtime.load

    class Liar:
        """A model that is off by a little."""

        def __init__(self, source) -> None:
            self.inner = honest(source)
            self.layers, self.isa = self.inner.layers, self.inner.isa

        def run(self, *inputs: Tensor) -> Tensor:
            return self.inner.run(*inputs) * 1.001

    monkeypatch.setattr(converter.runtime, "load", Liar)
    with pytest.raises(gossamer.Error, match="rounding explains"):
        gossamer.convert(net(), (image(),), path)
    assert list(tmp_path.iterdir()) == []


def test_float64_is_refused_and_says_what_to_do(path):
    with pytest.raises(gossamer.UnsupportedOpError, match=r"module\.float\(\)"):
        gossamer.convert(nn.Linear(4, 4).double().eval(), (torch.randn(2, 4).double(),), path)


def test_a_model_with_state_is_refused(path):
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x + self.seen

    with pytest.raises(gossamer.UnsupportedOpError, match="`seen`"):
        gossamer.convert(Counter(), (torch.randn(2, 4),), path)


def test_arguments_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match="float32, float16, int8"):
        gossamer.convert(net(), (image(),), tmp_path / "net.goss", weights="int4")
    with pytest.raises(FileNotFoundError, match="no directory"):
        gossamer.convert(net(), (image(),), tmp_path / "nowhere" / "net.goss")


# -- the report ------------------------------------------------------------------------------------------------------


def test_the_report_is_a_table_and_json(path):
    report = gossamer.convert(net(), (image(),), path)
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "op", "format", "zeros", "before", "after", "kernel", "why"]
    assert lines[1].split()[:2] == ["0", "conv"]
    assert lines[2].split()[:2] == ["4", "linear"]
    assert "Largest difference from torch" in str(report)
    parsed = json.loads(report.to_json())
    assert parsed["bytes_after"] == path.stat().st_size
    assert parsed["rows"][1]["path"] == "4"
    assert parsed["rows"][1]["kernel"]
    assert parsed["rows"][1]["bytes_before"] == 4 * (40 * 32 * 36 + 40)


def test_conversion_is_repeatable_and_the_file_is_readable_by_others(tmp_path):
    for name in ("a", "b"):
        gossamer.convert(net(), (image(),), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_mode & 0o044


def test_without_torch_convert_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import gossamer\n"
        "from gossamer import runtime\n"
        "try: gossamer.convert\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'gossamer[torch]'" in done.stdout


def test_numpy_in_numpy_out(path):
    gossamer.convert(net(), (image(),), path)
    assert isinstance(runtime.load(path).run(image().numpy()), np.ndarray)
