"""Rows of an embedding that are wrong, told by the ids that it is given."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

WEIGHT = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
IDS = np.array([[1, 6, 2, 3, 6], [4, 5, 1, 7, 9]])
OUTPUT, GRADIENT = "step0/mb0/emb/output/0", "step0/emb/main_grad/weight"


def run(wrong_rows=(), *, ids=IDS, at=None, gradient=False, with_ids=True, size=None):
    output = WEIGHT[ids]
    gradients = WEIGHT.copy()
    for row in wrong_rows:
        if gradient:
            gradients[row] += 1
        else:
            output[ids == row] = 0
    if at is not None:
        output[at] = 0
    dims = None if size is None else "v[tp] h"
    tensors = {"step0/emb/param/weight": Tensor(full=WEIGHT, dims=dims)}
    if with_ids:
        tensors["step0/mb0/emb/input/0"] = Tensor(full=ids)
    tensors[OUTPUT] = Tensor(full=output)
    tensors[GRADIENT] = Tensor(full=gradients, dims=dims)
    return memory_trace(tensors, None if size is None else {"tp": size})


def diagnoses(reference, candidate):
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return {found.code: found.sentence for found in report.diagnosis}


def test_the_first_row_of_the_second_rank():
    found = diagnoses(run(), run([6], size=2))
    assert found["embedding_rows"] == (
        "step0/mb0/emb/output/0 is wrong where its input (the token id) is 6 (6 is the "
        "first row of rank 1's shard), and agrees at all 7 other ids that occur: look "
        "at how emb finds these rows, such as the range of ids that a rank takes for "
        "its own"
    )
    assert "confined_error" not in found


def test_rows_within_a_shard():
    found = diagnoses(run(), run([1, 9], size=2))["embedding_rows"]
    assert "is 1, 9, and agrees at all 6 other ids that occur" in found


def test_gradients_of_rows():
    found = diagnoses(run(), run([5], gradient=True, size=2))["embedding_rows"]
    assert found.startswith(
        f"{GRADIENT} is wrong in the rows of the ids 5 (5 is the last row of rank 0's "
        "shard), and agrees in all 11 other rows that are not zero: the output of emb "
        "agrees, so look at how its backward finds these rows"
    )


def test_rows_of_ids_that_occur_several_times():
    found = diagnoses(run(), run([1, 6], gradient=True))["embedding_rows"]
    assert "the ids 1, 6, and agrees in all 10 other rows that are not zero" in found
    assert found.endswith(
        "they are all the ids that occur more than once in what a rank is given at a "
        "time. Look at how the backward of emb adds up the gradients of several uses "
        "of a row, as where one overwrites another or all are averaged"
    )


def test_rows_that_ranks_are_given_once_each_are_not_repeated():
    cut = run([1, 6], gradient=True)
    whole = run()
    candidate = memory_trace(
        {
            text: Tensor(full=array, dims="b[dp] s" if "/input/" in text else None)
            for (_, text), array in cut.arrays.items()
        },
        {"dp": 2},
    )
    found = diagnoses(whole, candidate)["embedding_rows"]
    assert "how its backward finds these rows" in found  # 1 occurs once on each rank


def test_ids_in_the_other_order_of_dims():
    reference, candidate = run(), run([6])
    turned = [
        memory_trace(
            {
                text: array.swapaxes(0, 1).copy() if text == OUTPUT else array
                for (_, text), array in trace.arrays.items()
            }
        )
        for trace in (reference, candidate)
    ]
    assert "is 6, and agrees" in diagnoses(*turned)["embedding_rows"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"at": (0, 1)}, "the id is right elsewhere"),
        ({"wrong_rows": (1, 2, 3, 4, 6)}, "most ids are wrong"),
        ({"wrong_rows": (6,), "with_ids": False}, "nothing tells the ids"),
    ],
)
def test_what_is_no_matter_of_rows(options, why):
    reference = run(with_ids=options.get("with_ids", True))
    assert "embedding_rows" not in diagnoses(reference, run(**options)), why


def test_rows_of_an_update_behind_a_gradient_that_agrees():
    """Adam is all but blind to a factor of its gradient: rounding is what is left."""
    wrong = WEIGHT.copy()
    wrong[5] += 1
    reference, candidate = (
        memory_trace(
            {
                "step0/mb0/emb/input/0": Tensor(full=IDS),
                GRADIENT: WEIGHT,
                "step0/emb/updated_param/weight": updated,
            }
        )
        for updated in (WEIGHT, wrong)
    )
    assert "embedding_rows" not in diagnoses(reference, candidate)


@pytest.mark.parametrize("shape", [(12,), (12, 4, 3), (12, 4, 3, 2)])
def test_gradients_of_what_is_no_embedding_though_it_is_given_ids(shape):
    """Stacked experts take the number of an expert for each row."""
    gradient = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    reference, candidate = (
        memory_trace({"step0/mb0/emb/input/0": IDS, GRADIENT: values})
        for values in (gradient, 2 * gradient)
    )
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.verdict == "diverged"
    assert "embedding_rows" not in {found.code for found in report.diagnosis}


def test_rows_that_each_rank_lacks_for_want_of_a_reduction_are_not_blamed():
    candidate = run([6], size=2)
    candidate.arrays[1, OUTPUT] = WEIGHT[IDS] * (IDS >= 6)[..., None]
    found = diagnoses(run(), candidate)
    assert "replicas_differ" in found and "embedding_rows" not in found
