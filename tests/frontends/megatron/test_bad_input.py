"""Megatron runs that contradict themselves: a clear error or a visible verdict.

Real runs on two processes, each with one thing put wrong while the model is built, and
what the command line says of them. Never a guess, and never a pass.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.factories.command_line import Answer

pytest.importorskip("megatron.core")

from tests.factories.layout_recordings import Recordings  # noqa: E402
from ttrace.examples.worker_pool import (
    Outcome,  # noqa: E402
    WorkerPools,  # noqa: E402
)
from ttrace.recording.request import RecordRequest  # noqa: E402

SGD = ["--optimizer", "sgd"]
"""Without noise runs Adam's first step would exceed its tolerances on its own."""

TP = "--tensor-model-parallel-size 2".split()
PP = "--pipeline-model-parallel-size 2".split()

RANK = "import torch.distributed as dist\n"

UNINITIALIZED = """
def after_wrap(args, config, chunks, optimizer):
    # What Megatron's parameters lack without perform_initialization.
    for parameter in chunks[0].parameters():
        for name in ("tensor_model_parallel", "partition_dim", "partition_stride"):
            if parameter.dim() == 2 and hasattr(parameter, name):
                delattr(parameter, name)
"""

SILENT = """
def silence(module):
    # Called without its hooks, like a kernel that replaces a module.
    calls = {"__call__": lambda self, *args, **kwargs: self.forward(*args, **kwargs)}
    module.__class__ = type(type(module).__name__, (type(module),), calls)
"""

STAGE_WITHOUT_ITS_NORM = (
    SILENT
    + """
def after_build(args, models):
    if models[0].post_process:
        silence(models[0].decoder.final_layernorm)
"""
)

RANK_WITHOUT_A_SHARD = (
    SILENT
    + RANK
    + """
def after_build(args, models):
    if dist.get_rank() == 1:
        silence(models[0].decoder.layers[0].mlp.linear_fc1)
"""
)

RANK_WITHOUT_A_COPY = RANK_WITHOUT_A_SHARD.replace(
    "decoder.layers[0].mlp.linear_fc1", "decoder.final_layernorm"
)

OTHER_SHAPE_ON_ONE_RANK = (
    RANK
    + """
def after_wrap(args, config, chunks, optimizer):
    if dist.get_rank() == 1:
        args.vocab_size = 63
"""
)

OTHER_NAMES_ON_ONE_STAGE = """
def after_build(args, models):
    if models[0].post_process:
        for layer in models[0].decoder.layers:
            layer.layer_number -= 2
"""

UNKNOWN_CLASS = """
import torch

class MyAttention(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.hidden = [inner]

    def forward(self, *args, **kwargs):
        return self.hidden[0].forward(*args, **kwargs)

def after_build(args, models):
    for layer in models[0].decoder.layers:
        attention = layer.self_attention
        attention.core_attention = MyAttention(attention.core_attention)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Recorded runs, and their comparison on the command line.

    Attributes:
        folder: For patches and traces.
        recordings: Runs the example.
    """

    folder: Path
    recordings: Recordings

    def options(self, patch: str) -> list[str]:
        """The option that applies a patch of this text."""
        path = self.folder / f"patch{abs(hash(patch))}.py"
        path.write_text(patch)
        return ["--patch", str(path)]

    def reference(self, patch: str = "") -> Path:
        """The trace of one process."""
        options = self.options(patch) if patch else []
        return self.recordings.trace(1, [*SGD, *options]).path

    def record(self, name: str, layout: list[str], patch: str = "") -> Path:
        """The folder of a trace of two processes, which need not be a sound one."""
        outcomes = self.run(name, layout, patch)
        assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
        return self.folder / name

    def run(self, name: str, layout: list[str], patch: str) -> list[Outcome]:
        """How such a run ends."""
        options = [*SGD, *layout, *(self.options(patch) if patch else [])]
        request = RecordRequest(out=self.folder / name)
        return self.recordings.run(2, options, request.to_environment())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("bad-input")
    with WorkerPools() as pools:  # of its own, which its patches change
        yield Runs(folder=folder, recordings=Recordings(folder, pools))


def compare(ttrace, reference: Path, candidate: Path) -> Answer:
    return ttrace("compare", reference, candidate, "--backend", "numpy")


