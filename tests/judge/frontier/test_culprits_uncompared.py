"""What is said of places before which something was not compared."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.factories.planted_errors import ONES
from tests.factories.traces import MemoryTrace, Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import SkippedRecord
from ttrace.pipeline import compare_traces


def test_an_input_that_was_not_compared_is_not_said_to_agree():
    """Beside it, another mask with as many elements set was."""

    def run(mask: np.ndarray) -> MemoryTrace:
        return memory_trace(
            {
                "step0/mb0/@root/input/0": np.linspace(1, 2, 8),
                "step0/mb0/encoder/input/mask": np.arange(8) < 4,
                "step0/mb0/decoder/input/mask": mask,
            },
            skipped={"step0/mb0/@root/input/4": "no layout rule"},
        )

    right, wrong = np.arange(8) >= 4, np.arange(8) % 2 == 0
    report = compare_traces(run(right), run(wrong), load_backend("numpy"))
    (culprit,) = report.culprits
    assert "what was compared of all before it in the module around agrees" in (
        culprit.sentence
    )


@pytest.mark.parametrize(
    ("skipped", "named"),
    [
        ({}, ""),
        (
            {"pooler": "no layout rule for output 0 of Pooler; add one"},
            "nothing that pooler returns was compared (reference: no layout rule for "
            "output 0 of Pooler), and it may come from there",
        ),
        # What runs within a module that agrees has no error that shows behind it.
        ({"encoder.inner": "no layout rule"}, ""),
        (
            {"pooler": "no layout rule", "pooler.dense": "no rule", "head": "no rule"},
            "nothing that pooler and head return was compared (reference: no layout "
            "rule), and it may come from there",
        ),
        ({"pooler": "ignored by the map: holds what encoder/output/0 holds"}, ""),
    ],
)
def test_modules_that_were_not_compared_before_a_wrong_loss_are_named(skipped, named):
    def run(loss: float) -> MemoryTrace:
        trace = memory_trace(
            {
                "step0/mb0/encoder/output/0": np.linspace(1, 2, 8),
                "step0/mb0/output_layer/output/0": np.linspace(1, 3, 8),
                **{f"step0/mb0/{m}/output/0": ONES for m in skipped},
                "step0/mb0/@root/loss": np.array(loss, np.float32),
            }
        )
        return without(trace, skipped)

    report = compare_traces(run(1.0), run(1.5), load_backend("numpy"))
    (culprit,) = report.culprits
    assert (
        (named in culprit.sentence)
        if named
        else ("nothing that" not in culprit.sentence)
    )
    found = {d.code: d.sentence for d in report.diagnosis}
    if named:
        names = named.removeprefix("nothing that ").partition(" return")[0]
        assert f"so that the error may be in {names}: look there" in found["loss_alone"]
    else:
        assert "look at the loss function: at the labels" in found["loss_alone"]


def without(trace: MemoryTrace, reasons: Mapping[str, str]) -> MemoryTrace:
    """A trace that skipped the outputs of these modules, where they were computed."""
    skipped = {}
    tensors = dict(trace.info.tensors)
    for module, reason in reasons.items():
        id_ = parse_tensor_id(f"step0/mb0/{module}/output/0")
        (shard,) = tensors.pop(id_).shards
        skipped[id_] = SkippedRecord(
            id=id_, reason=reason, rank=shard.rank, sequence=shard.sequence
        )
    info = replace(trace.info, tensors=tensors, skipped=skipped)
    return MemoryTrace(info, trace.arrays)


@pytest.mark.parametrize("holders", [(0,), (0, 1)])
def test_parameters_agree_only_where_every_rank_was_seen_to_have_them(holders):
    """Of a rank that is handed an update, as by a broadcast, nothing is known."""
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    def run(wrong: float) -> dict[str, Tensor | np.ndarray]:
        tensors: dict[str, Tensor | np.ndarray] = {"step0/a/param/weight": values}
        for step in range(2):
            tensors |= {
                f"step{step}/mb0/a/input/0": values,
                f"step{step}/mb0/a/output/0": 2 * values + wrong * step,
                f"step{step}/a/main_grad/weight": 3 * values,
            }
            tensors["step0/a/updated_param/weight"] = Tensor(
                full=values - 1, holders=holders
            )
        return tensors

    report = compare_traces(
        memory_trace(run(0), {"dp": 2}),
        memory_trace(run(1), {"dp": 2}),
        load_backend("numpy"),
    )
    (culprit,) = report.culprits
    assert culprit.id == "step1/mb0/a/output/0"
    words = "; inputs, parameters and inner modules agree; explains"
    if len(holders) == 1:
        words = (
            "; what was compared of inputs, parameters and inner modules agrees; "
            "explains"
        )
    assert words in culprit.sentence
    said = {found.code: found.sentence for found in report.diagnosis}
    assert ("unseen_copies" in said) == (len(holders) == 1)
    if len(holders) == 1:
        assert said["unseen_copies"] == (
            "output 0 of a is wrong in step 1, and the update of its weight in step 0, "
            "which agrees, was recorded on rank 0 alone: rank 1 computes with a copy "
            "that was not compared. Look at what hands parameters from rank to rank "
            "after the optimizer steps, such as a broadcast from the rank that "
            "updates them"
        )
