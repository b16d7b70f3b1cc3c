"""The example on real megatron-core: every layout against one process, and real bugs.

One run of each layout is recorded and its tensors, put together by their layouts, are
compared with those of the run on one process. This is what verifies the layout rules:
a rule that is wrong for any module shows as an error of order 1.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ttrace.errors import UsageError
from ttrace.testing.assembled import assemble, errors

pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from ttrace.examples.bug_zoo import megatron_bugs  # noqa: E402
from ttrace.examples.megatron_gpt.arguments import (  # noqa: E402
    parse_arguments,
    resolve_arguments,
)
from ttrace.examples.worker_pool import Outcome, WorkerPool, WorkerPools  # noqa: E402
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId  # noqa: E402
from ttrace.recording.request import RecordRequest  # noqa: E402
from ttrace.store.reader import Trace, open_trace  # noqa: E402

MODULE = "ttrace.examples.megatron_gpt.train"
BUGS = Path(megatron_bugs.__path__[0])
NO_PATCH = BUGS / "__init__.py"

SMALL = "--num-layers 2 --train-iters 1 --global-batch-size 4".split()
LLAMA = (
    "--swiglu --normalization RMSNorm --position-embedding-type rope --qk-layernorm "
    "--num-query-groups 2 --untie-embeddings-and-output-weights --disable-bias-linear "
    "--vocab-size 125 --make-vocab-size-divisible-by 4"
).split()
EXPERTS = "--num-experts 4 --disable-bias-linear".split()
ZERO = ["--use-distributed-optimizer"]
INSTANCES = "--num-distributed-optimizer-instances 2".split()
TP = "--tensor-model-parallel-size 2".split()
SP = [*TP, "--sequence-parallel"]
ONE_ETP = "--expert-tensor-parallel-size 1".split()
EP = "--expert-model-parallel-size 2".split()
RECOMPUTE = (
    "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
).split()

ROUNDING = 5e-6
"""Relative error of a correct layout in float32: 5e-7 seen, of any tensor but below."""

LAYOUTS = {
    "tp2": (TP, []),
    "tp2 sp": (SP, []),
    "dp2": ([], []),
    "tp2 sp, recomputed": (SP, RECOMPUTE),
    "llama tp2": (TP, LLAMA),
    "llama tp2 sp": (SP, LLAMA),
    "experts tp2 sp ep2": ([*SP, *EP, *ONE_ETP], EXPERTS),
    "experts tp2 sp etp2": ([*SP, "--moe-token-dispatcher-type=allgather"], EXPERTS),
    "experts dp2 ep2": (EP, EXPERTS),
}
"""Options of the layout, and options of the model, by name."""


class Runs:
    """Records runs, each once."""

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder = folder
        self._pools = pools
        self._numbers = itertools.count()
        self._traces: dict[tuple[int, tuple[str, ...]], Trace] = {}

    def trace(self, world_size: int, *options: str) -> Trace:
        """The trace of a run with these options."""
        key = (world_size, options)
        if key not in self._traces:
            self._traces[key] = self._record(self._pools.of_size(world_size), options)
        return self._traces[key]

    def patched(self, patch: str, *options: str) -> Trace:
        """The trace of two processes of their own, into which a bug is planted."""
        with WorkerPool(2) as pool:
            path = str(BUGS / f"{patch}.py")
            return self._record(pool, (*options, "--patch", path))

    def call(
        self,
        world_size: int,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> list[Outcome]:
        """How a run of the small model ends."""
        pool = self._pools.of_size(world_size)
        return pool.run(MODULE, [*SMALL, *options], environment=environment)

    def output(
        self,
        world_size: int,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What rank 0 prints."""
        outcomes = self.call(world_size, *options, environment=environment)
        assert [o.status for o in outcomes] == [0] * world_size, outcomes
        return outcomes[0].output

    def request(self) -> RecordRequest:
        """Asks for a trace in a new folder."""
        return RecordRequest(out=self._folder / f"trace{next(self._numbers)}")

    def _record(self, pool: WorkerPool, options: tuple[str, ...]) -> Trace:
        request = self.request()
        outcomes = pool.run(
            MODULE, [*SMALL, *options], environment=request.to_environment()
        )
        assert [o.status for o in outcomes] == [0] * pool.world_size, outcomes
        return open_trace(request.out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pools) -> Runs:
    return Runs(tmp_path_factory.mktemp("traces"), pools)


def spreads(trace: Trace, kind: Kind) -> dict[str, float]:
    """Difference between the replicas of every tensor of a kind, by parameter."""
    return {
        f"{id_.module}.{id_.slot}": assemble(trace, record).spread
        for id_, record in trace.info.tensors.items()
        if id_.kind is kind
    }


