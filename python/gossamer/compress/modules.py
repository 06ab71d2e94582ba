"""What the compressors share: copying a module with its masks, choosing its layers, putting others in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

# Names of submodules and types of modules.
Skip = Iterable[Any]
M = TypeVar("M", bound=nn.Module)


def duplicate(module: M) -> M:
    """A deep copy, also of a module with masks: their masked weights are computed, and torch refuses to copy those."""
    memo: dict[int, object] = {}
    for layer in module.modules():
        for value in vars(layer).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def is_masked(layer: nn.Module, name: str = "weight") -> bool:
    """Whether a parameter carries a mask of `torch.nn.utils.prune`."""
    return f"{name}_orig" in layer._parameters and f"{name}_mask" in layer._buffers


def parameter(layer: nn.Module, name: str = "weight") -> nn.Parameter | None:
    """The parameter behind `name`, the unmasked one where it carries a mask; None where it is computed otherwise."""
    return layer._parameters.get(f"{name}_orig" if is_masked(layer, name) else name)


def weight_of(layer: nn.Module) -> Tensor:
    """The layer's weight as its forward uses it, masked, without gradient."""
    value = parameter(layer)
    assert value is not None, "layers() yields layers whose weight is a parameter"
    return value.detach() * layer.weight_mask if is_masked(layer) else value.detach()  # type: ignore[operator]


def mask_weight(layer: nn.Module, mask: Tensor) -> None:
    """Adds a mask to the layer's weight, on top of one that it has."""
    if is_masked(layer):
        layer.weight_mask.mul_(mask)  # type: ignore[operator]
        refresh(layer)
    else:
        torch_prune.custom_from_mask(layer, "weight", mask)


def refresh(layer: nn.Module, name: str = "weight") -> None:
    """Computes a masked weight anew, as the layer's next forward will."""
    setattr(layer, name, getattr(layer, f"{name}_orig") * getattr(layer, f"{name}_mask"))


def bake_masks(module: nn.Module) -> None:
    """Multiplies every mask into its parameter and drops it, in place."""
    for layer in module.modules():
        for name in [key.removesuffix("_orig") for key in layer._parameters if key.endswith("_orig")]:
            if is_masked(layer, name):
                torch_prune.remove(layer, name)


class Chosen:
    """Tells by name and type which modules a caller wants left alone.

    Args:
        module: The whole module.
        skip: Names of submodules, each with all below it, and module types.

    Raises:
        ValueError: A name is none of the module's.
        TypeError: An entry is neither a name nor a module type.
    """

    def __init__(self, module: nn.Module, skip: Skip) -> None:
        if isinstance(skip, str | type):
            skip = (skip,)
        entries = list(skip)
        self.names = [entry for entry in entries if isinstance(entry, str)]
        self.types = tuple(entry for entry in entries if isinstance(entry, type) and issubclass(entry, nn.Module))
        known = {name for name, _ in module.named_modules(remove_duplicate=False)}
        if unknown := [name for name in self.names if name not in known]:
            raise ValueError(f"skip: no submodule is named {', '.join(map(repr, unknown))}")
        if odd := [entry for entry in entries if entry not in self.names and entry not in self.types]:
            raise TypeError(f"skip: {odd[0]!r} is neither the name of a submodule nor a module type")

    def skips(self, name: str, layer: nn.Module) -> bool:
        """Whether the layer of this name is to be left alone."""
        below = any(name == skipped or name.startswith(f"{skipped}.") or not skipped for skipped in self.names)
        return below or isinstance(layer, self.types)


def holders(module: nn.Module) -> dict[int, list[nn.Module]]:
    """By the id of a parameter, the distinct submodules that hold it: more than one where it is shared."""
    found: dict[int, list[nn.Module]] = {}
    for layer in module.modules():
        for value in layer._parameters.values():
            if value is not None and not any(other is layer for other in found.setdefault(id(value), [])):
                found[id(value)].append(layer)
    return found


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each filter of a convolution sees one channel."""
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == layer.in_channels and layer.groups > 1


def is_stem(layer: nn.Module) -> bool:
    """Whether a convolution reads an image or a signal rather than features: a thousandth of a network's weights."""
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.in_channels <= 4


def replace(module: M, swap: Callable[[str, nn.Module], nn.Module | None]) -> M:
    """Puts `swap(name, layer)` in place of each submodule for which it is not None; a shared one is swapped once.

    Args:
        module: Changed in place, unless it is itself swapped.
        swap: Called once for each distinct submodule with its first name.

    Returns:
        The module, or what takes its place.
    """
    made: dict[int, nn.Module | None] = {}
    for name, layer in list(module.named_modules()):
        made[id(layer)] = swap(name, layer)
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and (new := made.get(id(child))) is not None:
                new.train(child.training)
                parent._modules[key] = new
    root = made.get(id(module))
    return module if root is None else root.train(module.training)  # type: ignore[return-value]


def to_matrix(weight: Tensor) -> Tensor:
    """A weight as (out, in · kernel), float32 at least."""
    matrix = weight.reshape(weight.shape[0], -1)
    return matrix if matrix.dtype == torch.float64 else matrix.to(torch.float32)
