"""Modules and their calls, as a trace recorded them."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.recorded_activations import (
    Activations,
    Instance,
    pattern_text,
)

ONE = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        (("a", None), ("a.b", None), True),
        (("a", None), ("a", None), True),
        (("a", None), ("ab", None), False),
        (("a.b", None), ("a", None), False),
        (("@root", None), ("x.y", 3), True),
        (("a", 1), ("a.b", 1), True),
        (("a", 1), ("a.b", 2), False),
        (("a", 1), ("a.b", None), True),
        (("a", None), ("a.b", 2), True),
    ],
)
def test_what_lies_below_an_instance(outer, inner, expected):
    instances = [Instance(module=module, call=call) for module, call in (outer, inner)]
    assert instances[0].holds(instances[1]) is expected


def test_parents():
    assert Instance(module="a.b.c").parent == "a.b"
    assert Instance(module="a").parent == "@root"


def test_the_first_micro_batch_by_call():
    names = [
        "step1/mb0/late/output/0",
        "step0/mb1/second/output/0",
        "step0/mb0/a/input/0",
        "step0/mb0/a/output/0",
        "step0/mb0/a/output/0/call1",
        "step0/mb0/b/output/x",
        "step0/mb0/b/output/x/recompute",
        "step0/b/param/w",
    ]
    found = Activations(memory_trace(dict.fromkeys(names, ONE)))
    assert list(found.instances()) == [
        Instance(module="a"),
        Instance(module="a", call=0),
        Instance(module="a", call=1),
        Instance(module="b"),
    ]
    second = Instance(module="a", call=1)
    assert found.slots(second, Kind.OUTPUT) == {"0": parse_tensor_id(names[4])}
    assert found.slots(second, Kind.INPUT) == {}
    tensor_id = parse_tensor_id(names[5])
    assert found.shape(tensor_id) == (3,)
    assert 0 < found.tolerance(tensor_id) < 1e-2
    assert found.array(tensor_id) is found.array(tensor_id)


def test_patterns():
    tensor_id = parse_tensor_id("step0/mb0/a/output/0")
    assert pattern_text(Instance(module="a"), tensor_id) == "a/{kind}/0"
    assert pattern_text(Instance(module="a", call=0), tensor_id) == "a/{kind}/0/call0"
