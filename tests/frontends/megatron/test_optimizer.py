"""Megatron's optimizers on real megatron-core: distributed, overlapped, in float16.

Every run is judged against one process as ``ttrace check`` does, and its tensors are
put together from the ranges that the ranks own and compared once more without the
comparison engine.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId, parse_tensor_id
from ttrace.ir.trace import ShardRecord
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace
from ttrace.testing.assembled import assemble, errors

pytest.importorskip("megatron.core")

from ttrace.examples.worker_pool import WorkerPools  # noqa: E402

MODULE = "ttrace.examples.megatron_gpt.train"

DENSE = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --global-batch-size 4 --micro-batch-size 1"
)
GPT = f"{DENSE} --train-iters 3 --min-lr 0.001"
EXPERTS = f"{DENSE} --train-iters 2 --num-experts 4 --disable-bias-linear"
BF16 = f"{DENSE} --train-iters 2 --bf16"
FP16 = f"{DENSE} --train-iters 2 --fp16 --initial-loss-scale 1024 --loss-scale-window 1"
# The first overflow halves the scale.
FP16_OVERFLOW = f"{DENSE} --train-iters 2 --fp16 --hysteresis 1 --initial-loss-scale"
DROPOUT = f"{DENSE} --train-iters 1 --hidden-dropout 0.1 --attention-dropout 0.1"

TP = "--tensor-model-parallel-size 2"
SP = f"{TP} --sequence-parallel"
EP = "--expert-model-parallel-size 2 --expert-tensor-parallel-size 1"
ZERO = "--use-distributed-optimizer"
OVERLAP = "--overlap-grad-reduce --ddp-bucket-size 3000"
ZERO_OVERLAP = f"{ZERO} {OVERLAP} --overlap-param-gather"
FULL = "--recompute-granularity full --recompute-num-layers 1 --recompute-method"
SELECTIVE = "--recompute-granularity selective"

ROUNDING = 5e-6
"""Relative error of a correct layout in float32."""

OPTIMIZER_KINDS = ("main_grad", "optimizer_state", "updated_param", "grad_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A candidate and its report.

    Attributes:
        reference: One process.
        trace: The candidate.
        report: What ttrace says of it.
    """

    reference: Trace
    trace: Trace
    report: Report

    def shards(self, text: str) -> tuple[ShardRecord, ...]:
        """What the ranks hold of a tensor."""
        return self.trace.info.tensors[parse_tensor_id(text)].shards


class Runs:
    """Records runs on workers that stay alive, and each reference once."""

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder = folder
        self._pools = pools
        self._numbers = itertools.count()
        self._references: dict[str, tuple[Trace, ToleranceTable]] = {}
        self._checked: dict[tuple[int, str, str], Checked] = {}

    def check(self, world_size: int, model: str, layout: str) -> Checked:
        """Compares a layout of a model with one process."""
        key = (world_size, model, layout)
        if key not in self._checked:
            reference, tolerances = self._reference(model)
            trace = self.record(world_size, f"{model} {layout}")
            report = compare_traces(
                reference, trace, NumpyBackend(), tolerances=tolerances
            )
            self._checked[key] = Checked(
                reference=reference, trace=trace, report=report
            )
        return self._checked[key]

    def record(
        self, world_size: int, options: str, noise_seed: int | None = None
    ) -> Trace:
        """The trace of a run."""
        out = self._folder / f"run-{next(self._numbers)}"
        request = RecordRequest(out=out, noise_seed=noise_seed)
        outcomes = self._pools.of_size(world_size).run(
            MODULE,
            options.split(),
            environment=request.to_environment(),
            timeout_s=120,
        )
        for outcome in outcomes:
            assert outcome.status == 0, f"{outcome.output}{outcome.error}"
        return open_trace(out)

    def _reference(self, model: str) -> tuple[Trace, ToleranceTable]:
        if model not in self._references:
            reference = self.record(1, model)
            perturbed = [self.record(1, model, noise_seed) for noise_seed in (1, 2, 3)]
            self._references[model] = (
                reference,
                estimate_tolerance(reference, perturbed, NumpyBackend()),
            )
        return self._references[model]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pools) -> Runs:
    return Runs(tmp_path_factory.mktemp("traces"), pools)