def test_parameters_without_sharding_attributes(runs, ttrace):
    """They are sharded as their class does it; what breaks is Megatron's own norm."""
    outcomes = runs.run("uninitialized", TP, UNINITIALIZED)
    assert [outcome.status for outcome in outcomes] == [0, 0]
    printed = outcomes[0].output + outcomes[0].error
    assert "tensor-parallel parameters (the first is embedding.word_emb" in printed
    assert "lack the attributes tensor_model_parallel and partition_dim" in printed
    assert "perform_initialization=True" in printed
    answer = compare(ttrace, runs.reference(), runs.folder / "uninitialized")
    assert answer.code == 1
    assert " unmatched" not in answer.out.replace(" 0 unmatched", "")
    assert "step0/@root/grad_norm" in answer.out


def test_a_stage_without_a_tensor_that_its_layout_promises(runs, ttrace):
    candidate = runs.record("stage", PP, STAGE_WITHOUT_ITS_NORM)
    answer = compare(ttrace, runs.reference(), candidate)
    assert answer.code == 1
    # Input, output and their gradients of four micro-batches.
    assert " 0 failed, 16 unmatched, " in answer.out
    assert "step0/mb2/decoder.final_layernorm/output/0" in answer.out
    assert "only in the reference" in answer.out


def test_a_rank_without_its_shard(runs, ttrace):
    candidate = runs.record("shard", TP, RANK_WITHOUT_A_SHARD)
    answer = compare(ttrace, runs.reference(), candidate)
    assert answer.code == 1
    assert " 0 failed, 20 unmatched, " in answer.out
    # Its part of the outputs, and its copy of the input and of that gradient.
    assert "step0/mb0/decoder.layers.0.mlp.linear_fc1/output/0" in answer.out
    assert "2048 elements are missing in the candidate" in answer.out


def test_a_rank_without_its_copy(runs, ttrace):
    candidate = runs.record("copy", TP, RANK_WITHOUT_A_COPY)
    answer = compare(ttrace, runs.reference(), candidate)
    assert answer.code == 1
    assert " 0 failed, 16 unmatched, " in answer.out
    assert "step0/mb0/decoder.final_layernorm/output/0" in answer.out
    assert "a replica is missing in the candidate: rank 1" in answer.out


def test_ranks_whose_shapes_contradict_each_other(runs, ttrace):
    candidate = runs.record("shapes", TP, OTHER_SHAPE_ON_ONE_RANK)
    answer = compare(ttrace, runs.reference(), candidate)
    assert answer.code == 2
    for text in (
        "ranks disagree about the shape of a logical tensor",
        "where:    step0/embedding.word_embeddings/param/weight",
        "got:      [64, 32] on rank 0; [63, 32] on rank 1",
        "to do:    check the rule or the dims text",
    ):
        assert text in answer.err


def test_stages_whose_names_contradict_each_other(runs, ttrace):
    candidate = runs.record("names", PP, OTHER_NAMES_ON_ONE_STAGE)
    answer = compare(ttrace, runs.reference(), candidate)
    assert answer.code == 2
    text = " ".join(answer.out.split())
    assert "Set-up differs" in text
    assert (
        "step0/decoder.layers.0.input_layernorm/param/weight: replicas differ in the "
        "candidate: rank 1 from rank 0" in text
    )
    assert "step0/decoder.layers.2.input_layernorm/param/weight" in text
    assert "only in the reference" in text
    alone = ttrace("replicas", candidate, "--backend", "numpy")
    assert alone.code == 1
    assert "replicas that differ" in alone.out


def test_ranks_of_two_runs_in_one_trace(runs, ttrace):
    one, other = runs.record("one", TP), runs.record("other", TP)
    shutil.rmtree(one / "rank00001")
    shutil.copytree(other / "rank00001", one / "rank00001")
    answer = compare(ttrace, runs.reference(), one)
    assert answer.code == 2
    for text in (
        "the ranks of a trace are not of one run",
        f"rank 1, {one / 'rank00001'}",
        "run_id",
        "to do:    record each run to a folder of its own",
    ):
        assert text in answer.err


def test_an_unknown_class_is_skipped_with_the_reason(runs, ttrace):
    candidate = runs.record("unknown", TP, UNKNOWN_CLASS)
    answer = compare(ttrace, runs.reference(UNKNOWN_CLASS), candidate)
    assert answer.code == 0
    assert " 0 failed, 0 unmatched, " in answer.out
    text = " ".join(answer.out.split())
    # The reference, of one process, holds whole tensors and needs no rule.
    assert "reference: no layout rule" not in text
    assert "candidate: no layout rule for output 0 of MyAttention in" in text
    assert "rules=[Rule(module='MyAttention', parent=" in text
    assert "direction=Direction.OUTPUT, slot='0', dims='d0 d1 d2')])" in text
