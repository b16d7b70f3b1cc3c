"""The diagnosis that ranks have the samples of others as micro-batches of their own."""

import numpy as np

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

BATCHES = [np.arange(8 * n, 8 * n + 8).reshape(2, 4) for n in range(4)]
GRADIENT = np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4)
ANYWHERE = (
    "Look at the sampler, which is to give every data-parallel rank samples of its "
    "own; where these ranks share their samples, as in tensor parallelism by hand, "
    "describe that"
)


def run(samples, sizes=None, *, scale=1.0):
    """A micro-batch for each entry of ``samples``, of the rank of its number."""
    tensors: dict[str, Tensor] = {}
    for number, batch in enumerate(samples):
        holders = None if sizes is None else (number,)
        for name, values in (
            ("@root/input/0", BATCHES[batch]),
            ("head/grad_output/0", GRADIENT * np.float32(scale)),
        ):
            tensors[f"step0/mb{number}/{name}"] = Tensor(full=values, holders=holders)
    tensors["step0/head/main_grad/weight"] = Tensor(full=GRADIENT)
    return memory_trace(tensors, sizes, framework="torch")


def report_of(reference, candidate):
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return {found.code: found.sentence for found in report.diagnosis}, report.remarks


def test_replicas_of_shards_that_are_given_the_same_data():
    candidate = run((0, 1, 0, 1), {"rep": 2, "sh": 2}, scale=0.5)
    found, remarks = report_of(run((0, 1)), candidate)
    assert found["repeated_samples"] == (
        "micro-batches 2-3 of step 0 hold the samples of 0-1 again: ranks along rep "
        "are given the same data (ranks 2 and 3 that of ranks 0 and 1). What else is "
        f"off by a factor may follow from this. {ANYWHERE}"
    )
    assert found["scaled"] == "2 tensors (grad_output) are 0.5 times the reference"
    assert not [remark for remark in remarks if "calls the model" in remark]


def test_one_rank_that_is_given_the_same_data():
    found, _ = report_of(run((0,)), run((0, 0), {"dp": 2}))
    assert found["repeated_samples"].startswith(
        "micro-batch 1 of step 0 holds the samples of 0 again: ranks along dp are "
        "given the same data (rank 1 that of rank 0). "
    )


def test_further_micro_batches_of_other_samples():
    found, _ = report_of(run((0, 1)), run((0, 1, 2, 1), {"dp": 4}))
    assert "repeated_samples" not in found


def test_a_factor_on_the_backward_alone_is_explained_as_ever():
    found, _ = report_of(run((0, 1)), run((0, 1), {"dp": 2}, scale=0.5))
    assert "taken out again" in found["scaled"] and "repeated_samples" not in found
