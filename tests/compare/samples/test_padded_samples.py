"""Which sample is where, in runs that pad samples to other lengths."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.samples.sample_search import match_samples
from ttrace.compare.samples.samples import Place, Span
from ttrace.ir.side import Side
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome
from ttrace.store.memory_trace import MemoryTrace

LENGTHS = (3, 6, 2, 5)


def run(
    order: Sequence[Sequence[int]],
    *,
    left: bool = False,
    padding: int = 0,
    mask: str = "mask",
    ones: int = 1,
    holes: bool = False,
    has_segments: bool = True,
    seed: int = 0,
) -> MemoryTrace:
    """What the model is given: tokens, a mask, segments of zeros and ones."""
    rng = np.random.default_rng(seed)
    samples = [rng.integers(5, 99, length) for length in LENGTHS]
    tensors = {}
    for number, of_one in enumerate(order):
        length = max(LENGTHS[i] for i in of_one)
        ids = np.full((len(of_one), length), padding)
        kept = np.full((len(of_one), length), 1 - ones)
        segments = np.zeros_like(ids)
        for row, i in enumerate(of_one):
            first = length - LENGTHS[i] if left else 0
            own = slice(first, first + LENGTHS[i])
            ids[row, own], kept[row, own] = samples[i], ones
            segments[row, own][1:] = 1
            if holes:
                kept[row, first + 1] = 1 - ones
        here = f"step0/mb{number}/@root/input"
        tensors[f"{here}/0"] = ids
        if has_segments:
            tensors[f"{here}/segments"] = segments
        if mask:
            tensors[f"{here}/{mask}"] = kept
        tensors[f"step0/mb{number}/@root/output/0"] = ids * 2.0
    return memory_trace(tensors)


@pytest.mark.parametrize("options", [{}, {"left": True}, {"padding": 7}, {"ones": 0}])
def test_samples_are_found_by_what_the_mask_leaves(options):
    (samples,) = match_samples(
        run([[0, 1, 2, 3]], ones=options.get("ones", 1)),
        run([[2, 0], [3, 1]], **options),
    )
    assert samples.mask == "mask"
    assert samples.places == {
        0: (
            Place(microbatch=0, row=1),
            Place(microbatch=1, row=1),
            Place(microbatch=0, row=0),
            Place(microbatch=1, row=0),
        )
    }
    start = 1 if options.get("left") else 0
    assert samples.spans[Side.CANDIDATE][Place(microbatch=0, row=0)] == Span(
        start=start, length=2
    )
    assert samples.lengths[Side.CANDIDATE] == {0: 3, 1: 6}
    assert samples.sizes_sentence.endswith(
        "padded to 6 positions in the reference, 3 to 6 in the candidate"
    )


def with_labels(trace: MemoryTrace, *, masked: bool) -> MemoryTrace:
    """Labels, of which one run leaves the padding in the loss, the other does not."""
    tensors = {}
    for (_, text), values in trace.arrays.items():
        tensors[text] = values
        if text.endswith("input/mask"):
            ids = trace.arrays[0, text.replace("/mask", "/0")]
            labels = np.where(values == 0, -100, ids) if masked else ids
            tensors[text.replace("/mask", "/labels")] = labels
    return memory_trace(tensors)


@pytest.mark.parametrize(
    ("order", "options", "said"),
    [
        ([[2, 1], [3, 0]], {}, None),  # all is padded alike: the labels alone differ
        (
            [[1, 2], [3, 0]],
            {},
            "2 micro-batches of 2 samples in either run, in another order",
        ),
        (
            [[2, 1], [3, 0]],
            {"left": True},
            "2 micro-batches of 2 samples in either run, padded to 5 to 6 positions in "
            "either run, but not each sample alike",
        ),
    ],
)
def test_runs_that_pad_alike_are_not_said_to_pad_differently(order, options, said):
    reference = with_labels(run([[2, 1], [3, 0]]), masked=True)
    candidate = with_labels(run(order, **options), masked=False)
    found = match_samples(reference, candidate)
    assert [samples.sizes_sentence for samples in found] == ([said] if said else [])
    report = compare_traces(reference, candidate, load_backend("numpy"))
    # What a mask leaves is all that is compared of samples that are padded otherwise.
    assert report.verdict is (Outcome.PASS if options else Outcome.ERROR)
    assert ("pad the samples" in report.summary) == bool(options)


@pytest.mark.parametrize(
    ("options", "of_both"),
    [
        ({"mask": "", "has_segments": False}, True),
        ({"holes": True, "has_segments": False}, True),
        ({"seed": 1}, False),
    ],
)
def test_without_a_mask_that_proves_itself_nothing_is_matched(options, of_both):
    (samples,) = match_samples(
        run([[0, 1, 2, 3]], **(options if of_both else {})),
        run([[2, 0], [3, 1]], **options),
    )
    assert samples.places is None
    assert samples.obstacle.endswith(
        "none of them is a mask of zeros and ones without whose zeros the samples are "
        "the same"
    )


def test_other_zeros_and_ones_that_leave_less_serve_where_there_is_no_mask():
    runs = run([[0, 1, 2, 3]], mask=""), run([[2, 0], [3, 1]], mask="")
    (samples,) = match_samples(*runs)
    assert samples.mask == "segments"
    first = samples.spans[Side.REFERENCE][Place(microbatch=0, row=0)]
    assert first == Span(start=1, length=2)


def test_as_many_samples_as_a_parameter_is_long():
    """A classifier of four classes, with four samples; fc cannot tell them apart."""

    def model(length: int) -> MemoryTrace:
        rng = np.random.default_rng(0)
        ids = np.zeros((4, length), np.float32)
        kept = np.zeros((4, length), np.float32)
        for row, own in enumerate(LENGTHS):
            ids[row, :own], kept[row, :own] = rng.standard_normal(own), 1
        states = np.stack([ids, 2 * ids], axis=-1)
        logits = np.outer(ids.sum(1), np.ones(4, np.float32))
        return memory_trace(
            {
                "step0/fc/param/bias": np.ones(4, np.float32),
                "step0/mb0/@root/input/0": ids,
                "step0/mb0/@root/input/mask": kept,
                "step0/mb0/enc/output/0": states,
                "step0/mb0/fc/output/0": logits,
            }
        )

    report = compare_traces(model(6), model(9), load_backend("numpy"))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total == 5
