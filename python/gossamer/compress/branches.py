"""Removal of residual branches: `x + branch(x)` becomes `x`."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .channels import layer_of, trace
from .modules import Chosen, to_matrix, weight_of

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass
class Branch:
    """A residual addition and what computes the term that is not its input."""

    add: fx.Node
    skip: int
    """Which argument of the addition is the branch's input."""
    nodes: list[fx.Node]
    """The branch, its last node first."""


def remove(module: nn.Module, sparsity: float, chosen: Chosen) -> fx.GraphModule:
    """Removes the residual branches that amplify their input least.

    A branch is what leads from the input of an addition to its other term and nowhere else. Its gain is that of its
    last layer: the root mean square of the batch-norm's factors where one follows, else of its rows' norms.

    Args:
        module: Its layers are taken over by the result.
        sparsity: The share of branches to remove.
        chosen: A branch with a layer to leave alone stays.

    Returns:
        The graph without those branches, and without their layers.

    Raises:
        ValueError: The module cannot be traced, or has no residual branch.
    """
    graph = trace(module)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    layers = {node: found for node in graph.nodes if (found := layer_of(module, node)) is not None}
    branches = [branch for node in graph.nodes if node.target in ADDITIONS and (branch := _branch(node)) is not None]
    weighed = [
        (_gain([layers[node][1] for node in branch.nodes if node in layers]), branch)
        for branch in branches
        if not any(chosen.skips(*layers[node]) for node in branch.nodes if node in layers)
    ]
    known = [(gain, branch) for gain, branch in weighed if gain is not None]
    if not known:
        raise ValueError("no layers to prune: found no residual branch with a convolution or linear layer in it")
    known.sort(key=lambda pair: pair[0])
    for _, branch in known[: round(sparsity * len(known))]:
        start: Any = branch.add.args[branch.skip]
        branch.add.replace_all_uses_with(start)
    pruned = fx.GraphModule(module, graph, type(module).__name__)
    pruned.graph.eliminate_dead_code()
    pruned.delete_all_unused_submodules()
    pruned.recompile()
    pruned.training = module.training
    return pruned


def _branch(add: fx.Node) -> Branch | None:
    """The branch that an addition ends, if it is one."""
    terms: list[Any] = list(add.args)
    if len(terms) != 2 or not all(isinstance(term, fx.Node) for term in terms):
        return None
    for skip in (0, 1):
        start, end = terms[skip], terms[1 - skip]
        nodes: list[fx.Node] = []
        waiting, whole = [end], start is not end
        while waiting and whole:
            node = waiting.pop(0)
            if node is start or node in nodes or node.op == "get_attr":
                continue
            whole = node.op != "placeholder"
            nodes.append(node)
            waiting += node.all_input_nodes
        inside = {*nodes, add}
        if whole and nodes and all(user in inside for node in nodes for user in node.users):
            return Branch(add, skip, nodes)
    return None


def _gain(layers: list[nn.Module]) -> float | None:
    """The gain of a branch's last layer; layers last first."""
    norm = None
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.weight is not None:
            norm = layer.weight.detach() if norm is None else norm
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            squares = to_matrix(weight_of(layer)).square().sum(1) if norm is None else norm.square()
            return float(squares.mean().sqrt())
    return None
