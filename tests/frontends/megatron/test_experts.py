"""What goes into experts and comes out of them, compared on real megatron-core runs."""

from collections.abc import Iterator

import pytest

pytest.importorskip("torch")
pytest.importorskip("megatron.core")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from ttrace.backends.numpy_backend import NumpyBackend  # noqa: E402
from ttrace.examples.bug_zoo.bug import MEGATRON_SCRIPT  # noqa: E402
from ttrace.examples.bug_zoo.megatron_options import (  # noqa: E402
    EP2,
    EXPERTS,
    FULL_RECOMPUTE,
    TP2_SP,
)
from ttrace.examples.main_job import Launch, MainJob  # noqa: E402
from ttrace.frontends.megatron_parts.context import ShardingContext  # noqa: E402
from ttrace.frontends.megatron_parts.dispatch import (  # noqa: E402
    microbatch_offsets,
    rows_per_sender,
    unknown_reason,
)
from ttrace.frontends.megatron_parts.experts import ExpertRows, RoutedTokens  # noqa: E402
from ttrace.frontends.megatron_parts.meshes import MegatronMeshes  # noqa: E402
from ttrace.frontends.torch_parts.description import NoLayout  # noqa: E402
from ttrace.ir.layout import Mesh  # noqa: E402
from ttrace.ir.row_index import IndexPart  # noqa: E402
from ttrace.ir.tensor_id import parse_tensor_id  # noqa: E402
from ttrace.report.model import Outcome  # noqa: E402

ALL_GATHER = ("--moe-token-dispatcher-type", "allgather")
GATED = ("--swiglu",)
ACTIVATIONS = {"input", "output", "grad_input", "grad_output"}

KNOWN_SKIPS = (
    "candidate: experts are shared by data-parallel ranks, so the gradient of one "
    "backward mixes several micro-batches",
    "candidate: it counts tokens of several micro-batches together",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory, pools) -> Iterator[MainJob]:
    folder = tmp_path_factory.mktemp("runs")
    with MainJob(NumpyBackend(), folder, num_noise_runs=1, pools=pools) as main_job:
        yield main_job


def launch(*options: str, world_size: int = 1) -> Launch:
    return Launch(
        script=MEGATRON_SCRIPT,
        options=(*EXPERTS, "--train-iters", "1", "--num-layers", "1", *options),
        world_size=world_size,
    )


@pytest.mark.parametrize("dispatcher", [(), ALL_GATHER], ids=["alltoall", "allgather"])
@pytest.mark.parametrize(
    ("layout", "model"),
    [
        pytest.param((*TP2_SP, *EP2), (), id="tp2-sp-ep2"),
        pytest.param(TP2_SP, GATED, id="tp2-sp-etp2-swiglu"),
        pytest.param(EP2, (), id="dp2-ep2"),
    ],
)
def test_what_experts_take_and_give(job, layout, model, dispatcher):
    report = job.check(
        launch(*model), launch(*model, *layout, *dispatcher, world_size=2)
    )
    assert report.verdict is Outcome.PASS, report.summary
    of_experts = [tensor for tensor in report.tensors if ".mlp.experts" in tensor.id]
    skipped = [tensor.reason for tensor in of_experts if tensor.status != "passed"]
    assert set(skipped) <= (set() if layout is not EP2 else set(KNOWN_SKIPS))
    compared = [
        tensor
        for tensor in of_experts
        if tensor.kind in ACTIVATIONS
        and tensor.layouts is not None
        and tensor.layouts[1].startswith("x[@index]")
    ]
    # Of each micro-batch: input and probabilities, output, and the gradients of the
    # three, for all experts together and each alone; two linears with four each.
    per_microbatch = 6 + 4 * (6 + 2 * 4)
    num_microbatches = 2
    assert len(compared) == per_microbatch * num_microbatches
    assert not any("@index" in tensor.id for tensor in report.tensors)


def test_recomputed_experts(job):
    report = job.check(launch(), launch(*EP2, *FULL_RECOMPUTE, world_size=2))
    assert report.verdict is Outcome.PASS, report.summary
    recomputed = [
        tensor
        for tensor in report.tensors
        if ".local_experts." in tensor.id and tensor.id.endswith("/recompute")
    ]
    assert len(recomputed) == 4 * (3 + 2 * 2) * 2
    assert {tensor.status for tensor in recomputed} == {"passed"}