CASES = {
    "zero1": (2, GPT, ZERO),
    "reduction overlapped": (2, GPT, OVERLAP),
    "zero1 overlapped": (2, GPT, ZERO_OVERLAP),
    "tp2 sp dp2 zero1": (4, GPT, f"{SP} {ZERO}"),
    "experts ep2 zero1": (2, EXPERTS, f"{EP} {ZERO}"),
    "experts ep2 zero1 overlapped": (2, EXPERTS, f"{EP} {ZERO_OVERLAP}"),
    "bf16 zero1": (2, BF16, ZERO),
    "fp16 tp2": (2, FP16, TP),
    "fp16 zero1": (2, FP16, ZERO),
}
"""Number of processes, options of both runs, options of the candidate, by name."""


@pytest.mark.parametrize("name", CASES)
def test_correct_optimizer_passes(runs, name):
    report = runs.check(*CASES[name]).report
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.failed == report.counts.unmatched == 0
    passed = {tensor.kind for tensor in report.tensors if tensor.status == "passed"}
    assert passed >= {*OPTIMIZER_KINDS, "param_grad", "learning_rate"}
    # Of the optimizer's side of a step nothing is left out.
    left_out = [
        tensor.id
        for tensor in report.tensors
        if tensor.kind in OPTIMIZER_KINDS and tensor.status != "passed"
    ]
    assert not left_out


@pytest.mark.parametrize("name", CASES)
def test_the_ranges_of_all_ranks_are_the_tensors_of_one_process(runs, name):
    checked = runs.check(*CASES[name])
    for record in checked.trace.info.tensors.values():
        if record.id.kind in (Kind.MAIN_GRAD, Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM):
            assembled = assemble(checked.trace, record)
            assert assembled.is_covered, record.id
            assert assembled.spread == 0, record.id
            assert all(shard.exact_replicas for shard in record.shards)
    if "16" in name:
        return

    # Adam's first step turns a gradient of 1e-9 into a whole step of either sign.
    def is_plain(id_: TensorId) -> bool:
        return id_.step == 0 and id_.kind in (Kind.MAIN_GRAD, Kind.OPTIMIZER_STATE)

    found = errors(checked.reference, checked.trace, is_plain)
    assert len(found) > 60
    worst = max(found.items(), key=lambda item: item[1])
    assert worst[1] < ROUNDING, f"{worst[0]}: {worst[1]:.1e}"


class TestDistributed:
    """What each rank records where the optimizer's state is cut."""

    @pytest.mark.parametrize("name", ["zero1", "zero1 overlapped"])
    @pytest.mark.parametrize("kind", ["main_grad", "optimizer_state"])
    def test_no_element_is_recorded_twice(self, runs, name, kind):
        trace = runs.check(*CASES[name]).trace
        num_elements = {0: 0, 1: 0}
        for record in trace.info.tensors.values():
            if record.id.kind.value == kind and not record.id.slot.endswith(".step"):
                sizes = [int(np.prod(s.layout.local_shape)) for s in record.shards]
                assert sum(sizes) == int(np.prod(record.global_shape)), record.id
                for shard, size in zip(record.shards, sizes, strict=True):
                    num_elements[shard.rank] += size
        smaller, larger = sorted(num_elements.values())
        assert 0.8 * larger < smaller

    def test_a_parameter_is_cut_where_the_bucket_is(self, runs):
        checked = runs.check(*CASES["zero1"])
        layouts = [
            shard.layout
            for record in checked.trace.info.tensors.values()
            if record.id.kind is Kind.MAIN_GRAD and len(record.shards) == 2
            for shard in record.shards
        ]
        assert layouts, "no parameter of the model crosses the middle of its bucket"
        assert all(
            layout.is_flat or len(layout.global_shape) == 1 for layout in layouts
        )

    def test_gathered_parameters_are_replicas(self, runs):
        checked = runs.check(*CASES["zero1"])
        for step in range(3):
            shards = checked.shards(
                f"step{step}/decoder.layers.0.mlp.linear_fc1/updated_param/weight"
            )
            assert [shard.layout.local_shape for shard in shards] == [(128, 32)] * 2

    def test_parameters_that_the_next_forward_gathers_belong_to_the_step_before(
        self, runs
    ):
        checked = runs.check(*CASES["zero1 overlapped"])
        text = "decoder.layers.0.mlp.linear_fc1/updated_param/weight"
        for step in range(2):
            shards = checked.shards(f"step{step}/{text}")
            assert [shard.layout.local_shape for shard in shards] == [(128, 32)] * 2
        # After the last step nobody gathers them: each rank has what it updated.
        last = checked.shards("step2/" + text)
        assert sum(np.prod(shard.layout.local_shape) for shard in last) == 128 * 32
        assert all(shard.layout.is_flat for shard in last)

    def test_experts_are_cut_over_their_own_ranks(self, runs):
        checked = runs.check(*CASES["experts ep2 zero1"])
        text = "step0/decoder.layers.0.mlp.experts.local_experts.{}.linear_fc1/{}"
        for expert in range(4):
            (shard,) = checked.shards(text.format(expert, "main_grad/weight"))
            assert shard.rank == expert // 2  # edp is 1: each expert has one owner


