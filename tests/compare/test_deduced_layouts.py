"""Layouts that a run does not know, told by the shapes of the other one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.deduced_layouts import deduce_layouts
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report
from ttrace.store.merging import RankRecords, merge_ranks

UNKNOWN = "nothing says what it is; write its dims"
TOKENS = np.arange(6).reshape(2, 3)
CORE = "step0/mb0/layers.0.core/output/0"
INPUT = "step0/mb0/layers.0.core/input/0"


def of_ranks(*values: np.ndarray) -> Tensor:
    """What each rank of tp has of a tensor, of which nothing else is known."""
    full = np.stack(values)

    def layout(mesh):
        dims = " ".join(["tp[tp]", *"wxyz"[: full.ndim - 1]])
        return replace(
            parse_dims(dims).lower(full.shape, mesh),
            device_axes=("tp",),
            unknown_reason=UNKNOWN,
            dims=" ".join("wxyz"[: full.ndim - 1]),
        )

    return Tensor(full=full, dims=layout)


def divided(full: np.ndarray, dim: int, num_ranks: int = 2) -> Tensor:
    return of_ranks(*np.split(full, num_ranks, axis=dim))


def heads(seed: int = 0, *, batch: int = 2) -> np.ndarray:
    """``[b, s, heads, d]``."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 3, 4, 5)).astype(np.float32)


def compared(
    reference: Mapping[str, np.ndarray], candidate: Mapping[str, Tensor | np.ndarray]
) -> Report:
    given = {"step0/mb0/@root/input/0": TOKENS}
    return compare_traces(
        memory_trace(given | dict(reference)),
        memory_trace(given | dict(candidate), {"tp": 2}),
        NumpyBackend(),
    )


def status(report: Report, tensor_id: str) -> str:
    (found,) = (t.status for t in report.tensors if t.id == tensor_id)
    return str(found)


@pytest.mark.parametrize("dim", range(4))
def test_one_dim_that_is_longer_by_the_number_of_ranks_is_divided(dim):
    full = heads()[:, :2]  # lengths 2, 2, 4, 5
    full = full if dim < 3 else full[..., :4]
    report = compared({CORE: full}, {CORE: divided(full, dim)})
    assert report.verdict == "pass" and not report.counts.skipped
    (tensor,) = (t for t in report.tensors if t.id == CORE)
    assert tensor.shape == full.shape and tensor.rel_err == 0


def test_the_reference_may_be_the_run_that_does_not_know():
    full = heads()
    given = {"step0/mb0/@root/input/0": TOKENS}
    report = compare_traces(
        memory_trace(given | {CORE: divided(full, 2)}, {"tp": 2}),
        memory_trace(given | {CORE: full}),
        NumpyBackend(),
    )
    assert report.verdict == "pass" and not report.counts.skipped


def test_two_runs_of_the_same_ranks_are_compared_rank_by_rank():
    parts = np.split(heads(), 2, axis=2)
    sides = [
        memory_trace({CORE: of_ranks(*parts)}, {"tp": 2}),
        memory_trace({CORE: of_ranks(parts[0], parts[1] + 1)}, {"tp": 2}),
    ]
    report = compare_traces(sides[0], sides[1], NumpyBackend())
    assert report.counts.failed == 1 and not report.counts.skipped


def test_two_runs_of_other_ranks_are_not_compared():
    full = heads()
    report = compare_traces(
        memory_trace({CORE: divided(full, 2), INPUT: full}, {"tp": 2}),
        memory_trace({CORE: divided(full, 2, 4), INPUT: full}, {"tp": 4}),
        NumpyBackend(),
    )
    assert report.counts.skipped == 1 and report.counts.passed == 1


def test_equal_shapes_tell_nothing():
    """Each rank may have all of it, or a partial, and the latter is no failure."""
    full = heads()
    report = compared(
        {CORE: full, INPUT: full}, {CORE: of_ranks(full, full), INPUT: full}
    )
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        f"candidate: {UNKNOWN}; its shape on every rank is that of the other run, so "
        "that it may be all of it, or a partial: 'w x y z' says the first, "
        "'w x y z partial[tp]' the second; or each rank has samples of its own"
    )
    assert report.verdict == "pass"


@pytest.mark.parametrize(
    "part",
    [
        lambda full: full[:, :, :1],  # a quarter, of two ranks
        lambda full: full[:1, :, :2],  # half of two dims
        lambda full: full[0],  # other dims
        lambda full: np.concatenate([full] * 2, axis=2),  # longer than the whole
    ],
)
def test_no_other_shape_is_a_part(part):
    full = heads()
    local = part(full)
    report = compared(
        {CORE: full, INPUT: full}, {CORE: of_ranks(local, local), INPUT: full}
    )
    assert report.counts.skipped_reasons == {f"candidate: {UNKNOWN}": 1}


def test_micro_batches_of_another_size_are_told_from_ranks_parts():
    """Half of the samples, with all of the heads, are no part of two ranks."""
    full = heads(batch=6)
    reference = memory_trace(
        {"step0/mb0/@root/input/0": np.arange(18).reshape(6, 3), CORE: full}
    )
    tokens = np.split(np.arange(18).reshape(6, 3), 2)
    tensors: dict[str, Tensor | np.ndarray] = {}
    for number, half in enumerate(np.split(full, 2)):
        tensors[f"step0/mb{number}/@root/input/0"] = tokens[number]
        tensors[CORE.replace("mb0", f"mb{number}")] = divided(half, 2)
    report = compare_traces(reference, memory_trace(tensors, {"tp": 2}), NumpyBackend())
    assert report.verdict == "pass" and not report.counts.skipped
    for number, half in enumerate(np.split(full, 2)):
        tensors[CORE.replace("mb0", f"mb{number}")] = of_ranks(half, half)
    candidate = memory_trace(tensors, {"tp": 2})
    assert not deduce_layouts(reference, candidate).layouts
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.counts.skipped == 1 and not report.counts.failed


def test_ranks_of_other_shapes_are_skipped_and_no_error():
    full = heads()
    parts = [of_ranks(*[part] * 2) for part in np.split(full, [3], axis=2)]
    traces = [memory_trace({CORE: part, INPUT: full}, {"tp": 2}) for part in parts]
    ranks = [
        RankRecords(
            info=trace.info.ranks[rank],
            shards=tuple(record.shards[rank] for record in trace.info.tensors.values()),
        )
        for rank, trace in enumerate(traces)
    ]
    info = merge_ranks(ranks)
    assert list(info.tensors) == [parse_tensor_id(INPUT)]
    (skipped,) = info.skipped.values()
    assert skipped.reason == f"{UNKNOWN}; its shape is not the same on all ranks"


def test_layouts_are_what_is_deduced():
    full = heads()
    known = deduce_layouts(
        memory_trace({"step0/mb0/@root/input/0": TOKENS, CORE: full}),
        memory_trace(
            {"step0/mb0/@root/input/0": TOKENS, CORE: divided(full, 2)}, {"tp": 2}
        ),
    )
    (layout,) = known.layouts.values()
    assert (layout.side, layout.dim, layout.axis) == ("candidate", 2, "tp")
    record = known.candidate.info.tensors[parse_tensor_id(CORE)]
    assert record.global_shape == full.shape
    for shard, part in zip(record.shards, np.split(full, 2, axis=2), strict=True):
        assert np.array_equal(known.candidate.load(shard), part)