class Dispatcher:
    """Stands for either of Megatron's, on rank 0 of a group of that many ranks."""

    def __init__(self, *, ep: int = 1, etp: int = 1, num_local_experts: int = 2):
        self.ep_size, self.tp_size = ep, etp
        self.num_local_experts = num_local_experts


class MoEAlltoAllTokenDispatcher(Dispatcher):
    pass


class MoEAllGatherTokenDispatcher(Dispatcher):
    local_map: torch.Tensor


class Config:
    num_moe_experts = 4
    gated_linear_unit = False
    tensor_model_parallel_size = 2
    sequence_parallel = True
    fp8 = None
    moe_pad_expert_input_to_capacity = False


def changed(**settings: object) -> Config:
    config = Config()
    for name, value in settings.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("config", "dispatcher", "reason"),
    [
        (Config(), MoEAllGatherTokenDispatcher(), None),
        (
            Config(),
            Dispatcher(),
            "how Dispatcher orders tokens is not known: only "
            "MoEAlltoAllTokenDispatcher and MoEAllGatherTokenDispatcher are",
        ),
        (
            changed(moe_pad_expert_input_to_capacity=True),
            MoEAlltoAllTokenDispatcher(),
            "moe_pad_expert_input_to_capacity pads what an expert is given, in an "
            "order that is not known",
        ),
        (
            changed(sequence_parallel=False),
            MoEAlltoAllTokenDispatcher(),
            "without sequence parallelism several ranks dispatch the same tokens",
        ),
    ],
)
def test_why_an_order_is_not_known(config, dispatcher, reason):
    assert unknown_reason(config, dispatcher) == reason


def test_microbatches_of_senders():
    # Eight ranks: dp 2, cp 2, tp 2, the last one fastest; we are rank 5.
    offsets = microbatch_offsets(
        [4, 5, 0, 3], 5, data_parallel=[1, 5], same_microbatch=[4, 5, 6, 7]
    )
    assert offsets == (0, 0, -1, -1)


class TestRowsPerSender:
    def test_of_all_gathered_tokens(self):
        dispatcher = MoEAllGatherTokenDispatcher(ep=2)
        dispatcher.local_map = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]]).bool()
        counts = rows_per_sender(dispatcher)
        assert counts is not None and counts.tolist() == [[2, 1], [0, 1]]

    @pytest.mark.parametrize(
        ("sizes", "remembered", "expected"),
        [
            ({"ep": 2}, {"num_global_tokens_per_local_expert": [[1, 2], [3, 4]]}, 0),
            ({"ep": 2, "num_local_experts": 1}, {"output_splits": [3, 4]}, 1),
            ({"etp": 2, "num_local_experts": 1}, {"output_splits_tp": [3, 4]}, 1),
            ({"ep": 2, "etp": 2, "num_local_experts": 1}, {}, None),
        ],
    )
    def test_of_exchanged_tokens(self, sizes, remembered, expected):
        dispatcher = MoEAlltoAllTokenDispatcher(**sizes)
        for name, value in remembered.items():
            setattr(dispatcher, name, torch.tensor(value))
        counts = rows_per_sender(dispatcher)
        known = {0: [[1, 2], [3, 4]], 1: [[3], [4]]}
        if expected is None:
            assert counts is None
        else:
            assert counts is not None and counts.tolist() == known[expected]


def mesh(name: str, **sizes: int) -> Mesh:
    return Mesh(name=name, sizes=sizes, coords=dict.fromkeys(sizes, 0))


class Layer:
    local_expert_indices = (2, 3)

    def __init__(self, dispatcher: Dispatcher):
        self.token_dispatcher = dispatcher


PATH = "decoder.layers.0.mlp.experts"
INDEX = parse_tensor_id(f"step0/mb0/{PATH}/input/@index")


