"""Ids split into shared parts, and the tree of their modules."""

import pytest

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.report.html.module_tree import IdParts, build_tree, split_id


@pytest.mark.parametrize(
    "tensor_id",
    [
        TensorId(step=0, module="a.b", kind=Kind.MAIN_GRAD, slot="weight"),
        TensorId(step=12, microbatch=3, module="@root", kind=Kind.LOSS),
        TensorId(
            step=1,
            microbatch=0,
            module="a",
            kind=Kind.OUTPUT,
            slot="0",
            call=2,
            pass_=Pass.RECOMPUTE,
        ),
    ],
)
def test_the_parts_of_an_id_are_the_id(tensor_id):
    parts = split_id(str(tensor_id))
    assert parts.prefix + parts.module + parts.suffix == str(tensor_id)
    assert (parts.module, parts.step) == (tensor_id.module, tensor_id.step)


def test_parts():
    assert split_id("step2/mb1/layers.0.mlp/output/0/call1") == IdParts(
        prefix="step2/mb1/", module="layers.0.mlp", suffix="/output/0/call1", step=2
    )


@pytest.mark.parametrize("text", ["", "no id", "step0/</script>/output/0"])
def test_what_is_no_id_is_a_module_of_its_own(text):
    assert split_id(text) == IdParts(prefix="", module=text, suffix="", step=None)


def test_tree():
    tree = build_tree(["@root", "net.layers.0.mlp", "net.layers.1.mlp", "net.head"])
    assert tree.paths[0] == "" and tree.parents[0] == -1
    assert set(tree.paths) == {
        "",
        "net",
        "net.layers",
        "net.layers.0.mlp",
        "net.layers.1.mlp",
        "net.head",
    }
    assert all(parent < node for node, parent in enumerate(tree.parents))
    for node in range(1, len(tree.paths)):
        above = tree.paths[tree.parents[node]]
        assert tree.paths[node] == f"{above}.{tree.labels[node]}".strip(".")
    assert tree.node_of_module["@root"] == 0
    assert tree.paths[tree.node_of_module["net.head"]] == "net.head"


def test_a_module_of_its_own_is_not_joined_with_its_only_child():
    tree = build_tree(["a.b", "a.b.c"])
    assert tree.labels == ("", "a.b", "c")


def test_a_path_of_many_parts_needs_no_recursion():
    path = ".".join("x" * 5000)
    tree = build_tree([path, path + ".y", "z"])
    assert tree.labels[tree.node_of_module[path + ".y"]] == "y"


def test_nothing():
    assert build_tree([]).labels == ("",)
