"""Files that earlier versions wrote are read, and answer as they did."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.make import codes, numbers

import gossamer

VERSIONS = Path(__file__).parent / "golden"
ANSWERS = {
    path.parent / f"{name}.goss": answer
    for path in sorted(VERSIONS.glob("v*/answers.json"))
    for name, answer in json.loads(path.read_text()).items()
}


def test_every_file_has_an_answer():
    assert set(VERSIONS.glob("v*/*.goss")) == set(ANSWERS)
    forms = {layer.get("format") for path in ANSWERS for layer in gossamer.load(path).layers}
    stored = [f"{structure} {dtype}" for structure in ("dense", "sparse") for dtype in ("float32", "float16", "int8")]
    assert forms >= {*stored, "low-rank float32"}


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "private"])
def test_a_golden_file_answers_as_it_did(path, mmap):
    model = gossamer.load(path, mmap=mmap, threads=2)
    (value,), (example,) = model.inputs, model.examples
    given = codes(example) if value.dtype == "uint8" else numbers(example)
    answer = model.run(given)
    expected = np.array(ANSWERS[path]).reshape(answer.shape)
    assert expected.std() > 1
    if answer.dtype == np.uint8:
        assert np.array_equal(answer, expected)
    else:
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
