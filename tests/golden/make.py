"""Writes the golden files: one a form of weight, and their answers, computed by numpy from the numbers that went in.

A version of the format keeps its files for ever: run this to add a file or a version, never to change what is there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gossamer import _core

ROOT = Path(__file__).parent / "v1"


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    """The input every golden file is shown: eighths between -11 and 11, which float32 and sums of them hold exactly."""
    return ((np.arange(np.prod(shape)) * 7 % 23 - 11) / 8).astype(np.float32).reshape(shape)


def codes(shape: tuple[int, ...]) -> np.ndarray:
    """The same for bytes."""
    return (np.arange(np.prod(shape)) * 37 % 251).astype(np.uint8).reshape(shape)


def weights(m: int, k: int, zeros: int) -> np.ndarray:
    """A matrix of whole numbers, `zeros` in ten of them zero."""
    i = np.arange(m * k)
    return np.where(i * 7 % 10 < zeros, 0, i * 31 % 255 - 127).astype(np.float32).reshape(m, k)


def linear(name: str, storage: str, zeros: int, *, rank: int = 0) -> list[float]:
    """`relu(x Wᵀ + b)` for 3 vectors of 300."""
    m, k = 18, 300
    builder, x, bias = _core.Builder(), numbers((3, k)), numbers((m,))
    source = builder.input("x", "float32", ["n", k], [3, k])
    if rank:
        u, v = weights(m, rank, 0) / 128, weights(rank, k, zeros)
        weight = u.astype(np.float64) @ v
        factors = [builder.matrix(n, part, storage=storage) for n, part in (("u", u), ("v", v))]
        token = builder.low_rank("w", *factors)
    else:
        weight = weights(m, k, zeros)
        # Every row reaches 127, so that int8 has a scale of 1 and holds the numbers exactly.
        weight[:, 0] = 127
        token = builder.matrix("w", weight, storage=storage)
    inputs = [source, token, builder.tensor("b", bias)]
    builder.output("y", builder.add("linear", inputs, {"activation": {"fn": "relu"}}, name="fc"), ["n", m])
    builder.save(ROOT / f"{name}.goss")
    return np.maximum(x.astype(np.float64) @ weight.T.astype(np.float64) + bias, 0).ravel().tolist()


def windows(x: np.ndarray, pad: float) -> np.ndarray:
    """The nine taps of every pixel, `(channels, 9, pixels)`."""
    _, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=pad)
    taps = [padded[:, y : y + h, z : z + w].reshape(len(x), -1) for y in range(3) for z in range(3)]
    return np.stack(taps, axis=1)


GEOMETRY = {"kernel": [3, 3], "stride": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1]}


def depthwise() -> list[float]:
    """A filter a channel."""
    shape = (1, 5, 6, 7)
    builder, x, weight = _core.Builder(), numbers(shape), weights(5, 9, 0)
    source = builder.input("x", "float32", list(shape), list(shape))
    y = builder.add("conv", [source, builder.tensor("w", weight)], {**GEOMETRY, "groups": 5}, name="conv")
    builder.output("y", y)
    builder.save(ROOT / "depthwise.goss")
    return np.einsum("ctp,ct->cp", windows(x[0].astype(np.float64), 0), weight).ravel().tolist()


def conv_int8(name: str, zeros: int) -> list[float]:
    """A convolution in integers; scales are powers of two, so that the oracle rounds as the file says."""
    shape, m = (1, 16, 5, 6), 17
    zero, out = 3, {"zero_point": 9, "lo": 0, "hi": 200}
    builder, x = _core.Builder(), codes(shape)
    weight = weights(m, 16 * 9, zeros).astype(np.int8)
    scale, bias = np.full(m, 2.0**-13, np.float32), numbers((m,))
    source = builder.input("x", "uint8", list(shape), list(shape))
    inputs = [source, builder.matrix_int8("w", weight), builder.tensor("s", scale), builder.tensor("b", bias)]
    attrs = {**GEOMETRY, "groups": 1, "x_zero_point": zero, "output": out}
    builder.output("y", builder.add("conv_i8", inputs, attrs, name="conv"))
    builder.save(ROOT / f"{name}.goss")
    columns = windows(x[0].astype(np.int64), zero).reshape(16 * 9, -1) - zero
    sums = (weight.astype(np.int64) @ columns).astype(np.float32)
    y = np.rint(sums * scale[:, None] + bias[:, None]) + out["zero_point"]
    return np.clip(y, out["lo"], out["hi"]).ravel().tolist()


def main() -> None:
    """Writes what is not there yet."""
    ROOT.mkdir(exist_ok=True)
    answers = {
        "dense_float32": linear("dense_float32", "float32", 0),
        "dense_float16": linear("dense_float16", "float16", 0),
        "dense_int8": linear("dense_int8", "int8", 0),
        "sparse_float32": linear("sparse_float32", "float32", 8),
        "sparse_float16": linear("sparse_float16", "float16", 8),
        "sparse_int8": linear("sparse_int8", "int8", 8),
        "low_rank": linear("low_rank", "float32", 8, rank=4),
        "depthwise": depthwise(),
        "conv_int8": conv_int8("conv_int8", 0),
        "conv_sparse_int8": conv_int8("conv_sparse_int8", 8),
    }
    text = ",\n".join(f'"{name}": {json.dumps(answer)}' for name, answer in answers.items())
    (ROOT / "answers.json").write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    main()
