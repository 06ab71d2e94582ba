"""Winograd's method: only where it is asked for, only where it applies, and near the sum that it stands for."""

import numpy as np
import pytest
import torch
from torch import nn

import gossamer
from gossamer import runtime


class Net(nn.Module):
    """Convolutions that suit, with what follows them, and one of stride 2 that does not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 40, 3, padding=1)
        self.second = nn.Conv2d(40, 33, 3, padding=(0, 2))
        self.third = nn.Conv2d(33, 33, 3, padding=1)
        self.last = nn.Conv2d(33, 48, 3, stride=2)

    def forward(self, x):
        x = nn.functional.silu(self.second(torch.relu(self.first(x))))
        return self.last(torch.relu(self.third(x) + x))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    torch.manual_seed(0)
    module, path = Net().eval(), tmp_path_factory.mktemp("winograd") / "net.goss"
    sizes = {2: torch.export.Dim("height", min=16), 3: torch.export.Dim("width", min=16)}
    gossamer.convert(module, (torch.randn(2, 3, 30, 31),), path, dynamic_shapes=({0: torch.export.Dim("n"), **sizes},))
    return module, path


def kernels(model, x):
    return [step["kernel"].split("/")[0] for step in model.profile(x, repeat=1).steps]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(1, 3, 30, 31), (2, 3, 24, 50), (1, 3, 66, 65)])
def test_answers_are_near(converted, threads, size):
    module, path = converted
    x = torch.randn(size)
    model = runtime.load(path, threads=threads, winograd=True)
    assert kernels(model, x).count("winograd_f32") == 2
    with torch.no_grad():
        want = module.double()(x.double()).numpy()
        module.float()
    got = model.run(x.numpy())
    assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


def test_bits_do_not_depend_on_threads(converted):
    _, path = converted
    x = np.random.default_rng(0).standard_normal((2, 3, 60, 60), dtype=np.float32)
    answers = [runtime.load(path, threads=threads, winograd=True).run(x) for threads in (1, 2, 3)]
    assert all(np.array_equal(answers[0], answer) for answer in answers)


def test_it_is_off_unless_asked_for(converted):
    _, path = converted
    model = runtime.load(path)
    assert "winograd_f32" not in kernels(model, np.zeros((1, 3, 66, 65), np.float32))


def test_memory_of_its_weights_is_counted(converted):
    _, path = converted
    points = 36 * 4 * (40 * 48 + 33 * 48)  # of both convolutions, in tiles of 16 rows
    model = runtime.load(path, winograd=True)
    assert model.memory["private"] >= 0
    with pytest.raises(gossamer.Error, match="Winograd"):
        runtime.load(path, winograd=True, max_memory=points // 2)
    assert runtime.load(path, max_memory=points // 2).memory["private"] < model.memory["private"]
