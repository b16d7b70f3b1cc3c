"""Which tensors of a pipeline stage are those of the whole model."""

import types

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from torch import nn  # noqa: E402

from ttrace.errors import UsageError  # noqa: E402
from ttrace.frontends.megatron_parts.names import canonical_parameters  # noqa: E402
from ttrace.frontends.megatron_parts.stages import (  # noqa: E402
    Stage,
    copied_modules,
    placed_modules,
    require_distinct,
    stages_of,
)
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import Mesh  # noqa: E402

FIRST = Stage(is_first=True, is_last=False)
INNER = Stage(is_first=False, is_last=False)
LAST = Stage(is_first=False, is_last=True)
WHOLE = Stage()


class Chunk(nn.Module):
    """A model chunk, as far as stages are concerned."""

    def __init__(self, pre_process=None, post_process=None, layer=1, mtp=False):
        super().__init__()
        if pre_process is not None:
            self.pre_process, self.post_process = pre_process, post_process
        self.mtp_process = mtp
        self.rotary_pos_emb = nn.Identity()
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList([nn.Linear(1, 1)])
        setattr(self.decoder.layers[0], "layer_number", layer)  # noqa: B010


def mesh(size: int, rank: int) -> Mesh:
    return Mesh(name="dense", sizes={"pp": size}, coords={"pp": rank})


@pytest.mark.parametrize(
    ("path", "kind", "slot", "recorded_by"),
    [
        ("@root", Kind.OUTPUT, "0", [LAST, WHOLE]),
        ("@root", Kind.GRAD_OUTPUT, "0", [LAST, WHOLE]),
        ("decoder", Kind.OUTPUT, "0", [LAST, WHOLE]),
        ("decoder", Kind.INPUT, "hidden_states", [FIRST, WHOLE]),
        ("@root", Kind.INPUT, "0", [FIRST, WHOLE]),
        ("@root", Kind.INPUT, "labels", [LAST, WHOLE]),
        ("@root", Kind.INPUT, "2", [FIRST, LAST, WHOLE]),
        ("decoder.layers.0", Kind.OUTPUT, "0", [FIRST, INNER, LAST, WHOLE]),
    ],
)
def test_a_tensor_is_recorded_where_it_is_that_of_the_whole_model(
    path, kind, slot, recorded_by
):
    stages = [FIRST, INNER, LAST, WHOLE]
    assert [s for s in stages if s.is_recorded(path, kind, slot)] == recorded_by


def test_the_last_stage_embeds_shifted_tokens_after_the_first_one():
    last = Stage(is_first=False, predicts_ahead=True)
    paths = ["embedding", "embedding.word_embeddings", "embedding_norm", "mtp"]
    assert [last.num_earlier_calls(path) for path in paths] == [1, 1, 0, 0]
    assert Stage(predicts_ahead=True).num_earlier_calls("embedding") == 0
    assert LAST.num_earlier_calls("embedding") == 0


def test_stages_follow_from_rank_and_chunk():
    chunks = [Chunk(False, False), Chunk(False, True)]
    assert stages_of(chunks, mesh(2, 1)) == [INNER, LAST]
    assert stages_of([Chunk()], mesh(1, 0)) == [WHOLE]


@pytest.mark.parametrize(
    ("chunks", "size", "rank", "expected", "got"),
    [
        ([Chunk(True, True)], 2, 0, "post_process=False: stage 0 of 2", "True"),
        ([Chunk()], 2, 1, "pre_process=False: stage 1 of 2", "None"),
        ([Chunk(False, False)] * 2, 2, 0, "pre_process=True: stage 0 of 4", "False"),
    ],
)
def test_a_chunk_at_the_wrong_place_is_refused(chunks, size, rank, expected, got):
    with pytest.raises(UsageError, match="not the pipeline stage") as caught:
        stages_of(chunks, mesh(size, rank))
    assert expected in str(caught.value)
    assert f"={got}\n" in str(caught.value)
    assert f"pipeline rank {rank} of {size}" in str(caught.value)


