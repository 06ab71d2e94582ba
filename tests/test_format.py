"""The page that specifies the file, against the one that writes it."""

import re
from pathlib import Path

import numpy as np

from gossamer import _core, runtime

PAGE = Path(__file__).parent.parent / "docs" / "format.md"


def dumped() -> bytes:
    """The bytes of the page's `hexdump -C`, in which `*` repeats the line before it."""
    text = re.search(r"^```text\n(00000000 .*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    found, row, repeat = bytearray(), b"", False
    for line in text.splitlines():
        if line == "*":
            repeat = True
            continue
        offset, cells = int(line[:8], 16), line[8:].split("|")[0]
        while repeat and len(found) < offset:
            found += row
        repeat = False
        assert len(found) == offset
        row = bytes.fromhex(cells.replace(" ", ""))
        found += row
    return bytes(found)


def built() -> bytes:
    """The same network, written by the writer."""
    b = _core.Builder()
    x = b.input("x", "float32", ["batch", 2], [2, 2])
    weight = b.matrix("weight", np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    bias = b.tensor("bias", np.array([0.5, -0.5, 0.0], np.float32))
    y = b.add("linear", [x, weight, bias, None], {"activation": None}, name="fc")
    b.output("y", y, ["batch", 3])
    return b.to_bytes()


def test_the_writer_writes_the_file_of_the_page():
    assert dumped() == built()


def test_the_file_of_the_page_runs():
    model = runtime.load(dumped())
    assert model.inputs[0].shape == ("batch", 2)
    x = np.array([[1, 0], [0, 1], [2, -1], [0.5, 0.25]], np.float32)
    weight, bias = np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.array([0.5, -0.5, 0.0], np.float32)
    np.testing.assert_array_equal(model.run(x), x @ weight.T + bias)


def test_the_page_names_the_version_that_is_written():
    version = int.from_bytes(built()[8:12], "little")
    assert PAGE.read_text().startswith(f"# The `.goss` file, version {version}\n")
