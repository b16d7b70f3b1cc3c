"""Gradients that hold what another loss of the step before left in them."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
OF_CRITIC = RNG.normal(size=(2, 4, 5)).astype(np.float32)
"""By step: what the critic's own loss adds."""
OF_MAKER = RNG.normal(size=(2, 4, 5)).astype(np.float32)
"""By step: what the maker's loss adds to the critic's gradient."""
OUTPUT = RNG.normal(size=(4, 5)).astype(np.float32)


def run(held: np.ndarray | float = 0.0, *, follows: bool = False):
    """Two steps of a critic and a maker; the critic steps in between.

    Args:
        held: What the critic's gradient of step 1 holds beside its own.
        follows: What runs on the critic's update differs, and so do all gradients.
    """
    tensors = {}
    for step in range(2):
        at = f"step{step}"
        wrong = np.float32(1 + (follows and step == 1))
        given = (OF_CRITIC[step] + (held if step else 0)).astype(np.float32)
        tensors |= {
            f"{at}/mb0/critic/output/0": OUTPUT,
            f"{at}/mb0/critic/param_grad/w": OF_CRITIC[step],
            f"{at}/critic/main_grad/w": given,
            f"{at}/critic/updated_param/w": 1 - given,
            f"{at}/mb1/critic/output/0": OUTPUT * wrong,
            f"{at}/mb1/critic/param_grad/w": OF_MAKER[step] * wrong,
            f"{at}/mb1/maker/param_grad/w": OF_MAKER[step] * wrong,
            f"{at}/maker/main_grad/w": OF_MAKER[step] * wrong,
        }
    return memory_trace(tensors)


def compare(candidate):
    return compare_traces(run(), candidate, load_backend("numpy"))


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize(
    "held, what",
    [
        (
            OF_MAKER[0],
            "what the backward of micro-batch 1 of step 0 adds to them, which comes "
            "after the update of their parameters: set them to zero before",
        ),
        (
            OF_CRITIC[0] + OF_MAKER[0],
            "the candidate's own of step 0 and what the backward of micro-batch 1",
        ),
        (OF_CRITIC[0], "the candidate's own of step 0: gradients are not set to zero"),
    ],
)
def test_what_they_hold(held, what, follows):
    report = compare(run(held, follows=follows))
    found = {each.code: each.sentence for each in report.diagnosis}
    assert "are the reference's gradient plus" in found["accumulated_gradient"]
    assert what in found["accumulated_gradient"]


def test_something_else_is_not_said_to_be_left_over():
    report = compare(run(OF_MAKER[1]))
    assert "accumulated_gradient" not in {each.code for each in report.diagnosis}


def test_what_runs_on_the_update_is_no_place_of_its_own():
    (place,) = compare(run(OF_CRITIC[0], follows=True)).culprits
    assert place.id == "step1/critic/main_grad/w"
    assert place.share.startswith("all ")


def test_a_wrong_forward_before_the_update_is_one():
    candidate = run(OF_CRITIC[0])
    candidate.arrays[0, "step1/mb0/critic/output/0"] = OUTPUT + np.float32(1)
    places = compare(candidate).culprits
    assert places[0].id == "step1/mb0/critic/output/0"