def expert_rows(monkeypatch, *senders: tuple[int, int]) -> ExpertRows:
    """Experts 2 and 3 of four, under cp2; senders by rank and micro-batch offset."""
    from ttrace.frontends.megatron_parts import experts
    from ttrace.frontends.megatron_parts.dispatch import Sender

    found = tuple(Sender(rank=r, microbatch_offset=offset) for r, offset in senders)
    monkeypatch.setattr(experts, "senders", lambda dispatcher: found)
    meshes = MegatronMeshes(
        dense=mesh("dense", pp=1, dp=2, cp=2, tp=1),
        expert=mesh("expert", pp=1, edp=1, ep=2, etp=2),
    )
    return ExpertRows(
        PATH,
        Layer(MoEAlltoAllTokenDispatcher()),
        Config(),
        ShardingContext(meshes=meshes),
    )


def test_numbers_of_routed_tokens(monkeypatch):
    rows = expert_rows(monkeypatch, (0, 0), (1, 0))
    # Rank 0 of a zig-zag over two has the sequence positions 0, 1, 6, 7 of eight.
    routing = torch.zeros(8, 4, dtype=torch.bool)
    routing[0, 2] = routing[5, 2] = routing[3, 0] = True
    routed = rows.number_tokens(INDEX, (4, 2, 16), routing)
    assert isinstance(routed, RoutedTokens)
    assert routed.num_tokens == 16
    assert routed.numbers.tolist() == [3, 2 * 16 + 0, 2 * 16 + 13]
    layout = rows.index_layout(routed)
    assert (layout.global_shape, layout.local_shape) == ((64,), (3,))


def records_of(rows, text, shape, counts=None):
    routed = RoutedTokens(index_id=INDEX, num_tokens=16, numbers=np.arange(0))
    return list(rows.records(parse_tensor_id(text), shape, routed, counts))


def test_rows_of_one_microbatch(monkeypatch):
    rows = expert_rows(monkeypatch, (0, 0), (1, 0))
    (record,) = records_of(rows, f"step0/mb0/{PATH}.local_experts.3/output/0", (5, 8))
    assert record.rows is None and not isinstance(record.layout, NoLayout)
    assert record.layout.dims == "x[@index] h partial[etp]"
    assert record.layout.global_shape == (16, 8)
    index = record.layout.index
    assert index is not None
    assert (index.id, index.origin) == (str(INDEX), 48)
    assert index.parts == tuple(IndexPart(rank=r, numbers=(48, 64)) for r in (0, 1))


def test_rows_of_several_microbatches(monkeypatch):
    rows = expert_rows(monkeypatch, (0, 0), (4, 1), (1, 0))
    counts = np.array([[1, 2], [3, 4], [5, 6]])  # of each sender for both experts
    first, second = records_of(rows, f"step0/mb0/{PATH}/input/0", (21, 8), counts)
    assert str(second.id) == f"step0/mb1/{PATH}/input/0"
    assert first.rows == (range(0, 1), range(4, 9), range(9, 11), range(15, 21))
    assert second.rows == (range(1, 4), range(11, 15))
    assert not isinstance(second.layout, NoLayout)
    assert second.layout.local_shape == (7, 8)
    index = second.layout.index
    assert index is not None
    assert index.id == str(INDEX).replace("mb0", "mb1")
    assert [part.numbers for part in index.parts] == [(32, 48), (48, 64)]


@pytest.mark.parametrize(
    ("tail", "shape", "counts", "reason"),
    [
        (
            "/input/0",
            (3, 8),
            None,
            "how many rows are of which micro-batch is not known",
        ),
        ("/input/1", (2,), None, "it counts tokens of several micro-batches together"),
        (
            ".adapter.lora/output/0",
            (3, 8),
            None,
            "output 0 of shape [3, 8] is not known to have tokens as rows",
        ),
        (
            ".local_experts.2.linear_fc1/output/1",
            (8,),
            np.ones((2, 2), int),
            "output 1 of shape [8] is not known to have tokens as rows",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_skipped(monkeypatch, tail, shape, counts, reason):
    rows = expert_rows(monkeypatch, (0, 0), (4, 1))
    records = records_of(rows, f"step0/mb0/{PATH}{tail}", shape, counts)
    assert [record.id.microbatch for record in records] == [0, 1]
    for record in records:
        assert isinstance(record.layout, NoLayout)
        assert record.layout.reason == reason
