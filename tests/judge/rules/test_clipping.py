"""The diagnosis that gradients are clipped otherwise, or in one run only."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from tests.judge.rules.test_rules import diagnoses
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

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


def clipped(**factors: float):
    """Three gradients of several norms, each clipped by its factor."""
    gradients = {"a": VALUES, "b": 3 * VALUES[:3], "c": -2 * VALUES[:1]}
    tensors: dict[str, np.ndarray] = {}
    for kind in ("main_grad", "clipped_grad"):
        for name, values in gradients.items():
            factor = factors.get(name, 1.0) if kind == "clipped_grad" else 1.0
            tensors[f"step0/{name}/{kind}/weight"] = values * np.float32(factor)
    return memory_trace(tensors)


def norm_of(*names: str) -> float:
    gradients = {"a": VALUES, "b": 3 * VALUES[:3], "c": -2 * VALUES[:1]}
    return float(np.linalg.norm(np.concatenate([gradients[name] for name in names])))


def how(reference, candidate) -> str:
    found = diagnoses(reference, candidate)
    assert "scaled" not in found
    return found["clipping"].sentence.partition("after it: ")[2]


def test_a_group_that_is_left_unclipped_is_named():
    reference = clipped(a=0.1, b=0.05, c=0.05)
    assert how(reference, clipped(a=0.1)) == (
        "the candidate leaves b.weight and c.weight as they were before, which the "
        "reference clips: look at which parameters the clip is given, and at its limit"
    )
    assert how(clipped(a=0.1), clipped(a=0.1, b=0.05)) == (
        "the candidate clips b.weight, which the reference leaves as it was before: "
        "look at which parameters the clip is given, and at its limit"
    )


def test_a_clip_of_a_part_has_the_norm_of_that():
    limit = 0.5
    of_all = limit / norm_of("a", "b", "c")
    of_part = limit / norm_of("b", "c")
    reference = clipped(a=of_all, b=of_all, c=of_all)
    assert how(reference, clipped(b=of_part, c=of_part)) == (
        "the candidate leaves a.weight as it was before, which the reference clips; "
        f"the others it multiplies by {of_part:.4g}, and the reference all by "
        f"{of_all:.4g}, which is one limit, and it clips by the norm of these alone: "
        "give the clip all parameters, as the reference does"
    )


def test_limits_of_groups_are_not_said_to_be_of_all():
    reference = clipped(a=0.1, b=0.2, c=0.3)
    assert how(reference, clipped(a=0.2, b=0.4, c=0.6)) == (
        "they are 2 times the reference's, and the reference does not clip all by one "
        "factor: look for a limit that is 2 times that of the reference"
    )
    assert how(reference, clipped(a=0.2, b=0.25, c=0.3)) == (
        "the reference does not clip all by one factor: a limit is another one, or "
        "which gradients are clipped together is"
    )


def test_what_is_no_multiple_may_be_limited_by_value():
    reference = clipped(a=0.5, b=0.5, c=0.5)
    candidate = clipped(a=0.5, b=0.5, c=0.5)
    values = candidate.arrays[0, CLIPPED_A]
    np.clip(values, -2, 2, out=values)
    assert how(reference, candidate) == (
        "the limit is another one, or what it limits, as the norm of all gradients, of "
        "a group of them or of each, or each value"
    )


def test_ranks_that_clip_by_the_norms_of_their_shards():
    """Each rank's part is a multiple, and the whole is none."""

    def run(*factors: float):
        whole, half = VALUES / 2, np.repeat(np.array(factors, np.float32), 4)
        tensors = {
            f"step0/{name}/{kind}/weight": Tensor(full=values, dims="d0[dp]")
            for kind, values in (("main_grad", VALUES), ("clipped_grad", whole * half))
            for name in "ab"
        }
        return memory_trace(tensors, {"dp": 2})

    found = diagnoses(run(1, 1), run(1.4, 1.5))
    assert found["clipping"].sentence.endswith(
        "the limit is another one, or the norm is, which must be that of all "
        "gradients, on all ranks"
    )


def test_what_clips_is_one_place():
    report = compare_traces(
        clipped(a=0.1, b=0.05, c=0.05), clipped(a=0.2), load_backend("numpy")
    )
    (culprit,) = report.culprits
    assert len(culprit.ids) == 3
