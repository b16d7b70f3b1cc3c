"""Parallelism that torch brings along: layouts pass, with next to nothing left out."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.paths import ROOT
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.examples.bug_zoo.native_options import MODEL, PP, SUM
from ttrace.examples.bug_zoo.registry import select_bugs
from ttrace.examples.bug_zoo.runner import run_bug
from ttrace.examples.layout_matrix.native_cases import SCRIPT, native_cases
from ttrace.examples.layout_matrix.observer import observe, observed_runs
from ttrace.examples.main_job import Launch, MainJob
from ttrace.examples.torch_native.arguments import MODELS, parse_arguments
from ttrace.report.model import Outcome, Report

CASES = {case.name: case for case in native_cases()}

NORM = "this rank does not hold all gradients whole"
SUMS = "it sums over the samples of a micro-batch; main_grad is compared"
COMPILED = "inside of a region that torch.compile compiles"
STATISTICS = "running statistics of each rank's own micro-batches"


@pytest.fixture(scope="module")
def job(pools) -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=300, pools=pools) as main_job:
        yield main_job


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
        # What the attention's core is called with are plain tensors of some heads.
        ("native-llama/tp2-sp-loss/fp32/8", (NORM,)),
        ("native-llama/tp2-fsdp2/fp32/8", (NORM,)),
        ("native-llama/pp2-tp2-sp/fp32/8", (NORM,)),
        ("native-llama/pp2-1f1b/fp32/8", (NORM,)),
        # The module that fully_shard takes is a wrapper, which has no path of its own.
        ("native-llama/fsdp2-wrapper/fp32/8", (NORM,)),
        # DDP is what is compiled, and the model inside of it.
        ("native-llama/ddp2-compile/fp32/8", (COMPILED,)),
        # The update of one element turns with the sign of its gradient.
        ("native-llama-autocast/tp2-sp/bf16/8", (NORM,)),
        ("native-llama-whole/fsdp2-2x2/fp32/8", (NORM, SUMS)),
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


@pytest.mark.parametrize("layout", [SUM, PP])
def test_a_loss_over_all_labels_of_the_step_is_one_processs(job, layout):
    options = (*MODEL, "--train-iters", "1")  # the bug's reference is the same one
    report = job.check(
        Launch(script=SCRIPT, options=options),
        Launch(script=SCRIPT, options=(*options, *layout), world_size=2),
    )
    assert report.verdict is Outcome.PASS, report.summary


def test_a_bug_is_found_at_its_place(job):
    (exhibit,) = select_bugs(["optimizer_before_sharding"])
    result = run_bug(exhibit, job)
    assert result.as_expected, result.reason
    assert result.diagnosis_right is not False


@pytest.mark.parametrize("layout", ["tp2-sp", "fsdp2-wrapper", "pp2-1f1b"])
def test_tracing_changes_no_bit_and_adds_no_collective(layout, pools, tmp_path):
    reference, candidate = observed_runs([CASES[f"native-llama/{layout}/fp32/8"]])
    assert reference.script == candidate.script == SCRIPT
    result = observe(candidate, pools.of_size(2), tmp_path / "trace")
    assert result.passed, result.reason
    assert result.num_collectives and result.num_checks > 30


SCALED = """
def after_wrap(args, place, models, optimizers):
    for module in models[0].modules():
        if type(module).__name__ == "Core" and place.rank_of("tp") in {ranks}:
            right = module.forward
            module.forward = lambda *given, right=right: right(*given) * 1.1
"""


@pytest.mark.parametrize("ranks", ["(0, 1)", "(1,)"])
@pytest.mark.parametrize("layout", ["--tp 2", "--tp 2 --sp", "--pp 2 --tp 2"])
def test_a_bug_between_styled_modules_is_found_there(job, layout, ranks, tmp_path):
    """In the attention's core, of which no style knows the layout."""
    patch = tmp_path / "scaled.py"
    patch.write_text(SCALED.format(ranks=ranks))
    options = (*MODEL, "--train-iters", "1")
    report = job.check(
        Launch(script=SCRIPT, options=options),
        Launch(
            script=SCRIPT,
            options=(*options, *layout.split()),
            world_size=4 if "--pp" in layout else 2,
            patches=(patch,),
        ),
    )
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/layers.0.attention.core/output/0"


def test_a_bug_of_tensor_parallelism_is_found_inside_of_a_stage(job):
    (exhibit,) = select_bugs(["tp_row_bias_gradient"])
    bug = exhibit.bug
    bug = replace(
        bug,
        layout=(*bug.layout, *PP),
        clean_layout=(*bug.twin_layout, *PP),
        world_size=4,
    )
    result = run_bug(replace(exhibit, bug=bug), job)
    assert result.as_expected, result.reason


def test_there_are_many_cases_of_distinct_names():
    assert len(CASES) == len(native_cases()) >= 60


def test_options_of_the_cases_are_those_of_the_example():
    for case in CASES.values():
        parse_arguments([*case.model, *case.layout])
    models = {parse_arguments(case.model).model for case in CASES.values()}
    assert models == set(MODELS) - {"hf-gpt2-124m"}  # of the benchmark


def test_the_script_says_nothing_of_layouts():
    """A user of ttrace writes the README's lines, and no description."""
    sources = (ROOT / "examples" / "torch_native").glob("*.py")
    text = "\n".join(path.read_text() for path in sources)
    assert "torch_capture.trace(wrapped, *optimizers, averaged=average)" in text
    for word in ("torch_dims_description", "torch_parts", "scales=", "partial["):
        assert word not in text, word
