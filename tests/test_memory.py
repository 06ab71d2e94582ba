"""What a file takes, and what a process holds of it: the formulas of docs/format.md, and the pages of the map."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gossamer
from gossamer import compress, runtime


def header(path: Path) -> dict:
    content = path.read_bytes()
    length = int.from_bytes(content[16:24], "little")
    return json.loads(content[24 : 24 + length])


@pytest.mark.parametrize(("weights", "value"), [("float32", 4), ("float16", 2), ("int8", 1)])
@pytest.mark.parametrize("k", [256, 400, 1024])
@pytest.mark.parametrize("pattern", ["unstructured", "balanced", "4x1", "1x4"])
def test_a_non_zero_takes_its_value_and_its_index_and_little_more(pattern, k, weights, value, tmp_path):
    torch.manual_seed(0)
    m = 128
    module = compress.prune(nn.Sequential(nn.Linear(k, m, bias=False)), 0.9, pattern=pattern)
    gossamer.convert(module, (torch.randn(2, k),), tmp_path / "net.goss", weights=weights)
    (entry,) = [e for e in header(tmp_path / "net.goss")["tensors"] if e["form"] == "sparse"]
    sizes = {name: entry[name]["length"] for name in ("counts", "indices", "values")}
    (layer,) = [row for row in runtime.load(tmp_path / "net.goss").layers if "nnz" in row]
    nnz, height, width = layer["nnz"], entry.get("height", 1), entry.get("width", 1)
    assert (height, width) == {"4x1": (4, 1), "1x4": (1, 4)}.get(pattern, (1, 1))
    # Nothing is stored but what the formula names; in stacks an index serves `height` values, in fours `width`.
    stored, unit = sizes["values"] // value, height * width
    assert sizes == {"counts": -(-m // height) * -(-k // 256), "indices": stored // unit, "values": stored * value}
    assert nnz == pytest.approx(0.1 * m * k, rel=0.02)
    more = sum(sizes.values()) / nnz - value - 1
    # Of a last block that is narrower than the others, a count is spread over fewer non-zeros.
    assert more <= (0.06 if k % 256 == 0 else 0.1)
    # The report counts the same, with the scales.
    scales = 4 * m if weights == "int8" else 0
    assert layer["bytes"] == sum(sizes.values()) + scales


CODE = """
import json, sys
import numpy as np
from gossamer import runtime

path, batch = sys.argv[1], int(sys.argv[2])
model = runtime.load(path, threads=1)
model.run(np.zeros((batch, 2048), np.float32))
resident, ours = 0, False
for line in open("/proc/self/smaps"):
    words = line.split()
    if "-" in words[0] and not words[0].endswith(":"):
        ours = line.rstrip().endswith(path)
    elif ours and words[0] == "Rss:":
        resident += int(words[1]) * 1024
print(json.dumps({"resident": resident, **model.memory}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mmap", [True, False])
def test_memory_says_what_is_held(mmap, tmp_path):
    torch.manual_seed(0)
    module = compress.prune(nn.Sequential(nn.Linear(2048, 1024)), 0.9)
    gossamer.convert(module, (torch.randn(40, 2048),), tmp_path / "net.goss", weights="float16")
    model = runtime.load(tmp_path / "net.goss", mmap=mmap, threads=1)
    before = model.memory
    nnz = round(0.1 * 2048 * 1024)
    in_place = nnz * 2 + 1024 * 4  # values and bias; counts and indices are copies
    assert before["mapped" if mmap else "private"] >= in_place
    assert before["mapped"] == (pytest.approx(in_place, rel=0.01) if mmap else 0)
    copies = nnz + 1024 * 8
    assert before["private"] == pytest.approx(copies + (0 if mmap else in_place), rel=0.05)
    model.run(np.zeros((1, 2048), np.float32))
    assert model.memory["private"] >= before["private"], "a vector's kernel may want a form of its own"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_that_were_copied_are_let_go(tmp_path):
    torch.manual_seed(0)
    module = compress.prune(nn.Sequential(nn.Linear(2048, 4096)), 0.9)
    path = tmp_path / "net.goss"
    # Sizes of the example decide for which plan forms are made at load.
    gossamer.convert(module, (torch.randn(40, 2048),), path)
    size = path.stat().st_size

    def held(batch: int) -> dict:
        command = [sys.executable, "-c", CODE, str(path.resolve()), str(batch)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Indices are a fifth of the file, and copied; values are read in place.
    many = held(40)
    assert many["mapped"] < many["resident"] < 0.9 * size
    one = held(1)
    if one["private"] > many["private"] + many["mapped"] // 2:  # on this CPU a vector's kernel packs the weight
        assert one["resident"] < 0.2 * size
