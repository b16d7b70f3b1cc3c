"""Collectives of Megatron itself: where they are asked for, and that they are right."""

import pytest

from ttrace.compare.collectives.collective_results import check_collectives
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.judge.collectives import collective_faults
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace

OPTIONS = (
    "--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 8 "
    "--vocab-size 32 --global-batch-size 2 --micro-batch-size 1 --train-iters 1 "
    "--tensor-model-parallel-size 2 --sequence-parallel"
).split()


@pytest.fixture(scope="module")
def trace(pools, tmp_path_factory):
    pytest.importorskip("megatron.core")
    out = tmp_path_factory.mktemp("megatron") / "trace"
    capture = CaptureFilter(kinds=frozenset({Kind.COLLECTIVE}))
    outcomes = pools.of_size(2).run(
        "ttrace.examples.megatron_gpt.train",
        OPTIONS,
        environment=RecordRequest(out=out, capture=capture).to_environment(),
        timeout_s=240,
    )
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    return open_trace(out)


def test_all_are_what_they_are_defined_to_be(trace):
    checks = check_collectives(trace)
    assert {check.call.part.name for check in checks} >= {
        "all_gather_into_tensor",
        "all_reduce",
        "reduce_scatter_tensor",
    }
    assert not any(check.wrong or check.reason for check in checks)
    assert collective_faults(trace) == ()
    assert not trace.info.skipped


@pytest.mark.parametrize(
    "slot",
    [
        "all_gather_into_tensor.0.operand.rank1",
        "reduce_scatter_tensor.backward.0.result.rank1",
    ],
)
def test_they_name_the_layer_and_both_lines(trace, slot):
    texts = {str(id_): record for id_, record in trace.info.tensors.items()}
    record = texts[f"step0/mb1/decoder.layers.0.mlp.linear_fc1/collective/{slot}"]
    part = record.shards[0].collective
    assert part.group == (0, 1)
    assert part.source.startswith("examples/megatron_gpt/loop.py:")
    assert part.library.startswith("megatron/core/tensor_parallel/")
