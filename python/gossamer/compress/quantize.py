"""int8 quantization: of whole networks with calibrated activations, or of the weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .. import ops_i8
from . import layers, static
from .modules import Chosen, M, Skip, bake_masks, duplicate, holders, replace, weight_of

MODES = {"dynamic": layers.dynamic, "weight_only": layers.weight_only}


def quantize(
    module: M,
    calibration: Iterable[Any] | None = None,
    *,
    mode: str = "static",
    per_channel: bool = True,
    skip: Skip = (),
) -> M | nn.Module:
    """Makes an int8 copy of a module, for inference; in torch it computes the integers that gossamer computes.

    - `static`: weights int8, activations uint8 of the ranges seen in calibration; from the first layer to the last the
      network computes in integers. Returns an `fx.GraphModule`.
    - `dynamic`: `nn.Linear` and 1x1 `nn.Conv2d` compute in integers, each row of their float32 input quantized as it
      comes. Returns a copy of the module.
    - `weight_only`: every linear and convolution weight is int8; they compute in float32 with `scale · q`. Returns a
      copy of the module.

    Weights are symmetric, `scale = max|w| / 127`; zeros stay zero, so prune first. Masks of `torch.nn.utils.prune`
    are multiplied in. The arithmetic is written down in `gossamer.ops_i8`.

    `static` gives one output as a tensor and several as a tuple, whatever structure they had. Operations that have no
    integer form compute in float32 between a dequantize and a quantize. `dynamic` and `weight_only` leave subclasses
    of torch's layers alone, whose owners may expect their attributes, and weights shared with another kind of module.

    Args:
        module: Left as it is; taken in eval mode by `static`.
        calibration: For `static`: inputs that are like those to come, each a tuple of arguments, or a tensor where
            there is one. Runs through once; a progress bar is shown on a terminal where rich is installed.
        mode: See above.
        per_channel: A scale for each output channel, else one for a whole weight.
        skip: Names of submodules (with all below them) and module types that stay in float32.

    Returns:
        The quantized copy.

    Raises:
        ValueError: `mode` is unknown, `static` has no calibration, or a weight or activation is not finite.
        gossamer.Error: `static` cannot capture the module.
    """
    if mode == "static":
        if calibration is None:
            raise ValueError("mode 'static' needs calibration: an iterable of input tuples")
        return static.quantize(module, calibration, per_channel, Chosen(module, skip))
    if mode not in MODES:
        raise ValueError(f"mode: expected 'static', 'dynamic' or 'weight_only', got {mode!r}")
    if calibration is not None:
        raise ValueError(f"mode {mode!r} takes no calibration")
    chosen = Chosen(module, skip)
    quantized = duplicate(module)
    bake_masks(quantized)
    wanted = {
        id(layer)
        for name, layer in quantized.named_modules()
        if type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d) and not chosen.skips(name, layer)
    }
    held = holders(quantized)
    # A weight that two layers share is quantized once and shared again.
    integers: dict[int, tuple[Tensor, Tensor]] = {}

    def swap(name: str, layer: nn.Module) -> nn.Module | None:
        if id(layer) not in wanted:
            return None
        key = id(layer.weight)
        if not {id(other) for other in held[key]} <= wanted:
            return None
        if key not in integers:
            integers[key] = layers.quantize_weight(weight_of(layer), per_channel)
        weight, scale = integers[key]
        return MODES[mode](layer, weight, scale) if mode != "dynamic" or ops_i8.fits_int32(weight) else None

    return replace(quantized, swap)
