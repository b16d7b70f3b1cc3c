"""Parts of the example of torch's own parallelism, on one process."""

from collections.abc import Iterator

import pytest
import torch

from ttrace.errors import UsageError
from ttrace.examples.torch_native import other_models, transformers_models
from ttrace.examples.torch_native.arguments import (
    MODELS,
    parse_arguments,
    require_consistent,
)
from ttrace.examples.torch_native.data import Dealer
from ttrace.examples.torch_native.llama import (
    Llama,
    LlamaOptions,
    positions_in,
    visible_keys,
)
from ttrace.examples.torch_native.lora import LoraLinear, freeze
from ttrace.examples.torch_native.optimization import make_optimizers, orthogonalized
from ttrace.examples.torch_native.place import Place, find_place
from ttrace.examples.torch_native.tasks import IGNORED, token_samples
from ttrace.examples.torch_native.train import main
from ttrace.examples.torch_parallel.process_group import default_process_group


def test_the_models_are_those_that_can_be_asked_for():
    others = {*other_models.TASKS, *transformers_models.TASKS}
    assert {"llama", *others} == set(MODELS)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"llama", "hf-gpt2-124m"}))
def test_every_model_has_the_layers_that_are_wrapped_and_a_loss(name):
    task = (other_models.TASKS | transformers_models.TASKS)[name]
    torch.manual_seed(0)
    model = task.model()
    classes = {type(module).__name__ for module in model.modules()}
    assert set(task.blocks) <= classes
    loss = task.loss(model, task.samples(2, torch.Generator().manual_seed(0)))
    assert loss.shape == () and loss.isfinite()


@pytest.fixture
def place() -> Iterator[Place]:
    with default_process_group() as device:
        yield find_place(device, pp=1, tp=1, is_hybrid=False)


@pytest.mark.parametrize(
    ("options", "where", "expected"),
    [
        ("--model cnn --tp 2", "--model cnn", "--tp 1 and --pp 1"),
        ("--pp 2 --tie-embeddings", "--pp", "no --tie-embeddings"),
        ("--sp", "--sp", "--tp 2 or more"),
        ("--loss-parallel", "--loss-parallel", "--tp 2 or more"),
        ("--tp 2 --max-grad-norm 1", "--max-grad-norm", "--sp"),
        ("--precision mixed", "--precision mixed", "fsdp1, fsdp2 or hsdp"),
        ("--dp fsdp1 --tp 2", "--dp fsdp1", "fsdp2 goes with --tp"),
        ("--pp 2 --documents", "--pp", "no --documents"),
        ("--lora --tp 2", "--lora", "--tp 1"),
        ("--dp fsdp1-flat --decay-matrices-only", "--dp fsdp1-flat", "all flat"),
        ("--dp sum", "--dp sum", "--loss-per step"),
        ("--loss-per step --model unet", "--loss-per step", "labels are counted"),
    ],
)
def test_options_that_do_not_go_together_are_refused(place, options, where, expected):
    with pytest.raises(UsageError, match="do not go together") as caught:
        require_consistent(parse_arguments(options.split()), place)
    assert caught.value.where == where and expected in str(caught.value)


def test_samples_that_cannot_be_divided_are_refused(capsys):
    assert main(["--global-batch-size", "7"]) == 2
    assert "cannot be divided evenly" in capsys.readouterr().err
    assert main(["--tp", "2"]) == 2
    assert "the processes cannot be divided" in capsys.readouterr().err


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("deals_samples", [False, True])
def test_all_ranks_together_see_what_one_process_sees_in_each_step(
    deals_samples, shuffle
):
    samples = {"x": torch.arange(16)}

    def steps(rank: int, size: int) -> list[list[int]]:
        dealer = Dealer(
            micro_batch_size=2,
            global_batch_size=8,
            deals_samples=deals_samples,
            shuffle=shuffle,
            rank=rank,
            size=size,
        )
        return [
            [int(x) for batch in batches for x in batch["x"]]
            for batches in dealer.batches(samples)
        ]

    (first, second) = steps(0, 1)
    ranks = [steps(rank, 2) for rank in range(2)]
    assert sorted(ranks[0][0] + ranks[1][0]) == sorted(first)
    assert sorted(ranks[0][1] + ranks[1][1]) == sorted(second)
    assert (first == list(range(8))) is not shuffle
    if not shuffle:
        assert ranks[0][0] == ([0, 2, 4, 6] if deals_samples else [0, 1, 4, 5])


def test_tied_embeddings_are_one_parameter():
    model = Llama(LlamaOptions(tied=True))
    assert model.head is not None and model.embed is not None
    assert model.head.weight is model.embed.weight


def test_documents_have_positions_of_their_own_and_see_only_themselves():
    documents = torch.tensor([[0, 0, 0, 1, 1, 2]])
    assert positions_in(documents).tolist() == [[0, 1, 2, 0, 1, 0]]
    visible = visible_keys(documents)[0]
    assert visible[4].tolist() == [False, False, False, True, True, False]
    assert visible.diagonal().all()


def test_steps_of_muon_bring_singular_values_near_one():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.6 and values.max() < 1.3


def test_one_document_is_what_no_document_is():
    torch.manual_seed(0)
    model = Llama(LlamaOptions())
    tokens = torch.randint(64, (2, 8))
    torch.testing.assert_close(model(tokens), model(tokens, torch.zeros_like(tokens)))


def test_samples_have_documents_and_lengths_of_their_own():
    samples = token_samples(64, 16, documents=True, uneven_lengths=True)
    made = samples(8, torch.Generator().manual_seed(0))
    counts = (made["labels"] != IGNORED).sum(1)
    assert counts.min() >= 4 and len(counts.unique()) > 1
    assert made["documents"].diff(dim=1).min() >= 0 and made["documents"].max() > 1
    assert (made["labels"][:, 0] == made["tokens"][:, 1]).all()


def test_only_adapters_are_trained():
    model = Llama(LlamaOptions(lora=True))
    freeze(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    adapters = [m for m in model.modules() if isinstance(m, LoraLinear)]
    assert len(trained) == 2 * len(adapters) == 8
    assert all(".attention." in name for name in trained)


def test_norms_and_biases_do_not_decay_where_only_matrices_do():
    args = parse_arguments(["--bias", "--decay-matrices-only"])
    model = Llama(LlamaOptions(bias=True))
    (optimizer,) = make_optimizers(model, args)
    matrices, others = optimizer.param_groups
    assert matrices["weight_decay"] == args.weight_decay > others["weight_decay"] == 0
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {1}
