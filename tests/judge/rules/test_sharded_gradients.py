"""Gradients that are wrong of just the parameters that one axis shards."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.pipeline import compare

VALUES = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
WRONG = VALUES + np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)

DIMS = {
    "experts.0": "d0[ep] d1",
    "experts.1": "d0[ep] d1",
    "qkv": "d0[tp] d1",
    "norm": None,
}


def said(*wrong):
    """Of a candidate with some gradients that are wrong."""
    reference, candidate = {}, {}
    for name, dims in DIMS.items():
        id_ = f"step0/{name}/main_grad/weight"
        reference[id_] = VALUES
        full = WRONG if name in wrong else VALUES
        candidate[id_] = Tensor(full=full, dims=dims)
    run = memory_trace(candidate, {"ep": 2, "tp": 2})
    found = {d.code: d for d in compare(memory_trace(reference), run).diagnosis}
    return found.get("sharded_gradients")


def test_all_that_are_sharded_over_an_axis():
    found = said("experts.0", "experts.1")
    assert found is not None
    assert found.sentence == (
        "all 2 main_grad that were compared of parameters that are sharded over ep are "
        "wrong in step 0, and the others agree (2 compared): look at the group of "
        "ranks over which the "
        "gradients of these parameters are reduced, and at what scales them apart from "
        "the others"
    )
    assert found.evidence["axes"] == "ep"


@pytest.mark.parametrize(
    "wrong",
    [
        ("experts.0",),  # not all of them
        ("experts.0", "experts.1", "norm"),  # others, too
        ("experts.0", "experts.1", "qkv"),
        ("qkv",),  # one alone
        tuple(DIMS),
    ],
)
def test_nothing_is_said_where_no_axis_tells_them_apart(wrong):
    assert said(*wrong) is None