class TestLossScale:
    def test_the_scale_is_that_of_the_step(self, runs):
        checked = runs.check(*CASES["fp16 zero1"])
        # Megatron doubles it after every step (window 1), and dp2 doubles gradients.
        for step, scale in enumerate((1024.0, 2048.0)):
            module = f"step{step}/decoder.final_layernorm/main_grad/weight"
            assert {shard.scale for shard in checked.shards(module)} == {scale}
            of_batch = f"step{step}/mb0/decoder.final_layernorm/param_grad/weight"
            assert {s.scale for s in checked.shards(of_batch)} == {2 * scale}
            norm = checked.shards(f"step{step}/@root/grad_norm")
            assert {shard.scale for shard in norm} == {1.0}

    def test_main_params_are_kept_in_float32(self, runs):
        for name in ("bf16 zero1", "fp16 tp2"):
            checked = runs.check(*CASES[name])
            module = "step0/decoder.final_layernorm"
            (main, *_) = checked.shards(f"{module}/optimizer_state/weight.main_param")
            (model, *_) = checked.shards(f"{module}/updated_param/weight")
            assert main.dtype == "float32"
            assert model.dtype == name[:4].replace("bf16", "bfloat16").replace(
                "fp16", "float16"
            )

    def test_a_step_that_overflows_updates_nothing(self, runs):
        options = f"{FP16} --initial-loss-scale 16777216 --hysteresis 1"
        trace = runs.record(2, f"{options} {ZERO}")

        def load(text: str) -> np.ndarray:
            record = trace.info.tensors[parse_tensor_id(text)]
            return assemble(trace, record).values

        kinds = {
            step: {id_.kind for id_ in trace.info.tensors if id_.step == step}
            for step in (0, 1)
        }
        assert Kind.GRAD_NORM not in kinds[0]
        module = "embedding.word_embeddings"
        before = load(f"step0/{module}/param/weight")
        np.testing.assert_array_equal(
            load(f"step0/{module}/updated_param/weight"), before
        )
        assert not all(
            np.isfinite(trace.load(shard)).all()
            for id_, record in trace.info.tensors.items()
            if id_.step == 0 and id_.kind is Kind.MAIN_GRAD
            for shard in record.shards
        )
        scales = [
            trace.info.tensors[parse_tensor_id(f"step{step}/{module}/main_grad/weight")]
            .shards[0]
            .scale
            for step in (0, 1)
        ]
        assert scales == [2.0**24, 2.0**23]

    def test_a_step_that_both_runs_skip_is_compared_but_for_its_gradients(self, runs):
        report = runs.check(2, f"{FP16_OVERFLOW} 917504", SP).report
        assert report.verdict is Outcome.PASS, report.summary
        assert report.counts.unmatched == 0
        reason = "step 0 was skipped: gradients overflowed at loss scale 917504"
        passed = {
            step: {
                tensor.kind
                for tensor in report.tensors
                if tensor.id.startswith(step) and tensor.status == "passed"
            }
            for step in ("step0/", "step1/")
        }
        gradients = {
            tensor.kind for tensor in report.tensors if tensor.reason == reason
        }
        assert gradients == {"grad_output", "grad_input", "param_grad", "main_grad"}
        assert not gradients & passed["step0/"]
        assert {"output", "loss", "updated_param"} <= passed["step0/"]
        assert gradients | {"grad_norm", "optimizer_state"} <= passed["step1/"]

    def test_a_step_that_only_the_candidate_skips_is_a_divergence(self, runs):
        """Gradients of dp2 are twice as large: its own scale is the one that is not
        small enough."""
        report = runs.check(2, f"{FP16_OVERFLOW} 458752", "").report
        assert report.verdict is Outcome.DIVERGED, report.summary
        assert report.diagnosis[0].code == "step_skipped"
        assert report.diagnosis[0].sentence.startswith(
            "only in the candidate: step 0 was skipped: gradients overflowed at loss "
            "scale 458752"
        )
        assert report.counts.unmatched == 0
        first = report.first_divergence
        assert first is not None and "values of the candidate are NaN" in first.sentence

    def test_a_step_that_only_the_reference_skips_is_a_divergence(self, runs):
        # The same two runs, each in the place of the other.
        checked = runs.check(2, f"{FP16_OVERFLOW} 458752", "")
        report = compare_traces(checked.trace, checked.reference, NumpyBackend())
        assert report.verdict is Outcome.DIVERGED, report.summary
        first = report.first_divergence
        assert first is not None and first.id == "step0/@root/main_grad"
        assert first.sentence == (
            "step 0: main_grad of @root: only in the reference: step 0 was skipped: "
            "gradients overflowed at loss scale 458752"
        )


