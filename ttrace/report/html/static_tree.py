"""The tree of modules for a browser without a script: the worst nodes, folded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.report.html.module_tree import ModuleTree, build_tree, split_id
from ttrace.report.model import TensorReport

MAX_NODES = 300
"""Nodes that are written; the rest is counted by their parent all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeNode:
    """A module with all that is below it.

    Attributes:
        label: What it adds to the path of its parent.
        total: Tensors.
        failed: Those that failed.
        worst: Largest margin; None where nothing was compared.
        children: Modules below, those with failures first in order; some may be left
            out.
        num_left_out: Of them, how many.
    """

    label: str
    total: int
    failed: int
    worst: float | None
    children: tuple["TreeNode", ...]
    num_left_out: int = 0


def static_tree(tensors: Sequence[TensorReport]) -> TreeNode:
    """Sums tensors up by module."""
    modules = [split_id(tensor.id).module for tensor in tensors]
    tree = build_tree(modules)
    size = len(tree.labels)
    total, failed = [0] * size, [0] * size
    worst: list[float | None] = [None] * size
    for tensor, module in zip(tensors, modules, strict=True):
        node = tree.node_of_module[module]
        total[node] += 1
        failed[node] += tensor.status == "failed"
        worst[node] = _larger(worst[node], tensor.margin)
    for node in range(size - 1, 0, -1):  # parents come before their children
        parent = tree.parents[node]
        total[parent] += total[node]
        failed[parent] += failed[node]
        worst[parent] = _larger(worst[parent], worst[node])
    kept = _kept(tree, failed)
    built: dict[int, list[TreeNode]] = {}
    left_out = [0] * size
    for node in range(size - 1, -1, -1):
        parent = tree.parents[node]
        if node not in kept:
            left_out[parent] += 1
            continue
        made = TreeNode(
            label=tree.labels[node],
            total=total[node],
            failed=failed[node],
            worst=worst[node],
            children=tuple(reversed(built.pop(node, []))),
            num_left_out=left_out[node],
        )
        built.setdefault(parent, []).append(made)
    (root,) = built[-1]
    return root


def _kept(tree: ModuleTree, failed: Sequence[int]) -> set[int]:
    """The nodes that are written: with failures first, and never without parents."""
    depths = [0] * len(tree.labels)
    for node in range(1, len(depths)):
        depths[node] = depths[tree.parents[node]] + 1
    nodes = sorted(
        (node for node in range(len(depths)) if depths[node] <= _MAX_DEPTH),
        key=lambda node: (failed[node] == 0, depths[node], node),
    )
    return {0, *nodes[:MAX_NODES]}


_MAX_DEPTH = 30
"""Levels that a page can fold within each other and still be read."""


def _larger(left: float | None, right: float | None) -> float | None:
    """The larger margin; NaN is the worst."""
    if left is None or right is None:
        return right if left is None else left
    return left if math.isnan(left) or left >= right else right