def is_plain(id_: TensorId) -> bool:
    # Adam's first step turns a gradient of 1e-9 into a whole step of either sign.
    return id_.kind is not Kind.UPDATED_PARAM


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_equals_that_of_one_process(runs, name):
    layout, model = LAYOUTS[name]
    reference = runs.trace(1, *model)
    candidate = runs.trace(2, *model, *layout)

    worst = max(
        errors(reference, candidate, is_plain).items(), key=lambda item: item[1]
    )
    assert worst[1] < ROUNDING, f"{worst[0]}: {worst[1]:.1e}"
    for id_, record in candidate.info.tensors.items():
        assert id_.is_index or assemble(candidate, record).is_covered, id_


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_starts_from_the_same_bits(runs, name):
    layout, model = LAYOUTS[name]
    reference = runs.trace(1, *model)
    candidate = runs.trace(2, *model, *layout)

    params = errors(reference, candidate, lambda id_: id_.kind is Kind.PARAM)
    assert len(params) >= 15
    assert set(params.values()) == {0.0}


@pytest.mark.parametrize("name", LAYOUTS)
def test_replicas_are_equal_bits(runs, name):
    layout, model = LAYOUTS[name]
    candidate = runs.trace(2, *model, *layout)
    for kind in (Kind.PARAM, Kind.MAIN_GRAD, Kind.UPDATED_PARAM):
        found = spreads(candidate, kind)
        assert found and set(found.values()) == {0.0}


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_missing_and_skips_have_a_known_reason(runs, name):
    layout, model = LAYOUTS[name]
    reference, candidate = runs.trace(1, *model), runs.trace(2, *model, *layout)
    seen = candidate.info.tensors.keys() | candidate.info.skipped.keys()
    missing = reference.info.tensors.keys() - seen
    assert not missing
    assert not candidate.info.tensors.keys() - reference.info.tensors.keys()

    for skipped in candidate.info.skipped.values():
        assert "no layout rule" not in skipped.reason
        if "experts" not in skipped.id.module:
            assert skipped.reason.startswith("the module ") or (
                skipped.id.module == "embedding.word_embeddings"
            ), skipped


@pytest.mark.parametrize(
    "options",
    [SP, RECOMPUTE, [*EXPERTS, *EP, *ONE_ETP, *RECOMPUTE]],
    ids=["tp2 sp", "dp2, recomputed", "experts dp2 ep2, recomputed"],
)
def test_recording_changes_nothing(runs, options):
    two_steps = [*options, "--train-iters", "2"]
    recorded = runs.output(2, *two_steps, environment=runs.request().to_environment())
    plain = runs.output(2, *two_steps)
    assert "step 1 loss" in plain  # which depends on every updated parameter
    assert recorded == plain


