"""Steps with several updates, as of a loop of micro-steps that is traced as a whole."""

import numpy as np

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

ONES = np.ones(8, np.float32)
PARAM, UPDATED = "step0/a/param/weight", "step0/a/updated_param/weight"
AFTER = np.linspace(0.25, 0.75, 8, dtype=np.float32)
ONE_UPDATE = memory_trace({PARAM: ONES, UPDATED: AFTER})


def test_updates_of_a_loop_are_not_those_of_a_step():
    """The first three change nothing: that is no parameter the optimizer lacks."""
    loop = {PARAM: ONES, UPDATED: ONES}
    loop |= {f"{UPDATED}/call{number}": ONES for number in (1, 2)}
    loop[f"{UPDATED}/call3"] = AFTER
    report = compare_traces(ONE_UPDATE, memory_trace(loop), load_backend("numpy"))
    (diagnosis,) = report.diagnosis
    assert diagnosis.code == "several_updates"
    assert diagnosis.sentence == (
        "step 0 of the candidate updates its parameters 4 times, and that of the "
        "reference once: what is compared are not the same updates. Let a step of the "
        "trace be one update in both runs (trace the function that makes one, or call "
        "trace.step() after it)"
    )


def test_as_many_updates_in_both_say_nothing():
    loop = memory_trace({PARAM: ONES, UPDATED: ONES, f"{UPDATED}/call1": AFTER})
    assert diagnoses(loop, loop) == {}


def test_a_parameter_that_is_never_updated_is_still_said():
    candidate = memory_trace({PARAM: ONES, UPDATED: ONES})
    report = compare_traces(ONE_UPDATE, candidate, load_backend("numpy"))
    assert [found.code for found in report.diagnosis] == ["never_updated"]
