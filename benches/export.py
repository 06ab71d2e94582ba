"""Writes cases of models.py as ONNX for the other engines, float32 and, where asked, int8 by onnxruntime's quantizer.

usage: python export.py DIR CASE ...        with a Python that has torch, onnx and onnxruntime (peers.sh makes one)

CASE_int8 is CASE quantized: statically, per channel, for images; dynamically otherwise. CASE_f16 is CASE
itself: how weights are stored is up to each engine.
"""

import logging
import sys
from pathlib import Path

import models
import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Images(CalibrationDataReader):
    """Eight random images."""

    def __init__(self):
        shape = (1, 3, 224, 224)
        self.left = iter([{"x": np.random.default_rng(i).standard_normal(shape).astype("f")} for i in range(8)])

    def get_next(self):
        return next(self.left, None)


def drop_unused_domains(path):
    """Drops the operator sets a file imports and does not use; DeepSparse refuses those it does not know."""
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)


def quantize(source, target, *, images):
    """Writes the int8 twin of an ONNX file."""
    if images:
        ready = target.with_suffix(".ready")
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(target),
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        ready.unlink()
    else:
        quantize_dynamic(str(source), str(target), per_channel=True, weight_type=QuantType.QInt8)
    drop_unused_domains(target)


def main(out, cases):
    logging.disable(logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        base, form = models.form(case)
        module, example = models.build(base)
        path = out / f"{base}.onnx"
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(module, (example,), str(path), opset_version=17, dynamo=False, **names)
        if form == "int8":
            quantize(path, out / f"{case}.onnx", images=example.ndim == 4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
