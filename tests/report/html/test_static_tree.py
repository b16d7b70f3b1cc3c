"""The tree of modules that needs no script."""

import math
from dataclasses import replace

from tests.factories.reports import FAILED, PASSED
from ttrace.report.html.static_tree import MAX_NODES, static_tree


def passed(module, margin=0.5):
    return replace(PASSED, id=f"step0/mb0/{module}/output/0", margin=margin)


def failed(module, margin=4.0):
    return replace(FAILED, id=f"step0/mb0/{module}/output/0", margin=margin)


def test_sums_are_of_all_that_is_below():
    root = static_tree([passed("a.b", 0.25), failed("a.c"), passed("d")])
    assert (root.total, root.failed, root.worst) == (3, 1, 4.0)
    a, d = sorted(root.children, key=lambda node: node.label)
    assert (a.label, a.total, a.failed) == ("a", 2, 1)
    assert [(child.label, child.worst) for child in a.children] == [
        ("b", 0.25),
        ("c", 4.0),
    ]
    assert (d.label, d.worst) == ("d", 0.5)


def test_nan_is_the_worst_margin():
    root = static_tree([failed("a", math.nan), failed("b", math.inf)])
    assert root.worst is not None and math.isnan(root.worst)


def test_of_many_modules_those_that_failed_are_listed():
    tensors = [passed(f"layers.{n}") for n in range(MAX_NODES)]
    root = static_tree([*tensors, failed("layers.last.deep"), failed("layers.last")])
    (layers,) = root.children
    assert layers.label == "layers" and root.total == MAX_NODES + 2
    assert any(child.label == "last" for child in layers.children)
    listed = 2 + len(layers.children) + 1  # with the one below 'last'
    assert listed == MAX_NODES
    assert layers.num_left_out == MAX_NODES + 1 - len(layers.children)


def test_nothing():
    root = static_tree([])
    assert (root.total, root.worst, root.children) == (0, None, ())
