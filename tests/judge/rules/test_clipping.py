"""The diagnosis that gradients are clipped otherwise, or in one run only."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

VALUES = np.arange(1, 9, dtype=np.float32)
A, B = (f"step0/{name}/main_grad/weight" for name in "ab")
CLIPPED_A, CLIPPED_B = (f"step0/{name}/clipped_grad/weight" for name in "ab")
AGREE = {A: VALUES, B: VALUES}


@pytest.mark.parametrize(
    ("clips", "does_not"), [("reference", "candidate"), ("candidate", "reference")]
)
def test_only_one_run_clips(clips, does_not):
    clipped = memory_trace({**AGREE, CLIPPED_A: VALUES / 2, CLIPPED_B: VALUES / 2})
    traces = {clips: clipped, does_not: memory_trace(AGREE)}
    found = diagnoses(traces["reference"], traces["candidate"])["clipping"]
    assert found.sentence == (
        f"step 0 of the {clips} clips its gradients, and no clipping was seen in that "
        f"step of the {does_not}, whose gradients agree before it. Clip in both runs, "
        "between the last backward and optimizer.step()"
    )
    assert found.tensor_ids == (CLIPPED_A, CLIPPED_B)
    assert found.evidence == {"step": 0, "clips": clips}


def test_clipped_with_another_norm():
    reference = memory_trace({**AGREE, CLIPPED_A: VALUES / 2, CLIPPED_B: VALUES / 2})
    candidate = memory_trace({**AGREE, CLIPPED_A: VALUES / 3, CLIPPED_B: VALUES / 4})
    found = diagnoses(reference, candidate)["clipping"]
    assert found.sentence == (
        "the gradients of step 0 agree before they are clipped (2 compared), and 2 "
        "tensors are different after it: the limit is another one, or the norm "
        "is, which must be that of all gradients, on all ranks"
    )
    assert found.tensor_ids == (CLIPPED_A, CLIPPED_B)


def test_gradients_that_differ_before_are_no_matter_of_clipping():
    reference = memory_trace({**AGREE, CLIPPED_A: VALUES / 2, CLIPPED_B: VALUES / 2})
    wrong = {A: VALUES * 3, B: VALUES}
    candidate = memory_trace({**wrong, CLIPPED_A: VALUES, CLIPPED_B: VALUES / 3})
    assert "clipping" not in diagnoses(reference, candidate)
    assert "clipping" not in diagnoses(reference, memory_trace(wrong))


def test_a_step_before_that_differs_explains_the_next():
    later = {id_.replace("step0", "step1"): VALUES for id_ in (A, CLIPPED_A)}
    reference = memory_trace({A: VALUES, CLIPPED_A: VALUES, **later})
    wrong = {A: VALUES * 2, CLIPPED_A: VALUES}
    candidate = memory_trace({**wrong, **later, "step1/a/clipped_grad/weight": -VALUES})
    assert "clipping" not in diagnoses(reference, candidate)


def test_the_same_clipping_says_nothing():
    trace = memory_trace({**AGREE, CLIPPED_A: VALUES / 2, CLIPPED_B: VALUES / 2})
    assert diagnoses(trace, trace) == {}
