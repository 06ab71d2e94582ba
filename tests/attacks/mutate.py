"""Hostile files: mutates sound ones, puts the checksums right again, loads and runs what comes out.

    python tests/attacks/mutate.py --mutations 1000000

Whatever the bytes, gossamer answers or raises `gossamer.Error`: it does not crash or hang, and loading takes at most
four times the file and 64 MiB. Mutations are made and tried in a process of their own, which this one watches; a file
that breaks a promise is written to `tests/attacks/found-<seed>.goss`, and belongs beside this script once understood.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import gossamer
from gossamer import _core

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "v1"
PREFIX = 24
#: Seconds of processor that a file may take to load and run: a process that is stopped, or waits for its turn, is
#: not at fault.
HANG = 20
#: Seconds by the clock after which a file that takes no processor is given up.
WAIT = 10 * HANG
#: Bytes a run may use, and a load beside four times the file.
MEMORY, SLACK = 1 << 20, 64 << 20
#: Bytes a worker gets beside what it has at its start: a broken promise should cost nobody else their memory.
ROOM = 2 << 30


def layers() -> bytes:
    """A file with the layers that no golden file has, one after the other."""
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 6, 8, 8], [2, 6, 8, 8])
    ids = b.input("ids", "int64", ["n", 3], [2, 3])
    window = {"stride": [2, 2], "padding": [[1, 1], [1, 1]], "dilation": [1, 1]}
    weight = ((np.arange(8 * 3 * 9) % 17) - 8).astype(np.float32).reshape(8, 27)
    y = b.add(
        "conv",
        [x, b.matrix("w", weight, groups=2)],
        {"kernel": [3, 3], "groups": 2, "activation": {"fn": "silu"}, **window},
    )
    y = b.add("pool", [y], {"kind": "max", "kernel": [3, 3], **window})
    y = b.add("pool", [y], {"kind": "avg", "kernel": [2, 2], **window, "ceil_mode": True})
    channel = b.tensor("channel", np.arange(8, dtype=np.float32))
    y = b.add("affine", [y, channel, channel])
    y = b.add("group_norm", [y, channel, channel], {"groups": 2, "eps": 1e-5})
    small = b.add("adaptive_pool", [y], {"kind": "avg", "output_size": [1, 1]})
    y = b.add("binary", [y, small], {"fn": "mul"})
    y = b.add("cat", [y, y], {"axis": 1})
    flat = b.add("reshape", [y], {"shape": ["n", 16, -1]})
    turned = b.add("permute", [flat], {"axes": [0, 2, 1]})
    normal = b.add("layer_norm", [turned], {"dims": 1, "eps": 1e-5})
    part = b.add("slice", [normal], {"axis": 2, "start": 1, "stop": -1, "step": 2})
    wide = b.add(
        "expand", [b.add("reduce", [part], {"fn": "mean", "axes": [1], "keepdim": True})], {"shape": ["n", 3, 7]}
    )
    b.output("softmax", b.add("softmax", [wide], {"axis": 2}))
    q = b.add("quantize", [x], {"scale": 0.05, "zero_point": 7})
    table = b.tensor("table", np.arange(256, dtype=np.uint8)[::-1].copy())
    looked = b.add("lookup_i8", [q, table])
    output = {"zero_point": 3, "lo": 0, "hi": 255}
    scaled = {"scale": 0.5, "zero_point": 7}
    q = b.add("add_i8", [q, looked], {"a": scaled, "b": scaled, "output": output})
    mean = {"x_zero_point": 3, "scale": 1.5, "output": output}
    pooled = b.add("pool", [q], {"kind": "avg", "kernel": [3, 3], **window, "mean": mean})
    filters = b.tensor("filters", (np.arange(54) % 200 - 100).astype(np.int8).reshape(6, 9))
    one = b.tensor("one", np.full(6, 1 / 64, np.float32))
    quantized = {"x_zero_point": 3, "output": output}
    deep = b.add("conv_i8", [pooled, filters, one, one], {"kernel": [3, 3], "groups": 6, **window, **quantized})
    b.output("mean", b.add("mean_i8", [deep], {"axes": [2, 3], "keepdim": False, "mean": mean}))
    flat = b.add("reshape", [deep], {"shape": ["n", -1]})
    matrix = b.matrix_int8("m", (np.arange(5 * 24) % 255 - 127).astype(np.int8).reshape(5, 24))
    five = b.tensor("five", np.full(5, 1 / 64, np.float32))
    y = b.add("linear_i8", [flat, matrix, five, five], quantized)
    real = b.add("dequantize", [y], scaled)
    square = b.matrix_int8("square", (np.arange(4 * 5) % 255 - 127).astype(np.int8).reshape(4, 5))
    four = b.tensor("four", np.full(4, 1 / 64, np.float32))
    b.output("bytes", b.add("dynamic_linear_i8", [real, square, four, None]))
    words = b.matrix("words", (weight * (weight > 6)).reshape(27, 8))
    b.output("words", b.add("embedding", [ids, words]))
    return b.to_bytes()


def integers() -> bytes:
    """A file of what else is computed on bytes."""
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 6, 8, 8], [2, 6, 8, 8])
    output = {"zero_point": 3, "lo": 0, "hi": 255}
    product = {"a_zero_point": 7, "b_zero_point": 7, "scale": 0.02, "output": output}
    q = b.add("quantize", [x], {"scale": 0.05, "zero_point": 7})
    gate = b.add(
        "mean_i8", [q], {"axes": [2, 3], "keepdim": True, "mean": {"x_zero_point": 7, "scale": 1.0, "output": output}}
    )
    y = b.add("mul_i8", [q, gate], product)
    y = b.add("mul_i8", [y, y], product)
    y = b.add("resize", [y], {"kind": "linear", "output_size": [13, 12]})
    seven = b.tensor("seven", np.full(1, 7, np.uint8))
    y = b.add("pad", [y, seven], {"padding": [[0, 0], [0, 0], [1, 2], [0, 1]], "mode": "constant"})
    y = b.add("resize", [y], {"kind": "nearest", "output_size": [8, 8], "scales": [0.5, 0.6]})
    y = b.add("pad", [y], {"padding": [[0, 0], [0, 0], [1, 2], [3, 1]], "mode": "reflect"})
    window = {"kernel": [3, 3], "stride": [2, 2], "padding": [[1, 1], [1, 1]], "dilation": [1, 1]}
    filters = (np.arange(8 * 54) % 255 - 127).astype(np.int8).reshape(8, 54)
    ten = (filters * (filters > 110)).astype(np.int8)
    one = b.tensor("one", np.full(8, 1 / 640, np.float32))
    quantized = {"x_zero_point": 3, "output": output}
    y = b.add("conv_i8", [y, b.matrix_int8("full", filters), one, one], {"groups": 1, **window, **quantized})
    fours = (np.repeat(np.arange(8 * 18) % 7 == 0, 4).reshape(8, 72) * (filters[:, :18] | 1).repeat(4, 1)).astype(
        np.int8
    )
    y = b.add(
        "conv_i8",
        [y, b.matrix_int8("fours", fours), one, one],
        {"groups": 1, **window, "stride": [1, 1], **quantized},
    )
    y = b.add(
        "conv_i8",
        [y, b.matrix_int8("few", np.tile(ten, (1, 2))[:, :72].copy()), one, one],
        {"groups": 1, **window, **quantized},
    )
    flat = b.add("reshape", [b.add("cat", [y, y], {"axis": 1})], {"shape": ["n", -1]})
    few = (np.arange(9 * 144) % 11 == 0).astype(np.int8).reshape(9, 144) * np.int8(5)
    nine = b.tensor("nine", np.full(9, 1 / 64, np.float32))
    y = b.add("linear_i8", [flat, b.matrix_int8("rare", few), nine, nine, None], quantized)
    fours = b.matrix_int8("more fours", np.concatenate([fours, fours], 1))
    b.output("fours", b.add("linear_i8", [flat, fours, one, one, None], quantized))
    real = b.add("dequantize", [y], {"scale": 0.5, "zero_point": 3})
    b.output("rare", b.add("dynamic_linear_i8", [real, b.matrix_int8("rarer", few[:, :9].copy()), nine, nine]))
    return b.to_bytes()


def image() -> bytes:
    """A file of a convolution on bytes with so many channels that matrix units compute it of a packed image."""
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 48, 2, 9], [2, 48, 2, 9])
    q = b.add("quantize", [x], {"scale": 0.05, "zero_point": 7})
    filters = b.matrix_int8("filters", (np.arange(5 * 288) % 254 - 127).astype(np.int8).reshape(5, 288))
    one = b.tensor("one", np.full(5, 1 / 640, np.float32))
    window = {"kernel": [2, 3], "stride": [1, 1], "padding": [[0, 1], [1, 1]], "dilation": [1, 1], "groups": 1}
    output = {"zero_point": 3, "lo": 0, "hi": 255}
    y = b.add("conv_i8", [q, filters, one, one], {"x_zero_point": 7, "output": output, **window})
    b.output("y", b.add("dequantize", [y], {"scale": 0.5, "zero_point": 3}))
    return b.to_bytes()


def weights() -> bytes:
    """A file of stacks of rows, of fours of columns and of pairs of factors, in each type, wide and narrow."""
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 48], [20, 48])
    tall = (np.arange(48 * 48) % 13 == 0).reshape(48, 48).astype(np.float32)
    factors = ((np.arange(48 * 6) % 17) - 8).astype(np.float32)
    y = x
    for storage in ("float32", "float16", "int8"):
        for height in (2, 4, 16):
            stacks = np.repeat(tall[: 48 // height], height, 0) * np.linspace(0.25, 0.5, 48, dtype=np.float32)[:, None]
            w = b.matrix(f"{height} {storage}", stacks, storage=storage)
            y = b.add("linear", [y, w, None, y], {"activation": {"fn": "relu"}})
            row = b.add("slice", [y], {"axis": 0, "start": 0, "stop": 1, "step": 1})
            y = b.add("binary", [y, b.add("linear", [row, w])], {"fn": "add"})
        fours = np.repeat(tall[:, :12], 4, 1) * np.linspace(0.25, 0.5, 48, dtype=np.float32)[:, None]
        w = b.matrix(f"1x4 {storage}", fours, storage=storage)
        y = b.add("linear", [y, w, None, y], {"activation": {"fn": "relu"}})
        row = b.add("slice", [y], {"axis": 0, "start": 0, "stop": 1, "step": 1})
        y = b.add("binary", [y, b.add("linear", [row, w])], {"fn": "add"})
        u = b.matrix(f"u {storage}", factors.reshape(48, 6) / 64, storage=storage)
        v = b.matrix(f"v {storage}", factors.reshape(6, 48) / 64, storage=storage)
        y = b.add("linear", [y, b.low_rank(f"uv {storage}", u, v)])
    rare = b.matrix("rare", tall, storage="int8")
    y = b.add("linear", [y, b.low_rank("rare of full", rare, b.matrix("square", tall + 0.5, storage="int8"))])
    b.output("y", y)
    return b.to_bytes()


def winograd() -> bytes:
    """A file with convolutions that Winograd's method takes."""
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 32, 21, 23], [1, 32, 21, 23])
    attrs = {"kernel": [3, 3], "stride": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": 1}
    weight = b.matrix("w", (((np.arange(33 * 288) % 17) - 8) / 64).astype(np.float32).reshape(33, 288)[:32].copy())
    bias = b.tensor("bias", np.arange(32, dtype=np.float32))
    y = b.add("conv", [x, weight, bias, x], {**attrs, "activation": {"fn": "relu"}})
    b.output("y", b.add("conv", [y, weight, None, None], {**attrs, "activation": {"fn": "silu"}}))
    return b.to_bytes()


def places() -> bytes:
    """A file of the ops that move and choose elements."""
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 4, 6, 6], [2, 4, 6, 6])
    ids = b.input("ids", "int64", ["n", 4], [2, 4])
    y = b.add("pad", [x], {"padding": [[0, 0], [0, 0], [1, 2], [2, 1]], "mode": "circular"})
    y = b.add("resize", [y], {"kind": "cubic", "output_size": [5, 7], "align_corners": True})
    y = b.add("resize", [y], {"kind": "linear", "output_size": [6, 6]})
    window = {"kernel": [2, 3], "stride": [1, 2], "dilation": [2, 1]}
    columns = b.add("unfold", [y], {**window, "padding": [[1, 1], [0, 1]]})
    columns = b.add("reshape", [columns], {"shape": ["n", 24, 6, 3]})
    channel = b.tensor("channel", np.arange(4, dtype=np.float32))
    y = b.add("fold", [columns, channel], {**window, "padding": [1, 0], "output_size": [6, 6]})
    grid = b.add(
        "permute", [b.add("slice", [y], {"axis": 1, "start": 0, "stop": 2, "step": 1})], {"axes": [0, 2, 3, 1]}
    )
    y = b.add("grid_sample", [y, grid], {"kind": "bilinear", "outside": "reflection", "align_corners": False})
    y = b.add("matmul", [y, x])
    b.output("where", b.add("arg_extreme", [y], {"axis": 1, "greatest": True, "keepdim": False}))
    above = b.add("binary", [y, x], {"fn": "gt"})
    b.output("any", b.add("truth", [above], {"all": False, "axes": [2, 3], "keepdim": False}))
    y = b.add("where", [above, y, x])
    y = b.add("map", [y], {"fn": "gelu"})
    most, first = b.add("sort", [y], {"axis": 3, "descending": True, "k": 3})
    most = b.add("scan", [most], {"fn": "sum", "axis": 2})
    y = b.add("gather", [most, b.add("binary", [first, b.tensor("three", np.full(1, 3))], {"fn": "mod"})], {"axis": 3})
    counted = b.add("arange", [], {"start": 0, "step": 1, "count": 4})
    y = b.add("take", [y, counted], {"axis": 2, "from_end": True})
    y = b.add("take", [y, ids], {"axis": 1})
    y = b.add("reduce", [y], {"fn": "mean", "axes": [3, 4], "keepdim": False})
    rows = b.add("scatter", [y, b.add("reshape", [ids], {"shape": ["n", 2, 2]}), y], {"axis": 2, "join": "add"})
    b.output("rows", b.add("cast", [rows], {"dtype": "int64"}))
    return b.to_bytes()


