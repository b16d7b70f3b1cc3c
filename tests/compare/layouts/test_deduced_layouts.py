"""Layouts that a run does not know, told by the shapes of the other one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.layouts.deduced_layouts import deduce_layouts
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
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, Tensor | np.ndarray],
    framework: str = "torch",
) -> Report:
    given = {"step0/mb0/@root/input/0": TOKENS}
    return compare_traces(
        memory_trace(given | dict(reference)),
        memory_trace(given | dict(candidate), {"tp": 2}, framework=framework),
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


def test_equal_shapes_of_processes_tell_nothing():
    """Each rank may have all of it, a partial, or what is of samples of its own."""
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


def test_equal_values_of_equal_shapes_are_replicas():
    full = heads()
    report = compared(
        {CORE: full, INPUT: full}, {CORE: of_ranks(full, full), INPUT: full}, "jax"
    )
    assert report.verdict == "pass" and not report.counts.skipped
    wrong = of_ranks(full + 1, full + 1)
    report = compared({CORE: full, INPUT: full}, {CORE: wrong, INPUT: full}, "jax")
    assert report.verdict == "diverged" and report.counts.failed == 1


def on_mesh(values: np.ndarray, sizes: dict[str, int]) -> Tensor:
    """What each device of a mesh has of a tensor: ``[*sizes, *local]``."""

    def layout(mesh):
        names = iter("defghijk")
        dims = [f"{next(names)}[{axis}]" for axis in sizes]
        dims += [next(names) for _ in range(values.ndim - len(sizes))]
        lowered = parse_dims(" ".join(dims)).lower(values.shape, mesh)
        return replace(
            lowered, device_axes=tuple(sizes), unknown_reason=UNKNOWN, dims=""
        )

    return Tensor(full=values, dims=layout)


def on_grid(full: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """``[rows, columns, ...]``: the parts of dims 0 and 2."""
    parts = [np.split(row, columns, axis=2) for row in np.split(full, rows, axis=0)]
    return np.stack([np.stack(row) for row in parts])


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("sizes", [{"dp": 2, "tp": 2}, {"dp": 4, "tp": 2}])
def test_dims_of_two_axes(sizes, is_transposed):
    """Of axes of one size, the one that shards the samples is known by the input."""
    full = heads(batch=4)
    tokens = np.arange(12).reshape(4, 3)
    given = {"step0/mb0/@root/input/0": tokens}
    grid = on_grid(full, sizes["dp"], sizes["tp"])
    if is_transposed:
        grid = np.stack([grid[:, 0], np.roll(grid[:, 1], 1, axis=0)], axis=1)
    candidate = memory_trace(
        {
            "step0/mb0/@root/input/0": Tensor(full=tokens, dims="b[dp] s"),
            CORE: on_mesh(grid, sizes),
        },
        sizes,
        framework="jax",
    )
    report = compare_traces(
        memory_trace(given | {CORE: full}), candidate, NumpyBackend()
    )
    if is_transposed:  # other values in the same places: it may be another order
        assert report.counts.skipped == 1
        (reason,) = report.counts.skipped_reasons
        assert "dim 0 is sharded over dp and dim 2 is sharded over tp" in reason
    else:
        assert report.verdict == "pass" and not report.counts.skipped


def test_two_axes_over_one_dim_or_one_of_them_over_none():
    full = heads(batch=4)
    sizes = {"dp": 2, "tp": 2}
    given = {"step0/mb0/@root/input/0": np.arange(12).reshape(4, 3)}
    quarters = np.stack(np.split(full, 4, axis=0)).reshape(2, 2, 1, 3, 4, 5)
    halves = np.stack([np.stack([half, half]) for half in np.split(full, 2, axis=2)])
    # Which of two equal axes has the halves, the values tell: along the other they are
    # equal. Where they are not, nothing does.
    unlike = halves + np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1, 1, 1)
    for values, verdict in (
        (quarters, "passed"),
        (halves, "passed"),
        (unlike, "skipped"),
    ):
        report = compare_traces(
            memory_trace(given | {CORE: full}),
            memory_trace(
                given | {CORE: on_mesh(values, sizes)}, sizes, framework="jax"
            ),
            NumpyBackend(),
        )
        assert status(report, CORE) == verdict
    sizes = {"dp": 2, "tp": 4}
    pairs = np.stack([np.stack([half] * 4) for half in np.split(full, 2, axis=0)])
    report = compare_traces(
        memory_trace(given | {CORE: full}),
        memory_trace(given | {CORE: on_mesh(pairs, sizes)}, sizes, framework="jax"),
        NumpyBackend(),
    )
    assert status(report, CORE) == "passed"


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
    assert (layout.side, layout.dims) == ("candidate", {"tp": 2})
    record = known.candidate.info.tensors[parse_tensor_id(CORE)]
    assert record.global_shape == full.shape
    for shard, part in zip(record.shards, np.split(full, 2, axis=2), strict=True):
        assert np.array_equal(known.candidate.load(shard), part)


def test_what_the_model_is_given_rank_by_rank_tells_the_samples():
    """Each rank has samples of its own, as many as both runs have in all."""
    tokens, output = np.arange(8).reshape(4, 2), heads(batch=4)
    given = {"step0/mb0/@root/input/0": tokens, CORE: output}
    ranks = {name: divided(full, 0) for name, full in given.items()}
    report = compared(given, ranks, "jax")
    assert report.verdict == "pass" and not report.counts.skipped
    other = ranks | {"step0/mb0/@root/input/0": divided(tokens + 1, 0)}
    report = compared(given, other, "jax")
    assert report.verdict == "error" and "input" in report.summary


def test_what_was_told_by_values_tells_of_what_values_do_not():
    """A missing reduction leaves no equal values; samples lie as they did before."""
    first, second = heads(batch=8), heads(1, batch=8)
    sizes = {"dp": 2, "tp": 2}
    later = CORE.replace("layers.0", "layers.1")
    given = {"step0/mb0/@root/input/0": np.arange(24).reshape(8, 3)}

    def on_both(full: np.ndarray, by_device: float = 0) -> Tensor:
        halves = np.stack([np.stack([half] * 2) for half in np.split(full, 2)])
        devices = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1, 1, 1)
        return on_mesh(halves + by_device * devices, sizes)

    report = compare_traces(
        memory_trace(given | {CORE: first, later: second}),
        memory_trace(
            given | {CORE: on_both(first), later: on_both(second, 1)},
            sizes,
            framework="jax",
        ),
        NumpyBackend(),
    )
    assert status(report, CORE) == "passed" and status(report, later) == "failed"
    (failed,) = report.failed()
    assert "replicas differ in the candidate" in failed.reason