def test_learning_rates_change_per_step(runs):
    checked = runs.check(*CASES["zero1"])
    rates = [
        float(
            assemble(
                checked.trace,
                checked.trace.info.tensors[
                    parse_tensor_id(f"step{step}/@root/learning_rate")
                ],
            ).values
        )
        for step in range(3)
    ]
    assert rates == pytest.approx([0.01, 0.007, 0.004])


@pytest.mark.parametrize(
    ("model", "recompute", "modules"),
    [
        (DROPOUT, f"{FULL} uniform", {"decoder.layers.0", "decoder.layers.1"}),
        (DROPOUT, f"{FULL} block", {"decoder.layers.0"}),
        (
            DROPOUT,
            SELECTIVE,
            {f"decoder.layers.{n}.self_attention.core_attention" for n in (0, 1)},
        ),
        (
            DROPOUT,
            f"{SELECTIVE} --recompute-modules layernorm",
            {
                f"decoder.layers.{n}.{norm}"
                for n in (0, 1)
                for norm in ("input_layernorm", "pre_mlp_layernorm")
            },
        ),
        (
            f"{DROPOUT} --disable-bias-linear",
            f"{SELECTIVE} --recompute-modules mlp",
            {f"decoder.layers.{n}.mlp" for n in (0, 1)},
        ),
    ],
    ids=["full", "block", "attention", "layernorm", "mlp"],
)
def test_a_recomputed_forward_repeats_the_first_one(runs, model, recompute, modules):
    checked = runs.check(1, model, recompute)
    assert checked.report.verdict is Outcome.PASS, checked.report.summary
    assert checked.report.counts.unmatched == 0
    # Dropout masks included: the same bits as the reference's only forward.
    found = errors(checked.reference, checked.trace, lambda id_: True)
    assert set(found.values()) == {0.0}
    repeated = {
        id_: record
        for id_, record in checked.trace.info.tensors.items()
        if id_.pass_ is Pass.RECOMPUTE
    }
    assert {id_.module for id_ in repeated} >= modules
    compared = {t.id for t in checked.report.tensors if t.status == "passed"}
    assert {str(id_) for id_ in repeated} <= compared
    for tensor in checked.report.tensors:
        if tensor.id.endswith("/recompute"):
            assert tensor.rel_err == 0, tensor.id
