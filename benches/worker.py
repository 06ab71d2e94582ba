"""Measures one engine on one case, in the Python that has that engine; prints JSON and saves its answer.

usage: python worker.py ENGINE CASE DIR THREADS SECONDS ANSWER.npy

ENGINE: gossamer, torch (eager), ort, ov32 (OpenVINO in float32), ov (OpenVINO's default, bfloat16 where the CPU has it)
or ds (DeepSparse). DIR holds CASE.goss, and CASE.onnx without the `_f16` that says how gossamer stores weights.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def feed(case):
    """The input of a case, the same in every engine."""
    rng = np.random.default_rng(0)
    if case.startswith(("distilbert", "minilm")):
        return rng.integers(0, 30000, (1, 128)).astype(np.int64)
    if case.startswith(("mlp", "dense1000", "lowrank1000")):
        shape = (64 if "_b64" in case else 1, 1024 if case.startswith("mlp") else 1000)
    else:
        shape = (1, 3, 224, 224)
    return rng.standard_normal(shape).astype(np.float32)


def gossamer(runtime, folder, case, threads, x):
    model = runtime.load(folder / f"{case}.goss", threads=threads)
    return lambda: model.run(x)


def torch(engine, folder, case, threads, x):
    import models

    if case.endswith("_int8"):
        raise SystemExit("torch eager is measured on float32 modules")
    engine.set_num_threads(threads)
    module, _ = models.build(models.form(case)[0])
    tensor = engine.from_numpy(x)

    def run():
        with engine.inference_mode():
            return module(tensor).numpy()

    return run


def onnx(folder, case):
    return folder / f"{case.removesuffix('_f16')}.onnx"


def ort(engine, folder, case, threads, x):
    options = engine.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = engine.InferenceSession(str(onnx(folder, case)), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def openvino(engine, folder, case, threads, x, **more):
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **more}
    request = engine.Core().compile_model(onnx(folder, case), "CPU", config).create_infer_request()
    return lambda: request.infer({0: x})[0]


def openvino_float32(engine, folder, case, threads, x):
    return openvino(engine, folder, case, threads, x, INFERENCE_PRECISION_HINT="f32")


def deepsparse(engine, folder, case, threads, x):
    net = engine.Engine(str(onnx(folder, case)), batch_size=len(x), num_cores=threads)
    return lambda: net.run([x])[0]


# Name -> the module to import before any clock runs, and what loads a case with it.
ENGINES = {
    "gossamer": ("gossamer.runtime", gossamer),
    "torch": ("torch", torch),
    "ort": ("onnxruntime", ort),
    "ov32": ("openvino", openvino_float32),
    "ov": ("openvino", openvino),
    "ds": ("deepsparse", deepsparse),
}


def peak_rss():
    """In bytes. Not by getrusage, whose maximum survives exec: it may be that of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main(engine, case, folder, threads, seconds, answer):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    x = feed(case)
    name, load = ENGINES[engine]
    module = importlib.import_module(name)
    start = time.perf_counter()
    run = load(module, Path(folder), case, int(threads), x)
    loaded = time.perf_counter()
    np.save(answer, run())
    first = time.perf_counter()
    while time.perf_counter() < first + float(seconds) / 3:
        run()
    times, end = [], time.perf_counter() + float(seconds)
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e3)
    found = {
        "version": sys.modules[name.split(".")[0]].__version__,
        "load_ms": (loaded - start) * 1e3,
        "first_ms": (first - loaded) * 1e3,
        "median_ms": float(np.median(times)),
        "min_ms": min(times),
        "runs": len(times),
        "peak_rss_mb": peak_rss() / 1e6,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
