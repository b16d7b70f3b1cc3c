"""Parallelism by hand that nothing describes: said as such, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.written_dims import written_settings
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome
from ttrace.store.memory_trace import MemoryTrace

RNG = np.random.default_rng(0)
UP, DOWN, INPUTS = (
    RNG.normal(size=shape).astype(np.float32) for shape in ((8, 4), (4, 8), (2, 4))
)
WRITTEN = written_settings(parameters={"*": "..."}, activations={})
UP_ID, DOWN_ID = (f"step0/blocks.1.{name}/param/weight" for name in ("up", "down"))


def reference() -> MemoryTrace:
    """One process."""
    return memory_trace(
        {
            UP_ID: UP,
            DOWN_ID: DOWN,
            "step0/mb0/@root/input/0": INPUTS,
            "step0/mb0/blocks.1/output/0": INPUTS,
            "step0/blocks.1.norm/main_grad/weight": INPUTS[0],
        },
        framework="torch",
    )


def candidate(
    *,
    up=UP,
    down=DOWN,
    other=INPUTS,
    framework="torch",
    settings=None,
) -> MemoryTrace:
    """Two ranks that take their parts for whole, and their inputs for their own."""
    parts = {UP_ID: np.split(up, 2, 0), DOWN_ID: np.split(down, 2, 1)}
    norm = "step0/blocks.1.norm/main_grad/weight"
    trace = memory_trace(
        {
            **{name: halves[0] for name, halves in parts.items()},
            "step0/mb0/@root/input/0": INPUTS,
            "step0/mb1/@root/input/0": INPUTS,
            "step0/mb0/blocks.1/output/0": INPUTS,
            norm: INPUTS[0],
        },
        {"dp": 2},
        framework=framework,
        settings=settings or {},
    )
    arrays = dict(trace.arrays)
    for rank in range(2):
        for name, halves in parts.items():
            arrays[rank, name] = halves[rank]
        arrays[rank, norm] = INPUTS[0] * (1 + rank)
        arrays[rank, "step0/mb1/@root/input/0"] = other
    return MemoryTrace(of_own_microbatches(trace), arrays)


def of_own_microbatches(trace: MemoryTrace):
    """Each rank has the inputs of its own micro-batch alone."""
    tensors = dict(trace.info.tensors)
    for id_, record in tensors.items():
        if id_.microbatch is not None:
            shards = tuple(s for s in record.shards if s.rank == id_.microbatch)
            tensors[id_] = replace(record, shards=shards)
    return replace(trace.info, tensors=tensors)


def compared(trace: MemoryTrace):
    return compare_traces(reference(), trace, load_backend("numpy"))


def test_what_to_describe_is_all_that_is_said():
    report = compared(candidate())
    assert report.verdict is Outcome.ERROR and report.error_kind == "setup"
    assert report.summary == (
        "Set-up differs: parameters of the candidate's ranks are shorter than the "
        "reference's, and nothing describes how they lie on its 2 ranks: "
        "blocks.1.up/weight has [4, 4] of [8, 4] (dim 0, 1/2), blocks.1.down/weight "
        "has [4, 4] of [4, 8] (dim 1, 1/2). Put together in rank order they are the "
        "reference's. All ranks are given the same samples. Describe them, as \"Your "
        'own parallel code" in docs/torch.md says: DimsDescription(model, '
        'Mesh(name="ranks", sizes={"tp": 2}, coords={"tp": rank}), '
        'parameters={"blocks.*.up/*/weight": "d0[tp] d1", "blocks.*.down/*/weight": '
        '"d0 d1[tp]", "*": "..."}, activations={"<path of a module>/output/*": "b s '
        'f[tp]", "*": "..."}); nothing else of this comparison can be told before. If '
        "the ranks are to have no parts of them, build both models of the same size."
    )
    assert report.diagnosis == ()
    assert not any("micro-batch" in remark for remark in report.remarks)


def test_what_was_not_found_is_not_said():
    report = compared(candidate(up=UP + 1, other=INPUTS + 1))
    assert "nothing describes how they lie" in report.summary
    assert "in rank order" not in report.summary
    assert "the same samples" not in report.summary


@pytest.mark.parametrize(
    "trace",
    [
        candidate(up=UP[:6]),  # 3 of 8
        candidate(framework="megatron"),
        candidate(settings=WRITTEN),
    ],
)
def test_other_shapes_are_other_matters(trace):
    report = compared(trace)
    assert "Build both models of the same size" in report.summary
    assert "nothing describes" not in report.summary


def test_a_description_that_contradicts_is_named_with_its_pattern_and_text():
    trace = candidate(settings=WRITTEN)
    report = compared(trace)
    (diagnosis,) = [d for d in report.diagnosis if d.code == "described_shape"]
    assert diagnosis.sentence == (
        f"of {UP_ID} (and 1 more of that pattern) the candidate's description says "
        "'...' (parameters, pattern '*'), and logical shapes differ: [8, 4] in the "
        "reference, [4, 4] in the candidate: where its ranks have parts of it, say so "
        "of it in a pattern before that one; else correct what the candidate computes"
    )
    assert "written_dims.parameters" not in report.setup.differences


def cut_otherwise(fused: np.ndarray, *lengths: int, known: bool = False):
    """Two ranks with their shares of each of several parts of dim 0."""
    parts = np.split(fused, np.cumsum(lengths)[:-1])
    shares = [np.concatenate([np.split(p, 2)[rank] for p in parts]) for rank in (0, 1)]
    name, output = "step0/l.0.qkv/param/weight", "step0/mb0/l.0.qkv/output/0"
    tensors: dict[str, Tensor | np.ndarray] = {
        name: shares[0],
        output: np.zeros((3, 2, shares[0].shape[0]), np.float32),
    }
    if known:
        tensors["step0/up/param/weight"] = Tensor(full=UP, dims="d0[model] d1")
    trace = memory_trace(tensors, {"model": 2}, framework="torch")
    trace.arrays[1, name] = shares[1]
    return trace


@pytest.mark.parametrize(
    ("lengths", "known", "text"),
    [
        ((12,), False, "tp"),
        ((4, 4, 4), False, "tp:parts(3)"),
        ((8, 2, 2), False, "tp:parts(8,2,2)"),
        ((4, 4, 4), True, "model:parts(3)"),
    ],
)
def test_parts_of_parts_are_recognized_and_what_is_known_stays(lengths, known, text):
    fused = RNG.normal(size=(12, 4)).astype(np.float32)
    right: dict[str, Tensor | np.ndarray] = {
        "step0/l.0.qkv/param/weight": fused,
        "step0/mb0/l.0.qkv/output/0": np.zeros((3, 2, 12), np.float32),
        "step0/up/param/weight": UP,
    }
    report = compare_traces(
        memory_trace(right, framework="torch"),
        cut_otherwise(fused, *lengths, known=known),
        load_backend("numpy"),
    )
    assert f'"l.*.qkv/*/weight": "d0[{text}] d1"' in report.summary
    assert ("DimsDescription" in report.summary) is not known
    if known:
        assert (
            'torch_capture.trace(..., dims={"l.*.qkv/*/weight": "d0[model:parts(3)] '
            'd1", "l.*.qkv/output/0": "d0 d1 d2[model:parts(3)]"}); nothing'
        ) in report.summary
