"""Recording changes nothing: every bit of a run is the same with and without it.

Checksums of outputs, gradients, parameters and optimizer state are printed by every
rank, over three steps. ``make observer`` does so in every layout of the matrix; these
are the settings that it lacks, dropout and many buckets among them, and some that it
has.
"""

import pytest

pytest.importorskip("megatron.core")

from ttrace.examples.layout_matrix.observer import ObservedRun, observe  # noqa: E402

GPT = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --global-batch-size 4 --micro-batch-size 1 --train-iters 3"
)
EXPERTS = "--num-experts 4 --disable-bias-linear"
TP = "--tensor-model-parallel-size 2"
SP = f"{TP} --sequence-parallel"
EP = "--expert-model-parallel-size 2 --expert-tensor-parallel-size 1"
PP = "--pipeline-model-parallel-size 2"
VPP = (
    f"{PP} --num-layers 4 --num-layers-per-virtual-pipeline-stage 1 "
    "--overlap-p2p-communication"
)
CP = "--context-parallel-size 2"
ZERO = "--use-distributed-optimizer"
OVERLAP = "--overlap-grad-reduce --ddp-bucket-size 3000"
ZERO_OVERLAP = f"{ZERO} {OVERLAP} --overlap-param-gather"
FP16 = "--fp16 --initial-loss-scale 1024 --loss-scale-window 1"
DROPOUT = "--hidden-dropout 0.1 --attention-dropout 0.1"
FULL = (
    "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
)
BLOCK = "--recompute-granularity full --recompute-method block --recompute-num-layers 1"
SELECTIVE = "--recompute-granularity selective --recompute-modules core_attn layernorm"


@pytest.mark.parametrize(
    ("world_size", "layout"),
    [
        (1, ""),
        (1, f"{DROPOUT} {BLOCK}"),
        (2, SP),
        (2, f"{SP} {DROPOUT} {FULL}"),
        (2, f"{TP} {FP16}"),
        (2, OVERLAP),
        (2, f"{DROPOUT} {SELECTIVE}"),
        (2, f"{ZERO} {FP16}"),
        (2, ZERO_OVERLAP),
        (2, f"{ZERO_OVERLAP} --bf16"),
        (2, f"{EXPERTS} {EP} {ZERO_OVERLAP}"),
        (2, f"{EXPERTS} {SP} --expert-tensor-parallel-size 2"),
        (2, PP),
        (2, f"{VPP} {FULL}"),
        (2, CP),
        (4, f"{SP} {ZERO_OVERLAP}"),
        (4, f"{PP} {ZERO}"),
    ],
)
def test_a_recorded_run_computes_the_same_bits(pools, tmp_path, world_size, layout):
    run = ObservedRun(
        name=layout,
        options=(*GPT.split(), *layout.split()),
        world_size=world_size,
    )
    result = observe(run, pools.of_size(world_size), tmp_path / "trace")
    assert result.passed, result.reason
    # Six lines per step and two at the end from every rank; a loss from the first.
    assert result.num_checks == world_size * (3 * 6 + 2) + 3
    assert result.num_tensors > 500