def test_prediction_on_an_inner_stage_is_refused():
    with pytest.raises(UsageError, match="multi-token prediction on an inner") as error:
        stages_of([Chunk(True, False, mtp=True)], mesh(2, 0))
    assert "some on stage 0 of 2" in str(error.value)


def test_chunks_with_the_same_layers_are_refused():
    # What a script gets that builds them without vp_stage.
    chunks = [Chunk(layer=3), Chunk(layer=3)]
    parameters = [p for c in chunks for p in canonical_parameters(c, ep_rank=0)]
    with pytest.raises(UsageError, match="a parameter of the same name") as caught:
        require_distinct(parameters)
    assert "decoder.layers.2.weight" in str(caught.value)
    assert "2 names that occur twice" in str(caught.value)
    require_distinct(parameters[:2])


def test_modules_that_every_chunk_has_are_recorded_once_per_rank():
    chunks = [Chunk(True, False, layer=1), Chunk(False, False, layer=3)]
    placed = placed_modules(chunks, [FIRST, INNER], ep_rank=0)
    recorded = [
        p.canonical.path for p in placed if p.is_recorded(Kind.INPUT, "attention_mask")
    ]
    assert recorded.count("rotary_pos_emb") == 1
    assert recorded.count("@root") == recorded.count("decoder") == 1
    assert "decoder.layers.0" in recorded and "decoder.layers.2" in recorded


@pytest.mark.parametrize(
    ("is_tied", "mtp_num_layers", "expected"),
    [
        (False, None, set()),
        (True, None, {"word_embeddings"}),
        (
            False,
            1,
            {"word_embeddings", "position_embeddings", "tokentype_embeddings"},
        ),
    ],
)
def test_modules_in_both_end_stages(is_tied, mtp_num_layers, expected):
    model = Chunk()
    model.share_embeddings_and_output_weights = is_tied
    config = types.SimpleNamespace(mtp_num_layers=mtp_num_layers)
    assert copied_modules(model, config) == {f"embedding.{name}" for name in expected}


class TransformerBlock(nn.Module):
    """A stack of layers, as Megatron's says what it holds."""

    def __init__(self, held, num_layers):
        super().__init__()
        self.config = types.SimpleNamespace(num_layers=num_layers)
        self.layers = nn.ModuleList([nn.Linear(1, 1) for _ in held])
        for layer, number in zip(self.layers, held, strict=True):
            layer.layer_number = number


@pytest.mark.parametrize("stage", [FIRST, INNER, LAST, WHOLE])
def test_a_stack_is_that_of_the_whole_model_by_what_it_holds(stage):
    model = nn.Module()
    model.encoder = TransformerBlock([1], num_layers=3)
    model.tower = nn.Module()
    model.tower.layers_of_images = TransformerBlock([1, 2], num_layers=2)
    placed = {p.canonical.path: p for p in placed_modules([model], [stage], ep_rank=0)}
    encoder, tower = placed["encoder"], placed["tower.layers_of_images"]
    assert encoder.is_recorded(Kind.OUTPUT, "0") == stage.is_last
    assert encoder.is_recorded(Kind.GRAD_OUTPUT, "0") == stage.is_last
    assert encoder.is_recorded(Kind.INPUT, "attention_mask") == stage.is_first
    assert tower.is_recorded(Kind.OUTPUT, "0")
    assert placed["encoder.layers.0"].is_recorded(Kind.OUTPUT, "0")


def test_a_stack_of_every_chunk_is_recorded_at_both_ends():
    chunks = []
    for number in (1, 3):
        chunk = nn.Module()
        chunk.encoder = TransformerBlock([number], num_layers=4)
        chunks.append(chunk)
    first, last = (
        p
        for p in placed_modules(chunks, [FIRST, LAST], ep_rank=0)
        if p.canonical.path == "encoder"
    )
    assert first.is_recorded(Kind.INPUT, "hidden_states")
    assert not first.is_recorded(Kind.OUTPUT, "0")
    assert last.is_recorded(Kind.OUTPUT, "0")