class TestBugs:
    def test_final_layernorm_not_reduced(self, runs):
        found = diverged(runs, patch="final_layernorm")
        names = {f"decoder.final_layernorm.{slot}" for slot in ("weight", "bias")}
        assert found == Found(main_grads=names, replicas=names)

    def test_router_weight_not_reduced(self, runs):
        options = [*SP, *EP, *ONE_ETP]
        found = diverged(runs, patch="router_weight", model=EXPERTS, options=options)
        names = {f"decoder.layers.{layer}.mlp.router.weight" for layer in (0, 1)}
        assert found == Found(main_grads=names, replicas=names)

    def test_embedding_mask(self, runs):
        reference = runs.trace(1)
        candidate = runs.patched("embedding_mask", *TP)
        values = errors(reference, candidate, lambda id_: id_.kind is Kind.OUTPUT)
        wrong = [id_.module for id_, error in values.items() if error > 0.1]
        assert wrong[0] == "embedding.word_embeddings"
        inputs = errors(reference, candidate, lambda id_: id_.kind is Kind.INPUT)
        right = {id_.module for id_, error in inputs.items() if error == 0}
        assert "embedding.word_embeddings" in right

    def test_expert_gradients_of_megatron_itself(self, runs):
        # Nothing is patched: with etp 1 and ep 1 megatron-core 0.16.1 takes experts for
        # dense parameters, and does not sum their gradients over tp (Megatron-LM pull
        # request 5916).
        found = diverged(runs, model=EXPERTS, options=[*SP, *ONE_ETP])
        names = {
            f"decoder.layers.{layer}.mlp.experts.local_experts.{expert}.{linear}.weight"
            for layer in (0, 1)
            for expert in range(4)
            for linear in ("linear_fc1", "linear_fc2")
        }
        assert found == Found(main_grads=names, replicas=names)
        reference = runs.trace(1, *EXPERTS)
        candidate = runs.trace(2, *EXPERTS, *SP, *ONE_ETP)
        gradients = errors(reference, candidate, lambda id_: id_.kind is Kind.MAIN_GRAD)
        assert 0.6 < max(gradients.values()) < 1.0
        # What each micro-batch adds is right: the sum over the ranks is missing.
        added = errors(reference, candidate, lambda id_: id_.kind is Kind.PARAM_GRAD)
        assert max(added.values()) < ROUNDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Parameters that a bug shows in.

    Attributes:
        main_grads: Their main gradient is not that of one process.
        replicas: The replicas of their main gradient differ.
    """

    main_grads: set[str]
    replicas: set[str]


def diverged(
    runs: Runs,
    *,
    patch: str | None = None,
    model: Sequence[str] = (),
    options: Sequence[str] = SP,
) -> Found:
    """What is wrong with the main gradients; all activations must be right."""
    reference = runs.trace(1, *model)
    if patch is None:
        candidate = runs.trace(2, *model, *options)
    else:
        candidate = runs.patched(patch, *model, *options)
    outputs = errors(reference, candidate, lambda id_: id_.kind is Kind.OUTPUT)
    assert max(outputs.values()) < ROUNDING
    gradients = errors(reference, candidate, lambda id_: id_.kind is Kind.MAIN_GRAD)
    return Found(
        main_grads={
            f"{id_.module}.{id_.slot}"
            for id_, error in gradients.items()
            if error > 0.01
        },
        replicas={n for n, s in spreads(candidate, Kind.MAIN_GRAD).items() if s > 0},
    )


class TestMistakes:
    """One message, exit status 2."""

    @pytest.mark.parametrize(
        ("world_size", "options", "message"),
        [
            (1, TP, "the number of processes is not divisible"),
            (2, [*TP, "--num-attention-heads", "1"], "--num-attention-heads is not"),
            (2, [*SP, "--seq-length", "31"], "--seq-length is not divisible"),
            (2, [*TP, "--vocab-size", "127"], "--vocab-size (padded by"),
            (2, ["--global-batch-size", "2"], "micro-batch size 2 x data-parallel"),
            (1, EP, "expert parallelism without experts"),
            (1, ["--num-experts", "4"], "experts cannot have biases"),
            (2, [*TP, *EXPERTS], "only with sequence parallelism"),
            (1, ["--recompute-granularity", "full"], "which layers"),
            (1, ["--recompute-modules", "mlp"], "in selective recomputation only"),
            (1, ["--bf16", "--fp16"], "a model has one precision"),
            (1, ["--min-lr", "1"], "the learning rate cannot rise"),
            (1, ["--adam-beta2", "1"], "a decay rate of a mean is below 1"),
            (1, ["--swiglu", "--openai-gelu"], "has one activation function"),
            (2, [*TP, "--ffn-hidden-size", "9"], "--ffn-hidden-size is not divisible"),
            (1, ["--norm-epsilon", "0"], "expected: more than 0"),
            (1, [*ZERO, "--optimizer", "sgd"], "only works with Adam"),
            (1, [*ZERO, "--overlap-param-gather"], "add --use-distributed-optimizer"),
            (2, INSTANCES, "only a distributed optimizer has instances"),
            (2, [*ZERO, *TP, *INSTANCES], "the data parallel ranks cannot be divided"),
            (
                2,
                [*ZERO, *INSTANCES, *EXPERTS, *EP],
                "the expert data parallel ranks cannot be divided among the instances",
            ),
            (1, ["--num-layers", "0"], "--num-layers"),
            (1, ["--patch", "no_such_file.py"], "there is no such patch"),
            (1, ["--patch", str(NO_PATCH)], "defines no function that would be called"),
        ],
    )
    def test_the_option_is_named(self, runs, world_size, options, message):
        outcomes = runs.call(world_size, *options)
        assert [outcome.status for outcome in outcomes] == [2] * world_size
        assert outcomes[0].output.startswith("error: ")
        assert message in outcomes[0].output
        assert all(outcome.output == "" for outcome in outcomes[1:])

    def test_what_megatron_needs_for_instances_is_named(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        args = parse_arguments([*ZERO, *INSTANCES])
        with pytest.raises(UsageError, match="pip install einops, or leave"):
            resolve_arguments(args, world_size=2)

    def test_an_unknown_option_is_explained_by_argparse(self, runs):
        (outcome,) = runs.call(1, "--no-such-option", "2")
        assert outcome.status == 2
        assert "unrecognized arguments" in outcome.output
