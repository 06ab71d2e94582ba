"""torch's own samples of its modules: each module matches torch on all of them, or is refused by name.

Losses, lazy modules, volumes and recurrent layers are out of scope; recurrent layers are refused as such. Modules are
taken in eval mode: what they do only in training (dropout, the statistics of batches) is no part of a model that runs.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from samples import Call, judge, spread
from torch.backends import mha
from torch.testing._internal.common_modules import module_db


# Outside of training, torch's transformers take a shortcut which answers zero for what is padding; a capture does not.
@pytest.fixture(autouse=True)
def _no_shortcut():
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    yield
    mha.set_fastpath_enabled(enabled)


RECURRENT = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
MODULES = {info.module_cls.__name__: info for info in module_db}
ENTRIES = [n for n in MODULES if "Loss" not in n and not n.startswith("Lazy") and "3d" not in n and n not in RECURRENT]


def samples(name: str) -> list[Call]:
    """A module's samples in float32, those that torch itself can run."""
    info, calls = MODULES[name], []
    torch.manual_seed(0)
    for i, sample in enumerate(
        info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
    ):
        made, shown = sample.constructor_input, sample.forward_input
        if shown is None:
            continue
        module = info.module_cls(*made.args, **made.kwargs).eval()
        call = Call(f"{name} {i} {sample.desc}", module, shown.args, shown.kwargs)
        try:
            call(call.inputs())
        except RuntimeError:
            continue
        calls.append(call)
    return calls


@functools.cache
def judged(name: str, most: int = 6) -> dict[str, str]:
    """What became of each sample of a module."""
    with warnings.catch_warnings():
        # torch warns of some of its own samples, such as transformers without the batch first.
        warnings.simplefilter("ignore")
        # Of the transformers, which have dozens, some: their export takes long.
        calls = spread(samples(name), most)
    with tempfile.TemporaryDirectory(prefix="gossamer-modules-") as folder:
        return dict(zip((call.name for call in calls), judge(calls, Path(folder)), strict=True))


@pytest.mark.parametrize("name", ENTRIES)
def test_a_module_matches_or_is_refused(name):
    wrong = {call: problem for call, problem in judged(name).items() if problem.startswith("wrong")}
    assert not wrong, "\n".join(f"{call}: {problem}" for call, problem in wrong.items())


def test_most_modules_match_on_every_sample():
    known = [name for name in ENTRIES if judged(name)]
    match = [name for name in known if not any(judged(name).values())]
    refused = {name: next(filter(None, judged(name).values())) for name in known if name not in match}
    print(f"\n{len(match)} of {len(known)} modules match on all of their samples: {', '.join(match)}")
    print("refused:", *(f"  {name}: {why}" for name, why in refused.items()), sep="\n")
    print("torch runs none of its own samples of:", ", ".join(name for name in ENTRIES if not judged(name)))
    assert len(match) >= 0.8 * len(known)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_module_is_refused_as_such(name):
    # One sample of each, since they differ in sizes alone.
    problems = judged(name, 1).values()
    assert problems
    assert all(problem.startswith("refused") and "recurrent" in problem for problem in problems)
