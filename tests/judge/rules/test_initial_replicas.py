"""Ranks that start from parameters of their own: a divergence, and no set-up."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

VALUES = np.arange(1, 9, dtype=np.float32)
NORM, OTHER = "step0/ln_f/param/weight", "step0/head/param/weight"
BUFFER = "step0/ln_f/buffer/mean"
OUTPUT = "step0/mb0/ln_f/output/0"
ALL = (NORM, OTHER, BUFFER, OUTPUT)


def run(sizes=None, wrong=(), *, ranks=(1,), without=()):
    tensors = {
        text: Tensor(full=VALUES, exact_replicas=text != OUTPUT)
        for text in ALL
        if text not in without
    }
    trace = memory_trace(tensors, sizes)
    for rank in ranks if sizes else ():
        for text in wrong:
            trace.arrays[rank, text][3] += 1
    return trace


def compare(candidate, reference=None) -> tuple[Report, dict[str, str]]:
    report = compare_traces(reference or run(), candidate, load_backend("numpy"))
    return report, {found.code: found.sentence for found in report.diagnosis}


def test_ranks_that_initialise_a_parameter_each_for_itself():
    report, found = compare(run({"tp": 2}, (NORM, OUTPUT)))
    assert report.verdict is Outcome.DIVERGED
    assert found == {
        "initial_replicas": "ranks 0 and 1 hold different initial values of "
        "ln_f.weight, which must agree: seed them alike, or broadcast it after "
        "initialisation; what follows may be a consequence"
    }
    first = report.first_divergence
    assert first is not None and (first.id, first.phase) == (NORM, "set-up")
    assert "replicas differ in the candidate: rank 1 from rank 0" in first.sentence
    assert report.setup.tensors == ()


def test_several_parameters_on_several_ranks():
    candidate = run({"tp": 4}, (NORM, OTHER, BUFFER), ranks=(1, 3))
    assert compare(candidate)[1]["initial_replicas"].startswith(
        "ranks 0, 1 and 3 hold different initial values of 3 parameters, first "
        "ln_f.weight, which must agree: seed them alike, or broadcast them after"
    )


@pytest.mark.parametrize("change", ["given", "names", "reference"])
def test_other_parameters_are_a_set_up_all_the_same(change):
    """Rank 0 has others, too; names put stages together; the reference is to blame."""
    reference, candidate = run(), run({"tp": 2}, (NORM,))
    if change == "given":
        candidate.arrays[0, OTHER][2] += 1
        candidate.arrays[1, OTHER][2] += 1
    elif change == "names":
        candidate = run({"tp": 2}, (NORM,), without=(OTHER,))
    else:
        reference, candidate = run({"tp": 2}, (NORM,)), run()
    report, found = compare(candidate, reference)
    if change == "given":
        assert "initial_replicas" in found
    else:
        assert "initial_replicas" not in found
    assert "replicas_differ" not in found
    assert report.verdict is Outcome.ERROR
    assert report.summary.startswith("Set-up differs")


def test_replicas_that_part_in_a_step_are_no_matter_of_initialisation():
    found = compare(run({"tp": 2}, (OUTPUT,)))[1]
    assert set(found) == {"replicas_differ"}
