"""Context parallelism of real megatron-core: every tensor against one process.

Megatron itself averages the ranks' losses per token of each: with masks that leave the
ranks unequal numbers of tokens, runs agree only with a loss per token.
"""

import pytest

from tests.factories.layout_recordings import (
    Recordings,
    assert_complete,
    assert_correct,
)

pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.testing.assembled import errors  # noqa: E402

CP2 = "--context-parallel-size 2".split()
PP2 = "--pipeline-model-parallel-size 2".split()
TP2 = "--tensor-model-parallel-size 2".split()
TP2_SP = [*TP2, "--sequence-parallel"]
ROPE = "--position-embedding-type rope".split()
LLAMA = (
    "--swiglu --normalization RMSNorm --position-embedding-type rope --qk-layernorm "
    "--num-query-groups 2 --untie-embeddings-and-output-weights --disable-bias-linear"
).split()
PER_TOKEN = ["--calculate-per-token-loss"]
EVEN = "--loss-mask even".split()
UNEVEN = "--loss-mask uneven".split()
MTP = [*ROPE, "--mtp-num-layers", "1"]
MIXED = (
    "--num-experts 4 --disable-bias-linear --moe-aux-loss-coeff 0.01 --num-layers 2"
).split()
CONCATENATED = {"mtp": "it holds the outputs of 'decoder' and of the layers of 'mtp'"}

LAYOUTS = {
    "cp2": (2, CP2, [], {}),
    "cp2 rope": (2, CP2, ROPE, {}),
    "cp2 llama": (2, CP2, LLAMA, {}),
    "cp2, even mask": (2, CP2, EVEN, {}),
    "cp2, per token, uneven mask": (2, CP2, [*PER_TOKEN, *UNEVEN], {}),
    "cp2 mtp, per token": (2, CP2, [*MTP, *PER_TOKEN], CONCATENATED),
    "cp2 experts": (2, CP2, MIXED, {}),
    "cp2 tp2 sp": (4, [*CP2, *TP2_SP], [], {}),
    "cp2 tp2": (4, [*CP2, *TP2], [], {}),
    "cp2 pp2": (4, [*CP2, *PP2], [], {}),
    "cp2 dp2, per token, uneven mask": (4, CP2, [*PER_TOKEN, *UNEVEN], {}),
}
"""Number of processes, options of layout and of model, and what is skipped, by name."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, pools) -> Recordings:
    return Recordings(tmp_path_factory.mktemp("traces"), pools)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_equals_that_of_one_process(recordings, name):
    world_size, layout, model, skipped = LAYOUTS[name]
    reference = recordings.trace(1, model)
    candidate = recordings.trace(world_size, [*model, *layout])
    assert_correct(reference, candidate)
    assert_complete(reference, candidate, skipped=skipped)


def test_gradients_carry_the_number_of_parts_as_their_scale(recordings):
    for options, scale in (([], 2.0), ([*PER_TOKEN, *UNEVEN], 1.0)):
        trace = recordings.trace(2, [*options, *CP2])
        for id_, record in trace.info.tensors.items():
            if id_.kind in (Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD):
                assert {shard.scale for shard in record.shards} == {scale}
            elif id_.kind is Kind.MAIN_GRAD:
                assert {shard.scale for shard in record.shards} == {1.0}


def test_an_uneven_mask_without_a_loss_per_token_is_another_computation(recordings):
    reference, candidate = (
        recordings.trace(1, UNEVEN),
        recordings.trace(2, [*UNEVEN, *CP2]),
    )
    found = errors(reference, candidate, lambda id_: id_.kind is Kind.MAIN_GRAD)
    assert max(found.values()) > 1e-3


def test_recording_changes_nothing(recordings):
    options = [*CP2, "--train-iters", "2"]
    recorded = recordings.recorded_output(2, options)
    assert "step 1 loss" in recorded  # which depends on every updated parameter
    assert recorded == recordings.run(2, options)[0].output
