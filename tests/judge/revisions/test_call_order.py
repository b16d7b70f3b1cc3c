"""As many calls of a module in another order: matched by what they are given."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tests.factories.traces import MemoryTrace, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

X, Y, Z, W = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
PLACE = "step0/mb0"


def run(
    *given: np.ndarray,
    scales: Mapping[int, float] | None = None,
    module: str = "enc",
    step: int = 0,
    frozen: Sequence[int] = (),
    recomputed: bool = False,
    num_inner: int = 1,
):
    """A module with another one inside, both with gradients.

    Args:
        *given: What each call is given.
        scales: By number of a call what the module inside makes too much.
        module: Its path.
        step: When it is called.
        frozen: Calls that no gradient of their input is of.
        recomputed: The forward runs once more.
        num_inner: How often a call runs the module inside.
    """
    tensors: dict[str, np.ndarray] = {}
    place = f"step{step}/mb0/{module}"
    passes = ("", "/recompute") if recomputed else ("",)
    for again in passes:
        for call, rows in enumerate(given):
            number = f"/call{call}" if call else ""
            tensors[f"{place}/input/0{number}{again}"] = rows
            inner = rows
            for n in range(num_inner):
                inner_number = num_inner * call + n
                text = f"/call{inner_number}" if inner_number else ""
                tensors[f"{place}.layers.0/input/0{text}{again}"] = inner
                inner = inner * np.float32(2 * (scales or {}).get(call, 1))
                tensors[f"{place}.layers.0/output/0{text}{again}"] = inner
            tensors[f"{place}/output/0{number}{again}"] = inner + 1
    for call, rows in reversed(list(enumerate(given))):
        number = f"/call{call}" if call else ""
        tensors[f"{place}/grad_output/0{number}"] = rows * 3
        if call not in frozen:
            tensors[f"{place}/grad_input/0{number}"] = rows * 6
    tensors[f"{place}/param_grad/weight"] = np.ones(4, np.float32)
    return tensors


def compare(reference, candidate) -> Report:
    return compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )


def failed(report: Report) -> list[str]:
    return [tensor.id for tensor in report.failed()]


@pytest.mark.parametrize("num_inner", [1, 2])
def test_calls_in_another_order_compute_the_same(num_inner):
    report = compare(
        run(X, Y, num_inner=num_inner), run(Y, X, num_inner=num_inner, recomputed=True)
    )
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total
    assert report.summary.endswith(
        "Calls 0, 1 of enc are calls 1, 0 of the candidate: they were matched by what "
        "they are given."
    )


def test_calls_that_stay_are_not_named():
    report = compare(run(X, Y, Z, W), run(X, W, Z, Y))
    assert report.verdict is Outcome.PASS, report.summary
    assert "Calls 1, 3 of enc are calls 3, 1 of the candidate" in report.summary


def test_many_calls_are_not_all_named():
    rows = np.random.default_rng(1).normal(size=(40, 2, 3)).astype(np.float32)
    report = compare(run(*rows), run(*rows[::-1]))
    assert report.verdict is Outcome.PASS, report.summary
    assert (
        "Calls 0, 1, 2, 3 of enc are calls 39, 38, 37, 36 of the candidate (and 36 more"
        " in another order)" in report.summary
    )


def test_rounding_and_integers_do_not_hide_which_call_is_which():
    noisy = [rows * np.float32(1 + 1e-7) for rows in (Y, X)]
    assert compare(run(X, Y), run(*noisy)).verdict is Outcome.PASS
    tokens = np.arange(12, dtype=np.int64).reshape(2, 6)
    other = tokens.copy()
    other[1, 3] += 1  # alike in all but one token
    pair = (
        {f"{PLACE}/enc/input/0": tokens, f"{PLACE}/enc/input/0/call1": other},
        {f"{PLACE}/enc/input/0": other, f"{PLACE}/enc/input/0/call1": tokens},
    )
    outputs = [
        {f"{PLACE}/enc/output/0": X, f"{PLACE}/enc/output/0/call1": Y},
        {f"{PLACE}/enc/output/0": Y, f"{PLACE}/enc/output/0/call1": X},
    ]
    report = compare(pair[0] | outputs[0], pair[1] | outputs[1])
    assert report.verdict is Outcome.PASS, report.summary


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ((X, X), "/call1"),
        ((Y, Y), ""),
        ((X, Z), "/call1"),
        ((Z, X), ""),  # nothing tells that Z stands for Y
        ((X, Y[::-1]), "/call1"),
        ((Y, X * 1.5), ""),
    ],
)
def test_a_wrong_input_is_found_where_it_is_given(given, first):
    report = compare(run(X, Y), run(*given))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"{PLACE}/enc/input/0{first}"
    assert "matched" not in report.summary


def test_a_wrong_input_beside_calls_in_another_order():
    report = compare(run(X, Y, Z), run(Y, X, W))
    assert "Calls 0, 1 of enc are calls 1, 0" in report.summary
    assert failed(report)[0] == f"{PLACE}/enc/input/0/call2"
    assert all("call2" in name for name in failed(report))


def test_a_bug_inside_a_call_is_found_in_that_call():
    """It is made in the candidate's call 1, which is the reference's call 0."""
    report = compare(run(X, Y), run(Y, X, scales={1: 1.5}))
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"{PLACE}/enc.layers.0/output/0"
    assert failed(report) == [
        f"{PLACE}/enc.layers.0/output/0",
        f"{PLACE}/enc/output/0",
    ]


def test_a_gradient_that_a_call_lacks_is_told_by_the_references_number():
    report = compare(run(X, Y), run(Y, X, frozen=[0]))
    assert report.verdict is Outcome.DIVERGED
    (said,) = [d for d in report.diagnosis if d.code == "no_gradient"]
    assert f"first {PLACE}/enc/grad_input/0/call1" in said.sentence


def test_a_module_that_is_given_something_else_is_matched_like_others():
    """Its inputs are scaled by a bug before it; the module before says their order."""
    before, behind = run(X, Y), run(X * 2, Y * 2, module="head")
    other = run(Y, X) | run(Y * 3, X * 3, module="head")
    report = compare(before | behind, other)
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"{PLACE}/head/input/0"
    assert (
        "Calls 0, 1 of head are taken for calls 1, 0 of the candidate (first in step 0,"
        " micro-batch 0): what they are given does not tell which is which, and they "
        "were matched like those of enc." in report.summary
    )
    assert all("head" in name for name in failed(report))


def test_a_step_of_other_rows_leaves_the_other_steps_alone():
    reference = run(X, Y) | run(Z, W, step=1) | run(X, Z, step=2)
    candidate = run(Y, X) | run(W * 0.9, Z, step=1) | run(Z, X, step=2)
    report = compare(reference, candidate)
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step1/mb0/enc/input/0/call1"
    assert all(
        name.startswith("step1/") and name.endswith("call1") for name in failed(report)
    )


def test_gradients_of_calls_that_are_given_the_same_are_not_told_apart():
    """Two calls of one input, whose gradients differ by what becomes of them."""
    reference, candidate = run(X, X, Y), run(Y, X, X)
    for tensors, call in ((reference, "/call1"), (candidate, "/call1")):
        for kind in ("grad_output", "grad_input"):
            tensors[f"{PLACE}/enc/{kind}/0{call}"] *= 5
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.skipped == 2 or report.counts.skipped == 4
    assert all(
        "nothing tells which of them this one is" in reason
        for reason in report.counts.skipped_reasons
    )


def test_other_numbers_of_calls_by_step_and_microbatch():
    reference = run(X, Y) | run(X, Y, Z, step=1) | run(X, step=2)
    candidate = run(Y, X) | run(Z, X, Y, step=1) | run(X, step=2)
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.summary.endswith(
        "Calls 0, 1 of enc are calls 1, 0 of the candidate in step 0, micro-batch 0, "
        "and others elsewhere: they were matched by what they are given."
    )


class CountingTrace(MemoryTrace):
    """Counts how often each shard is read."""

    def __init__(self, trace: MemoryTrace):
        self.__dict__.update(trace.__dict__)
        self.loads: Counter[str] = Counter()

    def load(self, shard):
        self.loads[str(shard.id)] += 1
        return super().load(shard)


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_what_agrees_in_plain_order_is_read_once(noise):
    rows = [rows * np.float32(1 + noise) for rows in (X, Y)]
    pair = (run(X, Y), run(*rows))
    traces = [CountingTrace(memory_trace(tensors)) for tensors in pair]
    report = compare_traces(traces[0], traces[1], load_backend("numpy"))
    assert report.verdict is Outcome.PASS
    for trace in traces:
        assert set(trace.loads) and set(trace.loads.values()) == {1}, trace.loads
