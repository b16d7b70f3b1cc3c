"""Outputs that differ by a multiple of an output inside, and by nothing else."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
BASE, LORA = RNG.normal(size=(2, 4, 8)).astype(np.float32)


def run(scale: float, *, has_base: bool = True, off: float = 0.0, of: str = "q"):
    output = BASE + np.float32(scale) * LORA
    output[0, 0] += np.float32(off)
    tensors = {"step0/mb0/q.base/output/0": BASE} if has_base else {}
    tensors[f"step0/mb0/{of}.lora_B/output/0"] = LORA
    return memory_trace({**tensors, "step0/mb0/q/output/0": output})


def said(reference, candidate) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("scaled_submodule")


LOOK = (
    ": look at what q multiplies that by, such as the alpha / rank of an adapter or "
    "the scale of a residual"
)


@pytest.mark.parametrize(
    ("scale", "how"), [(1, "less 1 times"), (4, "plus 2 times"), (0, "less 2 times")]
)
def test_an_adapter_of_another_scale(scale, how):
    assert said(run(2), run(scale)) == (
        f"the output of q is the reference's {how} the output of q.lora_B, which "
        "agrees, and differs by nothing else (step0/mb0/q/output/0); q multiplies it "
        f"by 2 in the reference, and by {scale} in the candidate{LOOK}"
    )


def test_what_it_is_multiplied_by_is_only_said_where_that_is_known():
    assert said(run(2, has_base=False), run(1, has_base=False)) == (
        "the output of q is the reference's less 1 times the output of q.lora_B, which "
        f"agrees, and differs by nothing else (step0/mb0/q/output/0){LOOK}"
    )


def test_another_error_is_not_explained_by_it():
    assert said(run(2), run(2, off=1)) is None
    assert said(run(2), run(1, off=1)) is None
    assert said(run(2, of="k"), run(1, of="k")) is None  # it is not inside


def test_an_output_inside_that_differs_itself_is_no_cause():
    candidate = run(1)
    candidate.arrays[0, "step0/mb0/q.lora_B/output/0"] *= np.float32(3)
    assert said(run(2), candidate) is None
