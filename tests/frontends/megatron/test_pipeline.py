"""Pipelines of real megatron-core: every tensor against that of one process."""

import pytest

from tests.factories.layout_recordings import (
    Recordings,
    assert_complete,
    assert_correct,
)

pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id  # noqa: E402

PP2 = "--pipeline-model-parallel-size 2".split()
PP3 = "--pipeline-model-parallel-size 3".split()
PP4 = "--pipeline-model-parallel-size 4".split()
VPP = "--num-layers-per-virtual-pipeline-stage 1".split()
OVERLAP = ["--overlap-p2p-communication"]
UNEVEN = (
    "--decoder-first-pipeline-num-layers 1 --decoder-last-pipeline-num-layers 2"
).split()
TP2_SP = "--tensor-model-parallel-size 2 --sequence-parallel".split()
UNTIED = ["--untie-embeddings-and-output-weights"]
SIX_LAYERS = "--num-layers 6 --global-batch-size 12".split()
MTP = "--mtp-num-layers 1 --position-embedding-type rope".split()
TWO_MTP = "--mtp-num-layers 2 --position-embedding-type rope".split()
UNUSED = {"output_layer": "no computation reads it"}

LAYOUTS = {
    "pp2": (2, PP2, []),
    "pp2 untied": (2, PP2, UNTIED),
    "pp3 uneven": (3, [*PP3, *UNEVEN], []),
    "pp4": (4, PP4, []),
    "pp2 vpp2, overlapped": (2, [*PP2, *VPP, *OVERLAP], []),
    "pp3 vpp2": (3, [*PP3, *VPP], SIX_LAYERS),
    "pp3 vpp2, overlapped": (3, [*PP3, *VPP, *OVERLAP], SIX_LAYERS),
    "tp2 sp pp2": (4, [*TP2_SP, *PP2], []),
    "pp2 mtp": (2, PP2, MTP),
    "pp2 vpp2 mtp": (2, [*PP2, *VPP, *OVERLAP], TWO_MTP),
    "pp2 mtp untied": (2, PP2, [*MTP, *UNTIED]),
    "pp2, uneven mask": (2, PP2, ["--loss-mask", "uneven"]),
}
"""Number of processes, options of the layout and options of the model, by name."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, pools) -> Recordings:
    return Recordings(tmp_path_factory.mktemp("traces"), pools)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_equals_that_of_one_process(recordings, name):
    world_size, layout, model = LAYOUTS[name]
    reference = recordings.trace(1, model)
    candidate = recordings.trace(world_size, [*model, *layout])
    assert_correct(reference, candidate)
    is_unused = "mtp" in name and "untied" not in name
    assert_complete(reference, candidate, skipped=UNUSED if is_unused else None)


def test_a_stage_records_its_own_layers_only(recordings):
    trace = recordings.trace(4, PP4)
    for id_, record in trace.info.tensors.items():
        if id_.module.startswith("decoder.layers."):
            stage = int(id_.module.split(".")[2])
            assert [shard.rank for shard in record.shards] == [stage], id_


def test_the_model_as_a_whole_is_recorded_by_its_ends(recordings):
    trace = recordings.trace(4, PP4)

    def ranks(text: str) -> list[int]:
        record = trace.info.tensors[parse_tensor_id(text)]
        return [shard.rank for shard in record.shards]

    assert ranks("step0/mb0/@root/input/0") == [0]
    assert ranks("step0/mb0/@root/input/labels") == [3]
    assert ranks("step0/mb0/@root/output/0") == [3]
    assert ranks("step0/mb0/@root/loss") == [3]
    assert ranks("step0/mb0/decoder/output/0") == [3]
    assert ranks("step0/embedding.word_embeddings/main_grad/weight") == [0, 3]
    assert ranks("step0/@root/grad_norm") == [0, 1, 2, 3]


def test_a_tied_weight_has_a_share_of_its_gradient_on_both_ends(recordings):
    trace = recordings.trace(4, PP4)
    gradients = [
        record
        for id_, record in trace.info.tensors.items()
        if id_.kind is Kind.PARAM_GRAD and id_.module == "embedding.word_embeddings"
    ]
    assert len(gradients) == 4
    for record in gradients:
        assert [shard.rank for shard in record.shards] == [0, 3]
        for shard in record.shards:
            assert shard.layout.partial_axes == ("pp",)
            assert shard.layout.num_partials == 2


@pytest.mark.parametrize(
    "layout", [PP2, [*PP2, *VPP, *OVERLAP]], ids=["pp2", "pp2 vpp2"]
)
def test_recording_changes_nothing(recordings, layout):
    options = [*layout, "--train-iters", "2"]
    recorded = recordings.recorded_output(2, options)
    assert "step 1 loss" in recorded  # which depends on every updated parameter
    assert recorded == recordings.run(2, options)[0].output


def test_two_virtual_stages_need_overlapped_communication(recordings):
    outcomes = recordings.run(2, [*PP2, *VPP])
    assert [outcome.status for outcome in outcomes] == [2, 2]
    assert "two stages exchange several messages" in outcomes[0].output
