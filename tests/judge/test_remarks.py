"""What is odd about a comparison: a run in which no module ran."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

ONES = np.ones(4, np.float32)
PARAM, UPDATED = "step0/fc/param/weight", "step0/fc/updated_param/weight"
INPUT, OUTPUT = "step0/mb0/@root/input/0", "step0/mb0/fc/output/0"
STEP = {PARAM: ONES, UPDATED: ONES * 2}


def remarks(reference, candidate, framework="torch", **fields) -> tuple[str, ...]:
    traces = (
        memory_trace(reference),
        memory_trace(candidate, framework=framework, **fields),
    )
    return compare_traces(*traces, load_backend("numpy")).remarks


@pytest.mark.parametrize(
    ("framework", "remedy"),
    [
        ("torch", "give the trace call the very model that the loop runs"),
        (
            "jax",
            "give jax_capture.trace the function that calls the model, and name what "
            "plain JAX computes by jax.named_scope or ttrace.tap",
        ),
    ],
)
def test_no_module_of_one_run_ran(framework, remedy):
    given = {INPUT: ONES}  # plain JAX records what its step is given
    (remark,) = remarks({**STEP, **given, OUTPUT: ONES}, {**STEP, **given}, framework)
    assert remark == (
        "no module of the candidate ran in a recorded step, as far as ttrace knows: it "
        f"has no input or output of any, and the reference has 1; {remedy}"
    )


def test_where_it_is_known_not_to_be_so_nothing_is_said():
    whole = {**STEP, OUTPUT: ONES}
    assert remarks(whole, whole) == ()
    assert remarks(STEP, STEP) == ()
    assert remarks(whole, STEP, capture={"kinds": "param,updated_param"}) == ()
