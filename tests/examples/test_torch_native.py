"""Parallelism that torch brings along: layouts pass, with next to nothing left out."""

from collections.abc import Iterator

import pytest
import torch

from tests.paths import ROOT
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import UsageError
from ttrace.examples.layout_matrix.native_cases import SCRIPT, native_cases
from ttrace.examples.layout_matrix.observer import observe, observed_runs
from ttrace.examples.main_job import Launch, MainJob
from ttrace.examples.torch_native import other_models, transformers_models
from ttrace.examples.torch_native.arguments import (
    MODELS,
    parse_arguments,
    require_consistent,
)
from ttrace.examples.torch_native.data import Dealer
from ttrace.examples.torch_native.llama import Llama, LlamaSize
from ttrace.examples.torch_native.place import Place, find_place
from ttrace.examples.torch_native.train import main
from ttrace.examples.torch_parallel.process_group import default_process_group
from ttrace.examples.worker_pool import WorkerPools
from ttrace.report.model import Outcome, Report

CASES = {case.name: case for case in native_cases()}

NORM = "this rank does not hold all gradients whole"
SUMS = "it sums over the samples of a micro-batch; main_grad is compared"
LOSSES = "how the losses of micro-batches make up that of the step is not known"
COMPILED = "inside of a region that torch.compile compiles"
STATISTICS = "running statistics of each rank's own micro-batches"


@pytest.fixture(scope="module")
def job() -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=300) as main_job:
        yield main_job


@pytest.fixture(scope="module")
def pools() -> Iterator[WorkerPools]:
    with WorkerPools() as started:
        yield started


def check(job: MainJob, name: str) -> Report:
    case = CASES[name]
    return job.check(
        Launch(script=case.script, options=case.model),
        Launch(
            script=case.script,
            options=(*case.model, *case.layout),
            world_size=case.world_size,
        ),
    )


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("native-llama/ddp2/fp32/8", ()),
        ("native-llama/fsdp1/fp32/8", (NORM,)),
        ("native-llama/tp2-sp-loss/fp32/8", (NORM,)),
        ("native-llama/pp2-1f1b/fp32/8", (NORM,)),
        # The module that fully_shard takes is a wrapper, which has no path of its own.
        ("native-llama/fsdp2-wrapper/fp32/8", (NORM,)),
        # DDP is what is compiled, and the model inside of it.
        ("native-llama/ddp2-compile/fp32/8", (COMPILED,)),
        # The update of one element turns with the sign of its gradient.
        ("native-llama-autocast/tp2-sp/bf16/8", (NORM,)),
        ("native-llama-whole/fsdp2-2x2/fp32/8", (NORM, SUMS, LOSSES)),
        ("cnn/ddp2/fp32/8", (STATISTICS,)),
        ("unet/wrapper/fp32/8", (NORM,)),
    ],
)
def test_a_layout_passes_and_nothing_else_is_left_out(job, name, left_out):
    report = check(job, name)
    assert report.verdict is Outcome.PASS, report.summary
    assert not report.counts.unmatched
    for reason in report.counts.skipped_reasons:
        assert any(text in reason for text in left_out), reason
    for text in left_out:
        assert any(text in reason for reason in report.counts.skipped_reasons), text
    for kind in ("main_grad", "updated_param", "optimizer_state", "param"):
        assert report.coverage[kind].compared and not report.coverage[kind].skipped
    roots = {
        t.id for t in report.tensors if "/@root/" in t.id and t.rel_err is not None
    }
    assert {"step1/mb0/@root/output/0", "step1/mb0/@root/grad_output/0"} <= roots


@pytest.mark.parametrize("layout", ["tp2-sp", "fsdp2-wrapper", "pp2-1f1b"])
def test_tracing_changes_no_bit_and_adds_no_collective(layout, pools, tmp_path):
    reference, candidate = observed_runs([CASES[f"native-llama/{layout}/fp32/8"]])
    assert reference.script == candidate.script == SCRIPT
    result = observe(candidate, pools.of_size(2), tmp_path / "trace")
    assert result.passed, result.reason
    assert result.num_collectives and result.num_checks > 30


def test_there_are_many_cases_of_distinct_names():
    assert len(CASES) == len(native_cases()) >= 60


def test_options_of_the_cases_are_those_of_the_example():
    for case in CASES.values():
        parse_arguments([*case.model, *case.layout])
    models = {parse_arguments(case.model).model for case in CASES.values()}
    assert models == set(MODELS) - {"hf-gpt2-124m"}  # of the benchmark


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
    model = Llama(LlamaSize(tied=True))
    assert model.output is not None and model.tok_embeddings is not None
    assert model.output.weight is model.tok_embeddings.weight


def test_the_script_says_nothing_of_layouts():
    """A user of ttrace writes the README's lines, and no description."""
    sources = (ROOT / "examples" / "torch_native").glob("*.py")
    text = "\n".join(path.read_text() for path in sources)
    assert "torch_capture.trace(wrapped, optimizer)" in text
    for word in ("torch_dims_description", "torch_parts", "scales=", "partial["):
        assert word not in text, word
