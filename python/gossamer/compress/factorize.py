"""Low-rank factors in place of weights, by truncated singular value decomposition."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from .modules import Chosen, M, Skip, bake_masks, duplicate, holders, replace


def factorize(
    module: M, *, rank: int | None = None, energy: float | None = None, ratio: float | None = None, skip: Skip = ()
) -> M | nn.Module:
    """Puts two thin layers in place of each wide one, in a copy of a module.

    The weight (out, in · kernel) of an `nn.Linear` or `nn.Conv2d` becomes `u @ v` of rank r: a `nn.Sequential` of `v`,
    the same layer to r outputs without bias, and `u`, a linear layer or 1x1 convolution with the bias. Both take half
    of each singular value. Of all matrices of rank r this one is nearest in the sum of squares.

    Left alone: layers whose factors would not be smaller than the weight, grouped convolutions, weights shared
    between modules, and subclasses of the two layers, whose owners may expect their attributes.

    Args:
        module: Left as it is. Masks of `torch.nn.utils.prune` on factorized layers are multiplied in and dropped.
        rank: r of every layer.
        energy: The least r whose singular values hold this share of the sum of squares, `0 < energy <= 1`.
        ratio: The largest r with at most this share of the weight's numbers, and at least 1; `0 < ratio <= 1`.
        skip: Names of submodules (with all below them) and module types to leave alone.

    Returns:
        The copy with factors.

    Raises:
        ValueError: Not exactly one of `rank`, `energy` and `ratio` is given, or it is out of range.
    """
    if sum(given is not None for given in (rank, energy, ratio)) != 1:
        raise ValueError("expected exactly one of rank, energy and ratio")
    if rank is not None and rank < 1:
        raise ValueError(f"rank: expected at least 1, got {rank}")
    for name, share in (("energy", energy), ("ratio", ratio)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"{name}: expected 0 < {name} <= 1, got {share}")
    chosen = Chosen(module, skip)
    shared = {id(layer) for held in holders(module).values() if len(held) > 1 for layer in held}
    names = {
        name
        for name, layer in module.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d) and id(layer) not in shared and not chosen.skips(name, layer)
    }

    def swap(name: str, layer: nn.Module) -> nn.Module | None:
        if name not in names or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
            return None
        bake_masks(layer)
        return _factors(layer, rank, energy, ratio)

    return replace(duplicate(module), swap)


def _rank(m: int, k: int, singular: Tensor, rank: int | None, energy: float | None, ratio: float | None) -> int:
    if rank is not None:
        return rank
    if energy is not None:
        held = singular.square().cumsum(0)
        return int((held < energy * held[-1]).sum()) + 1
    assert ratio is not None
    return max(1, math.floor(ratio * m * k / (m + k)))


def _factors(layer: nn.Module, rank: int | None, energy: float | None, ratio: float | None) -> nn.Sequential | None:
    """The layer as `v` and `u`, or None where they are not smaller."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.detach()
    matrix = weight.reshape(weight.shape[0], -1).to(torch.float64)
    m, k = matrix.shape
    if not matrix.numel():
        return None
    # A rank known without the decomposition saves it for layers that stay.
    if energy is None and _rank(m, k, matrix[0], rank, None, ratio) * (m + k) >= m * k:
        return None
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    r = _rank(m, k, singular, rank, energy, ratio)
    if r * (m + k) >= m * k:
        return None
    root = singular[:r].sqrt()
    v: nn.Linear | nn.Conv2d
    u: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        v = nn.Linear(k, r, bias=False)
        u = nn.Linear(r, m, bias=layer.bias is not None)
    else:
        geometry: dict[str, Any] = {
            name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        v = nn.Conv2d(layer.in_channels, r, bias=False, **geometry)
        u = nn.Conv2d(r, m, 1, bias=layer.bias is not None)
    for factor in (v, u):
        factor.to(device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        v.weight.copy_((root[:, None] * right[:r]).reshape(v.weight.shape))
        u.weight.copy_((left[:, :r] * root).reshape(u.weight.shape))
        if layer.bias is not None:
            u.bias.copy_(layer.bias)
    for factor in (v, u):
        factor.weight.requires_grad_(layer.weight.requires_grad)
    if u.bias is not None and layer.bias is not None:
        u.bias.requires_grad_(layer.bias.requires_grad)
    return nn.Sequential(OrderedDict(v=v, u=u))
