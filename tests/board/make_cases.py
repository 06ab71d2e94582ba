"""Writes the files that a machine without torch must run, one a weight format, with inputs and answers.

usage: python make_cases.py DIR

A case is NAME.goss and NAME.npz: the input `x`; `torch`, the module's own answer; `gossamer`, this machine's; `exact`,
whether the network is all integer, so that every machine must give `gossamer` to the bit; and `bound`, how far another
tier's float32 may be from torch relative to the largest value.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gossamer
from gossamer import compress, runtime


class Net(nn.Module):
    """Every kind of layer the kernels know: stem, depthwise, pointwise with a residual, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.BatchNorm2d(24), nn.ReLU6())
        self.pointwise = nn.Conv2d(24, 24, 1)
        self.body = nn.Sequential(nn.Conv2d(24, 40, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(40, 17)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.pointwise(self.depthwise(x))
        return self.head(self.body(x).mean((2, 3)))


class Wide(nn.Module):
    """Two large linear layers, which is where low rank and sparse rows pay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(300, 280), nn.Linear(280, 90)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


# Layers deep times the float32 rounding of the longest sum: docs/numerics.md, with room for the signal's own growth.
BOUND = 6 * (300 + 2) * 2.0**-24


def cases() -> dict[str, tuple[nn.Module, torch.Tensor, str, bool]]:
    """Name -> (module, input, storage of its weights, whether all of it is integer)."""
    torch.manual_seed(0)
    net, wide = Net().eval(), Wide().eval()
    images, rows = torch.randn(3, 3, 33, 29), torch.randn(5, 300)
    return {
        "dense": (net, images, "float32", False),
        "dense_float16": (net, images, "float16", False),
        "dense_int8": (net, images, "int8", False),
        "sparse": (compress.prune(net, 0.9), images, "float32", False),
        "linear": (wide, rows, "float32", False),
        "linear_sparse": (compress.prune(wide, 0.9), rows, "float32", False),
        "linear_sparse_float16": (compress.prune(wide, 0.9), rows, "float16", False),
        "low_rank": (compress.factorize(wide, rank=24), rows, "float32", False),
        "integer": (compress.quantize(net, [(images,)]), images, "float32", True),
        "integer_sparse": (compress.quantize(compress.prune(net, 0.9), [(images,)]), images, "float32", True),
    }


@torch.inference_mode()
def main(out: Path) -> None:
    """Writes every case."""
    out.mkdir(parents=True, exist_ok=True)
    for name, (module, x, weights, exact) in cases().items():
        gossamer.convert(module, (x,), out / f"{name}.goss", weights=weights)
        ours = runtime.load(out / f"{name}.goss").run(x.numpy())
        # Rounded weights are another network than torch's: what another machine must match is this one's answer.
        theirs = module(x).numpy() if weights == "float32" else ours
        np.savez(out / f"{name}.npz", x=x.numpy(), torch=theirs, gossamer=ours, exact=exact, bound=BOUND)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
