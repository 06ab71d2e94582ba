"""Magnitude pruning: of single weights, of blocks, of neurons and filters, of whole residual branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import branches, channels
from .modules import (
    Chosen,
    M,
    Skip,
    duplicate,
    holders,
    is_depthwise,
    is_stem,
    mask_weight,
    parameter,
    to_matrix,
    weight_of,
)

# Columns among which a balanced row has a fixed number of non-zeros: a block of the sparse format, with byte indices.
BALANCE = 256

# (rows, columns) of the matrix (out, in · kernel) that live or die together.
BLOCKS = {"unstructured": (1, 1), "2x1": (2, 1), "4x1": (4, 1), "16x1": (16, 1), "1x4": (1, 4)}


def prune(
    module: M, sparsity: float, *, pattern: str = "unstructured", scope: str = "layer", skip: Skip = ()
) -> M | nn.Module:
    """Removes the weights of least magnitude from a copy of a module.

    The patterns of single weights and blocks put masks of `torch.nn.utils.prune` on `weight` of `nn.Linear`,
    `nn.Conv1d` and `nn.Conv2d`, seen as the matrix (out, in · kernel): the weights that stay can be trained, those
    removed stay zero. A weight that has a mask keeps it, so pruning may go on step by step. The structured patterns
    return a smaller module that computes what the whole one would with zeros in place of what was removed.

    | pattern | what is removed, least first |
    |---|---|
    | `unstructured` | single weights, by magnitude |
    | `balanced` | the same number in every 256 columns of a row, in the last columns proportionally |
    | `2x1` `4x1` `16x1` `1x4` | blocks of rows x columns, by root mean square |
    | `unit` | neurons and filters, by the root mean square of the weights that make them |
    | `channel` | the same, by the weights that read them |
    | `layer` | residual branches, by the gain of their last layer; returns an `fx.GraphModule` |

    Left dense whatever `skip` says: depthwise convolutions (gossamer has no use for their zeros) and convolutions
    over at most four channels (a network's first), where single weights or blocks are pruned; and weights that are
    computed (`torch.nn.utils.parametrize`) or shared with a module of another kind, such as an embedding.

    Args:
        module: Left as it is.
        sparsity: The share to remove of what may be removed, `0 <= sparsity < 1`.
        pattern: See above.
        scope: `layer`, the share holds in each layer; `global`, over all of them together. For `unit` and `channel` a
            layer's scores are then relative to their mean.
        skip: Names of submodules (with all below them) and module types to leave alone. For `unit` the layers that
            keep all their outputs, for `channel` all their inputs, for `layer` those whose branch stays.

    Returns:
        The pruned copy.

    Raises:
        ValueError: An argument is out of range, or there is nothing to prune.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: expected 0 <= sparsity < 1, got {sparsity}")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope: expected 'layer' or 'global', got {scope!r}")
    chosen = Chosen(module, skip)
    pruned = duplicate(module)
    match pattern:
        case "unit" | "channel":
            return channels.shrink(pruned, channels.plan(pruned, sparsity, pattern, scope, chosen))
        case "layer":
            return branches.remove(pruned, sparsity, chosen)
        case "balanced":
            drop = _balanced
        case _ if pattern in BLOCKS:
            drop = _blocks
        case _:
            known = ", ".join([*BLOCKS, "balanced", "unit", "channel", "layer"])
            raise ValueError(f"pattern: expected one of {known}, got {pattern!r}")
    groups = _groups(pruned, chosen)
    if not groups:
        raise ValueError(
            "nothing to prune: no nn.Linear, nn.Conv1d or nn.Conv2d is left beside depthwise convolutions, "
            "convolutions over at most four channels, shared weights and `skip`"
        )
    matrices = [to_matrix(weight_of(group[0])) for group in groups]
    shares = [sparsity] * len(groups) if scope == "layer" else _shares(matrices, sparsity, pattern)
    for group, matrix, share in zip(groups, matrices, shares, strict=True):
        keep = ~drop(matrix, share, pattern)
        for layer in group:
            weight = weight_of(layer)
            mask_weight(layer, keep.reshape(weight.shape).to(weight.dtype))
    return pruned


def _groups(module: nn.Module, chosen: Chosen) -> list[list[nn.Module]]:
    """The layers to prune, those that share a weight together."""
    groups: dict[int, list[nn.Module]] = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            continue
        weight = parameter(layer)
        if weight is None or not weight.numel() or is_depthwise(layer) or is_stem(layer) or chosen.skips(name, layer):
            continue
        groups.setdefault(id(weight), []).append(layer)
    shared = holders(module)
    return [group for weight, group in groups.items() if len(group) == len(shared[weight])]


def lowest(scores: Tensor, count: int) -> Tensor:
    """Marks exactly `count` of the smallest of `scores`, among equal ones the first."""
    flat = scores.flatten()
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    cut = flat.kthvalue(count).values
    marked = flat < cut
    ties = (flat == cut).nonzero().flatten()
    marked[ties[: count - int(marked.sum())]] = True
    return marked.reshape(scores.shape)


def _scores(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """The mean square of each block; blocks at the edges hold fewer weights. Magnitudes where a block is one weight."""
    if block == (1, 1):
        return matrix.abs()
    (m, k), (rows, columns) = matrix.shape, block
    edge = (0, -k % columns, 0, -m % rows)
    shape = (-(-m // rows), rows, -(-k // columns), columns)
    squares = F.pad(matrix.square(), edge).reshape(shape).sum((1, 3))
    return squares / F.pad(torch.ones_like(matrix), edge).reshape(shape).sum((1, 3))


def _blocks(matrix: Tensor, sparsity: float, pattern: str) -> Tensor:
    """Marks what to drop of a matrix, whole blocks."""
    rows, columns = BLOCKS[pattern]
    scores = _scores(matrix, (rows, columns))
    marked = lowest(scores, round(sparsity * scores.numel()))
    return marked.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: matrix.shape[0], : matrix.shape[1]]


def _balanced(matrix: Tensor, sparsity: float, pattern: str) -> Tensor:
    """Marks what to drop of a matrix, the same number in every 256 columns of a row."""
    marked = torch.ones_like(matrix, dtype=torch.bool)
    for part, chunk in zip(torch.split(marked, BALANCE, 1), torch.split(matrix.abs(), BALANCE, 1), strict=True):
        keep = round((1 - sparsity) * chunk.shape[1])
        part.scatter_(1, chunk.topk(keep, 1).indices, False)
    return marked


def _shares(matrices: Sequence[Tensor], sparsity: float, pattern: str) -> list[float]:
    """Each matrix's own share of what is least of all of them."""
    scores = [_scores(matrix, BLOCKS.get(pattern, (1, 1))).flatten() for matrix in matrices]
    marked = lowest(torch.cat(scores), round(sparsity * sum(s.numel() for s in scores)))
    parts = torch.split(marked, [s.numel() for s in scores])
    return [float(part.sum()) / part.numel() for part in parts]