#: Networks made here, which between them and the golden files have every op.
MADE = [layers, integers, image, weights, winograd, places]


def bases() -> dict[str, bytes]:
    """What is mutated: the golden files, one a form of weight, and the networks made here."""
    files = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.goss"))}
    return {**files, **{make.__name__: make() for make in MADE}}


def taken(data: bytes) -> tuple[Any, list[bytes]]:
    """The header, and the bytes of its sections in order; each section becomes the index of its bytes."""
    (length,) = struct.unpack_from("<Q", data, 16)
    header, parts = json.loads(data[PREFIX : PREFIX + length]), []
    for tensor in header["tensors"]:
        for value in tensor.values():
            if isinstance(value, dict):
                parts.append(data[value["offset"] :][: value["length"]])
                value["part"] = len(parts) - 1
    return header, parts


def is_section(value: Any) -> bool:
    """Whether it is one of the tensor table's sections, as `taken` marks them."""
    return isinstance(value, dict) and "part" in value


def sealed(header: Any, parts: list[bytes], lies: bool = False) -> bytes:
    """The file of a header and sections, all checksums right. `lies`: offsets and lengths stay as in the header."""
    header = copy.deepcopy(header)
    tensors = header.get("tensors") if isinstance(header, dict) else None
    tensors = tensors if isinstance(tensors, list) else []
    found = [s for t in tensors if isinstance(t, dict) for s in t.values() if is_section(s)]
    order = [parts[section.pop("part")] for section in found]
    start, before = 0, -1
    while start != before:
        before, end = start, start
        for section, part in zip(found, order, strict=True):
            end = -(-end // 64) * 64
            if not lies:
                section.update(offset=end, length=len(part))
            section["crc32"] = zlib.crc32(part)
            end += len(part)
        text = json.dumps(header, separators=(",", ":")).encode()
        start = -(-(PREFIX + len(text)) // 64) * 64
    data = b"GOSSAMER" + struct.pack("<IIQ", 1, zlib.crc32(text), len(text)) + text
    for part in order:
        data += b"\0" * (-len(data) % 64) + part
    return data


NUMBERS = [0, 1, 2, -1, 3, 7, 15, 16, 17, 31, 32, 33, 64, 127, 128, 255, 256, 257, 1000, 65535, 65536, 1 << 20, 1 << 30]
NUMBERS += [
    sign * (1 << bits) + by for bits in (31, 32, 40, 53, 60, 61, 62, 63, 64) for sign in (1, -1) for by in (-1, 0, 1)
]
OTHERS = [
    None,
    True,
    "",
    "n",
    "v0",
    "v1",
    "t0",
    "t1",
    "n*n*n",
    "-n",
    "n//0",
    "h*4611686018427387904",
    [],
    {},
    0.5,
    1e30,
    [1] * 40,
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a header but the marks of `taken`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, child in items:
        if key not in ("part", "producer"):
            found += leaves(child, (*path, key))
    return found


def get(value: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        value = value[key]
    return value


def mutate_header(rng: random.Random, header: Any) -> None:
    """Changes one thing of a header."""
    path = rng.choice(leaves(header))
    parent, key = get(header, path[:-1]), path[-1]
    value, kind = parent[key], rng.random()
    if isinstance(value, list) and value and kind < 0.5:
        i = rng.randrange(len(value))
        rng.choice(
            [
                lambda: value.pop(i),
                lambda: value.insert(i, copy.deepcopy(value[i])),
                lambda: value.append(rng.choice(NUMBERS)),
            ]
        )()
    elif kind < 0.1:
        del parent[key]
    elif isinstance(value, bool) and kind < 0.8:
        parent[key] = not value
    elif isinstance(value, int) and kind < 0.4:
        parent[key] = value + rng.choice([-1, 1, 16, -16, value, -2 * value])
    elif isinstance(value, int | float) and kind < 0.9:
        parent[key] = rng.choice(NUMBERS)
    elif isinstance(value, str) and kind < 0.9:
        # A word that stands elsewhere in the header: another op, type, operand or form.
        words = [w for p in leaves(header) if isinstance(w := get(header, p), str)]
        parent[key] = rng.choice(words)
    elif kind < 0.95:
        parent[key] = copy.deepcopy(get(header, rng.choice(leaves(header))))
    else:
        # A copy: a later change must not reach into the list above.
        parent[key] = copy.deepcopy(rng.choice(OTHERS))


def mutate_part(rng: random.Random, part: bytes) -> bytes:
    """Changes a few bytes of a section, or its length."""
    changed = bytearray(part)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice([0, 1, 127, 128, 254, 255, rng.randrange(256)])
    if rng.random() < 0.1:
        changed = changed[: rng.randrange(len(changed) + 1)] + bytes(rng.randrange(3))
    return bytes(changed)


def mutant(seed: int, files: list[tuple[Any, list[bytes]]]) -> bytes:
    """The file of a seed."""
    rng = random.Random(seed)
    header, parts = copy.deepcopy(files[seed % len(files)])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if parts and rng.random() < 0.25:
            i = rng.randrange(len(parts))
            parts[i] = mutate_part(rng, parts[i])
        elif isinstance(header, dict) and header:
            mutate_header(rng, header)
    return sealed(header, parts, lies=rng.random() < 0.2)


def resident(field: str) -> int:
    """Bytes this process has resident (`VmRSS`), had so at most since `begin` (`VmHWM`), or has mapped (`VmSize`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def begin() -> int:
    """Has the kernel count the most resident memory anew; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def attempt(data: bytes) -> bool:
    """Loads a file, runs it where its inputs are small; whether it ran. Raises where a promise is broken."""
    # Every other file: what lies beside Winograd's convolutions is tried either way.
    winograd, before = zlib.crc32(data) % 2 == 0, begin()
    try:
        model = gossamer.load(data, threads=1, max_memory=MEMORY, winograd=winograd)
        grown = resident("VmHWM") - before
        assert grown <= 4 * len(data) + SLACK, f"loading took {grown} bytes for a file of {len(data)}"
        examples = list(zip(model.examples, model.inputs, strict=True))
        if sum(np.prod([float(d) for d in shape]) for shape, _ in examples) > 1 << 20:
            return False
        # The second shape is one that nothing was checked with at loading.
        for more in (0, 1):
            shapes = [
                tuple(d + more * isinstance(s, str) for d, s in zip(e, v.shape, strict=True)) for e, v in examples
            ]
            arrays = [np.ones(shape, value.dtype) for shape, (_, value) in zip(shapes, examples, strict=True)]
            model.run(*arrays)
    except gossamer.Error as error:
        grown = resident("VmHWM") - before
        assert "a bug in gossamer" not in str(error), str(error)
        assert grown <= 4 * len(data) + SLACK + 4 * MEMORY, f"refusing took {grown} bytes for a file of {len(data)}"
        return False
    return True


def worker(first: int, last: int) -> None:
    """Tries the seeds of a range, saying which before each."""
    files, ran = [taken(data) for data in bases().values()], 0
    resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + ROOM, resource.RLIM_INFINITY))
    for seed in range(first, last):
        print(seed, flush=True)
        limit = int(time.process_time()) + 1 + HANG
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        ran += attempt(mutant(seed, files))
    print(f"ran {ran}", flush=True)


def watch(first: int, last: int) -> tuple[int, list[str]]:
    """Has a worker try a range, and starts another after each file that ends one. How many ran; what was found."""
    ran, found = 0, []
    while first < last:
        command = [sys.executable, __file__, "--worker", str(first), str(last)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        seed, reason = first, ""
        try:
            # Most files take a millisecond: a thousand of them may take what one may.
            out, err = process.communicate(timeout=WAIT + 0.02 * (last - first))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            reason = "waits"
        lines = out.split("\n")
        ran += sum(int(line.split()[1]) for line in lines if line.startswith("ran "))
        if process.returncode == 0:
            break
        seeds = [int(line) for line in lines if line.isdigit()]
        seed = seeds[-1] if seeds else first
        if reason and not breaks(seed):
            # The machine was busy with something else.
            first = seed + 1
            continue
        if process.returncode == -signal.SIGXCPU:
            reason = "hangs"
        reason = reason or f"exit {process.returncode}: {err.strip()[-400:]}"
        path = HERE / f"found-{seed}.goss"
        path.write_bytes(mutant(seed, [taken(data) for data in bases().values()]))
        found.append(f"{path}: {reason}")
        first = seed + 1
    return ran, found


def breaks(seed: int) -> bool:
    """Whether the file of a seed breaks a promise when it is tried by itself."""
    command = [sys.executable, __file__, "--worker", str(seed), str(seed + 1)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=WAIT)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def exhaust(data: bytes) -> None:
    """Every byte changed, every truncation: each is to be refused by its checksum."""
    changed = bytearray(data)
    for at in range(len(data)):
        for bits in (0x01, 0xFF):
            changed[at] ^= bits
            refused(bytes(changed))
            changed[at] ^= bits
        refused(data[:at])


def refused(data: bytes) -> None:
    """Asserts that a file is not one."""
    try:
        gossamer.load(data)
    except gossamer.FormatError:
        return
    raise AssertionError("a damaged file was loaded")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--mutations", type=int, default=20_000, help="how many files to try (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the sound files there, and try nothing")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker)
        return 0
    if args.write:
        args.write.mkdir(parents=True, exist_ok=True)
        for name, data in bases().items():
            (args.write / f"{name}.goss").write_bytes(data)
        return 0
    for data in bases().values():
        if len(data) < 3000:
            exhaust(data)
    start, ran, found, batch = time.monotonic(), 0, [], 5000
    end = args.seed + args.mutations
    for first in range(args.seed, end, batch):
        more, names = watch(first, min(first + batch, end))
        ran += more
        found += names
        for name in names:
            print(name, flush=True)
    seconds = time.monotonic() - start
    print(f"{args.mutations} mutations in {seconds:.0f} s: {ran} loaded and ran, {len(found)} broke a promise")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
