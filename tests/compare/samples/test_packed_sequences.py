"""Parts of packed sequences are not matched sample by sample, by another cut."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.samples.packed_sequences import PACKED_REASON, packed_parts
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces


def names(*slots: str, module: str = "rnn"):
    return [parse_tensor_id(f"step0/mb0/{module}/input/{slot}") for slot in slots]


def test_they_are_known_by_the_names_of_their_parts():
    packed = names("0.data", "0.batch_sizes", "0.sorted_indices", "0.unsorted_indices")
    given_sorted = names("1.data", "1.batch_sizes")
    whole = names("data", "batch_sizes", module="other")
    others = names("2.data", "3.sorted_indices", "4")
    found = packed_parts([*packed, *given_sorted, *whole, *others])
    assert found == {*packed, *given_sorted, *whole}


def packed_run(batches: list[list[int]]):
    """Sequences of some lengths, in micro-batches, packed in order of their lengths."""
    data = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    lengths = np.array([2, 5, 3, 4])
    tensors = {}
    for number, samples in enumerate(batches):
        here = f"step0/mb{number}"
        order = np.argsort(-lengths[samples], kind="stable")
        rows = [
            data[samples[i], t]
            for t in range(lengths[samples].max())
            for i in order
            if t < lengths[samples[i]]
        ]
        sizes = [
            int((lengths[samples] > t).sum()) for t in range(lengths[samples].max())
        ]
        tensors |= {
            f"{here}/@root/input/0": data[samples],
            f"{here}/rnn/input/0.data": np.stack(rows),
            f"{here}/rnn/input/0.batch_sizes": np.array(sizes),
            f"{here}/rnn/input/0.sorted_indices": order,
            f"{here}/rnn/output/1": data[samples].sum(1),
        }
    return memory_trace(tensors)


def test_another_cut_of_the_samples_is_no_divergence():
    report = compare_traces(
        packed_run([[0, 1, 2, 3]]), packed_run([[0, 1], [2, 3]]), NumpyBackend()
    )
    assert report.verdict == "pass" and report.counts.passed == 2
    (reason,) = report.counts.skipped_reasons
    assert reason.endswith(f"; {PACKED_REASON}") and report.counts.skipped == 3


def test_the_same_cut_compares_them():
    report = compare_traces(
        packed_run([[0, 1, 2, 3]]), packed_run([[0, 1, 2, 3]]), NumpyBackend()
    )
    assert report.verdict == "pass" and report.counts.passed == 5
    report = compare_traces(
        packed_run([[0, 1, 2, 3]]), packed_run([[0, 3, 2, 1]]), NumpyBackend()
    )
    assert not report.counts.failed  # only the order differs
