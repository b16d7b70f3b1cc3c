"""Recording changes nothing: every bit of a run is the same with and without it.

Checksums of gradients, parameters and optimizer state are printed by every rank
(``megatron_checksums``), in every layout that the example supports.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from ttrace.examples.worker_pool import WorkerPool  # noqa: E402
from ttrace.run.switchboard import RecordRequest  # noqa: E402
from ttrace.store.reader import open_trace  # noqa: E402

MODULE = "ttrace.examples.megatron_gpt.train"
CHECKSUMS = Path(__file__).with_name("megatron_checksums.py")

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


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, WorkerPool]]:
    pools = {size: WorkerPool(size) for size in (1, 2, 4)}
    yield pools
    for pool in pools.values():
        pool.close()


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
    argv = [*GPT.split(), *layout.split(), "--patch", str(CHECKSUMS)]

    def lines(environment: dict[str, str]) -> list[list[str]]:
        outcomes = pools[world_size].run(
            MODULE, argv, environment=environment, timeout_s=120
        )
        for outcome in outcomes:
            assert outcome.status == 0, f"{outcome.output}{outcome.error}"
        words = ("step", "gradients", "parameters", "state", "collectives")
        return [
            [line for line in outcome.output.splitlines() if line.startswith(words)]
            for outcome in outcomes
        ]

    plain = lines({})
    recorded = lines(RecordRequest(out=tmp_path / "trace").to_environment())
    assert recorded == plain

    # Both did what the test is about.
    of_first_rank = plain[0]
    assert len(of_first_rank) == 3 * 6
    assert len(set(of_first_rank)) == len(of_first_rank)
    assert len(open_trace(tmp_path / "trace").info.tensors) > 500
