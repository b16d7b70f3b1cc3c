"""Parameters that one run ties and that are trained apart in the other."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
WEIGHT, FIRST, SECOND, OTHER = RNG.normal(size=(4, 4, 5)).astype(np.float32)


def tied(total=FIRST + SECOND):
    return memory_trace(
        {
            "step0/emb/param/weight": WEIGHT,
            "step0/mb0/emb/output/0": FIRST,
            "step0/mb0/head/output/0": SECOND,
            "step0/emb/main_grad/weight": total,
            "step0/emb/updated_param/weight": WEIGHT - total,
        },
        framework="torch",
    )


def split(*, apart: bool, second=SECOND, copy=WEIGHT):
    def on(rank, values):
        return Tensor(full=values, holders=(rank,) if apart else None)

    return memory_trace(
        {
            "step0/emb/param/weight": on(0, WEIGHT),
            "step0/head/param/weight": on(1, copy),
            "step0/mb0/emb/output/0": on(0, FIRST),
            "step0/mb0/head/output/0": on(1, SECOND),
            "step0/emb/main_grad/weight": on(0, FIRST),
            "step0/head/main_grad/weight": on(1, second),
            "step0/emb/updated_param/weight": on(0, WEIGHT - FIRST),
            "step0/head/updated_param/weight": on(1, WEIGHT - second),
        },
        {"pp": 2} if apart else None,
        framework="torch",
    )


def sentence_of(reference, candidate) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("split_ties")


def test_a_copy_that_is_a_parameter_of_its_own():
    assert sentence_of(tied(), split(apart=False)) == (
        "head.weight begins as a copy of emb.weight and is a parameter of its own in "
        "the candidate; in the reference they are one: it has emb.weight alone, and "
        "runs head too. In step 0 the gradients of both add up to that of the "
        "reference. Tie them in the candidate (head.weight = emb.weight, before the "
        "optimizer is made), or untie them in the reference"
    )


def test_a_copy_of_the_reference_is_told_too():
    assert sentence_of(split(apart=False), tied()) == (
        "head.weight begins as a copy of emb.weight and is a parameter of its own in "
        "the reference; in the candidate they are one: it has emb.weight alone, and "
        "runs head too. In step 0 the gradients of both add up to that of the "
        "candidate. Tie them in both runs, or in neither"
    )


def test_gradients_that_do_not_add_up_are_not_said_to():
    sentence = sentence_of(tied(total=OTHER), split(apart=False))
    assert sentence is not None and "add up" not in sentence


def test_stages_whose_gradients_are_not_added_up():
    assert sentence_of(tied(), split(apart=True)) == (
        "head.weight and emb.weight are one parameter in the reference, and begin "
        "alike on ranks of their own in the candidate, where their gradients are not "
        "added up: in step 0 each is given its own part, and the two add up to the "
        "gradient of the reference. Sum the gradients of the ranks that share the "
        "parameter (all_reduce) before optimizer.step()"
    )


@pytest.mark.parametrize("second", [OTHER, FIRST + SECOND])
def test_stages_with_other_gradients_are_another_matter(second):
    assert sentence_of(tied(), split(apart=True, second=second)) is None


@pytest.mark.parametrize("apart", [True, False])
def test_what_begins_otherwise_is_no_copy(apart):
    assert sentence_of(tied(), split(apart=apart, copy=OTHER)) is None
