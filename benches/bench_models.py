"""The networks of models.py in torch and in gossamer, side by side, under pytest-benchmark.

`make bench` runs it; `pytest benches/bench_models.py --benchmark-enable -k resnet50` runs a part. One thread each.
"""

import models
import pytest
import torch

import gossamer
from gossamer import compress, runtime

CASES = ["mobilenetv2", "mobilenetv2_s90", "resnet50", "resnet50_s90", "mlp", "mlp_s90", "mlp_b64", "lowrank1000r100"]
INTEGER = ["mobilenetv2", "mobilenetv2_s90", "resnet50"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_torch(benchmark, case):
    benchmark.group = case
    module, x = models.build(case)
    with torch.inference_mode():
        benchmark(module, x)


@pytest.mark.parametrize("case", CASES)
def test_gossamer(benchmark, case, tmp_path):
    benchmark.group = case
    module, x = models.build(case)
    gossamer.convert(module, (x,), tmp_path / "net.goss")
    model = runtime.load(tmp_path / "net.goss", threads=1)
    benchmark(model.run, x.numpy())


@pytest.mark.parametrize("case", INTEGER)
def test_gossamer_int8(benchmark, case, tmp_path):
    benchmark.group = case
    module, x = models.build(case)
    module = compress.quantize(module, [(models.make_like(x),) for _ in range(4)])
    gossamer.convert(module, (x,), tmp_path / "net.goss")
    model = runtime.load(tmp_path / "net.goss", threads=1)
    benchmark(model.run, x.numpy())
