"""Plain tensors that leave tensor-parallel modules, and are no longer whole."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.compare.layouts.test_deduced_layouts import TOKENS, heads, status
from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.layouts.deduced_layouts import deduce_layouts
from ttrace.ir.layout import Block, Region, ShardLayout, whole
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report

UNKNOWN = (
    "nothing says what it is; write trace(..., dims={'a/output/1': 'b s h[tp] d'})"
)
GIVEN = "step0/mb0/@root/input/0"
WEIGHTS = "step0/mb0/layers.0.attention/output/1"
HIDDEN = "step0/mb0/layers.0.attention/output/0"
GRADIENT = "step0/mb0/layers.0.attention/grad_output/1"


def weights(seed: int = 0, *, batch: int = 2) -> np.ndarray:
    """``[b, heads, s, s]``."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 4, 3, 3)).astype(np.float32)


def assumed(*values: np.ndarray) -> Tensor:
    """What each rank has, taken for the whole of a tensor."""
    full = np.stack(values)

    def layout(mesh) -> ShardLayout:
        # The factory cuts the values out of the stack; the shape is that of one.
        return replace(
            whole(full.shape[1:], mesh.name),
            assumed_axes=("tp",),
            unknown_reason=UNKNOWN,
        )

    return OfRanks(full=full, dims=layout)


class OfRanks(Tensor):
    """Values of each rank, along the first dim."""

    def local(self, mesh):
        return self.full[mesh.coords["tp"]]


def halves(full: np.ndarray, dim: int = 1) -> Tensor:
    return assumed(*np.split(full, 2, axis=dim))


def compared(
    reference: Mapping[str, np.ndarray], candidate: Mapping[str, Tensor | np.ndarray]
) -> Report:
    hidden = heads()[:, :, 0]
    given = {GIVEN: TOKENS, HIDDEN: hidden}
    candidate_given = {GIVEN: TOKENS, HIDDEN: assumed(hidden, hidden)}
    return compare_traces(
        memory_trace(given | dict(reference)),
        memory_trace(candidate_given | dict(candidate), {"tp": 2}, framework="torch"),
        NumpyBackend(),
    )


def test_heads_of_a_rank_are_parts_and_no_other_shape():
    tensors = {WEIGHTS: weights(), GRADIENT: weights(1)}
    report = compared(tensors, {name: halves(full) for name, full in tensors.items()})
    assert report.verdict == "pass" and not report.counts.skipped
    (tensor,) = (t for t in report.tensors if t.id == WEIGHTS)
    assert tensor.shape == (2, 4, 3, 3)


def test_wrong_weights_fail_where_the_gradient_proves_how_they_lie():
    full, gradient = weights(), weights(1)
    report = compared(
        {WEIGHTS: full, GRADIENT: gradient},
        {WEIGHTS: halves(full * np.float32(1.1)), GRADIENT: halves(gradient)},
    )
    assert status(report, WEIGHTS) == "failed"
    assert status(report, GRADIENT) == "passed"


def test_values_that_do_not_agree_are_a_doubt_with_the_text_to_write():
    full = weights()
    report = compared({WEIGHTS: full}, {WEIGHTS: halves(full * 2)})
    assert report.verdict == "pass" and status(report, WEIGHTS) == "skipped"
    (reason,) = report.counts.skipped_reasons
    assert "its shapes suggest that dim 1 is sharded over tp" in reason
    assert reason.endswith("dims={'a/output/1': 'd0 d1[tp] d2 d3'})")


@pytest.mark.parametrize(
    "part",
    [
        lambda full: full[:, :1],  # a quarter, of two ranks
        lambda full: full[:1, :2],  # half of two dims
    ],
)
def test_what_ranks_may_explain_is_skipped(part):
    full = weights()
    local = part(full)
    report = compared({WEIGHTS: full}, {WEIGHTS: assumed(local, local)})
    assert report.counts.skipped_reasons == {f"candidate: {UNKNOWN}": 1}


def test_what_ranks_do_not_explain_fails():
    full = weights()
    local = full[:, :3]
    report = compared({WEIGHTS: full}, {WEIGHTS: assumed(local, local)})
    assert status(report, WEIGHTS) == "failed"


def test_what_is_whole_stays_so():
    """Replicas that differ are a fault: nothing refutes that the tensor is whole."""
    full = weights()
    report = compared({WEIGHTS: full}, {WEIGHTS: assumed(full, full + 1)})
    assert status(report, WEIGHTS) == "failed"
    (failed,) = report.failed()
    assert "replicas differ in the candidate" in failed.reason


def test_samples_that_the_runs_divide_otherwise_refute_nothing():
    full = weights(batch=6)
    tokens = np.arange(18).reshape(6, 3)
    reference = memory_trace({GIVEN: tokens, WEIGHTS: full})
    tensors: dict[str, Tensor | np.ndarray] = {}
    for number, half in enumerate(np.split(full, 2)):
        of_mb = f"mb{number}"
        tensors[GIVEN.replace("mb0", of_mb)] = np.split(tokens, 2)[number]
        tensors[WEIGHTS.replace("mb0", of_mb)] = assumed(half, half)
    candidate = memory_trace(tensors, {"tp": 2}, framework="torch")
    assert not deduce_layouts(reference, candidate).layouts
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict == "pass" and not report.counts.skipped
    for number, half in enumerate(np.split(full, 2)):
        tensors[WEIGHTS.replace("mb0", f"mb{number}")] = halves(half)
    candidate = memory_trace(tensors, {"tp": 2}, framework="torch")
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict == "pass" and not report.counts.skipped
    assert len(deduce_layouts(reference, candidate).layouts) == 2


def test_two_runs_on_ranks_that_have_their_own_in_both():
    parts = np.split(weights(), 2, axis=1)
    traces = [
        memory_trace(
            {GIVEN: TOKENS, WEIGHTS: assumed(*each)}, {"tp": 2}, framework="torch"
        )
        for each in (parts, [parts[0], parts[1]], [parts[0] * 2, parts[1]])
    ]
    report = compare_traces(traces[0], traces[1], NumpyBackend())
    assert report.verdict == "pass" and status(report, WEIGHTS) == "skipped"
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        "candidate: over tp each rank has a value of its own, as in the reference; "
        f"{UNKNOWN}"
    )
    report = compare_traces(traces[0], traces[2], NumpyBackend())
    assert status(report, WEIGHTS) == "failed"


def test_two_runs_on_ranks_of_which_none_has_the_whole_are_not_compared():
    full = weights()
    two = memory_trace(
        {GIVEN: TOKENS, WEIGHTS: halves(full)}, {"tp": 2}, framework="torch"
    )
    quarters = assumed(*np.split(full, 4, axis=1))
    four = memory_trace(
        {GIVEN: TOKENS, WEIGHTS: quarters}, {"tp": 4}, framework="torch"
    )
    for runs in ((two, four), (four, two)):
        report = compare_traces(*runs, NumpyBackend())
        assert report.counts.skipped == 1 and not report.counts.failed


def test_the_assumption_is_kept_on_disk():
    layout = ShardLayout(
        global_shape=(2,),
        local_shape=(2,),
        blocks=(Block(region=Region(start=(0,), extent=(2,)), local_start=(0,)),),
        mesh="dense",
        unknown_reason=UNKNOWN,
        assumed_axes=("tp",),
    )
    assert ShardLayout.from_json(layout.to_json()) == layout
