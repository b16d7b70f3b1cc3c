"""The observer test itself: what it runs, what it finds, what it prints."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.paths import ROOT
from ttrace.examples.layout_matrix.__main__ import main, observer_row, observer_summary
from ttrace.examples.layout_matrix.cases import all_cases
from ttrace.examples.layout_matrix.huggingface_cases import huggingface_cases
from ttrace.examples.layout_matrix.native_cases import native_cases
from ttrace.examples.layout_matrix.observer import (
    SCRIPT,
    Observation,
    ObservedRun,
    observe,
    observed_runs,
)
from ttrace.examples.worker_pool import WorkerPool
from ttrace.ir.kinds import Kind

TINY = tuple(
    "--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 8 "
    "--vocab-size 32 --global-batch-size 2 --micro-batch-size 1 --train-iters 1".split()
)

RESULT = Observation(
    name="gpt/tp2/fp32/4",
    num_ranks=2,
    num_checks=30,
    num_collectives=472,
    num_tensors=1880,
    seconds=1.26,
)


def test_every_layout_and_every_reference_of_the_matrix_is_run_once():
    cases = all_cases()
    runs = observed_runs(cases)
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    references = {case.model for case in cases}
    assert len(runs) == len(references) + len(cases)
    assert set(names) > {case.name for case in cases}
    assert names.count("gpt/one/fp32/4") == 1
    assert {run.world_size for run in runs if "/one/" in run.name} == {1}


def test_runs_of_other_scripts_are_watched_by_their_optimizers():
    cases = (*all_cases()[:1], *huggingface_cases(), *native_cases())
    runs = observed_runs(cases)
    assert {run.script for run in runs} == {case.script for case in cases}
    for run in runs:
        is_megatron = run.script == SCRIPT
        name = "checksums.py" if is_megatron else "optimizer_checksums.py"
        assert run.checksums.name == name and run.checksums.is_file()
        assert (Kind.GRAD_NORM in run.always_recorded) is is_megatron
        assert {Kind.OUTPUT, Kind.MAIN_GRAD} <= run.always_recorded


def test_steps_are_at_least_two():
    (reference, candidate) = observed_runs(all_cases()[:1])
    assert reference.options[-2:] == candidate.options[-2:] == ("--train-iters", "2")


@pytest.fixture(scope="module")
def pool(pools) -> WorkerPool:
    pytest.importorskip("megatron.core")
    return pools.of_size(1)


def patched(folder: Path, lines: str) -> ObservedRun:
    """A run that computes something else where it is recorded."""
    patch = folder / "disturbance.py"
    patch.write_text(
        "import os, torch\n"
        "def after_wrap(args, config, chunks, optimizer):\n"
        "    if os.environ.get('TTRACE_RECORD'):\n"
        f"        {lines}\n"
    )
    return ObservedRun(name="tiny", options=(*TINY, "--patch", str(patch)))


@pytest.mark.parametrize(
    ("disturbance", "reason"),
    [
        ("pass", ""),
        (
            "next(chunks[0].parameters()).data.view(-1)[0] += 1e-6",
            r"rank 0: 'bits outputs: \w{64} \w{64}' without tracing, "
            r"'bits outputs: \w{64} \w{64}' with it",
        ),
        (
            "optimizer.param_groups[0]['eps'] = 1e-3",
            r"rank 0: 'bits parameters: \w{64}' without tracing, .*",
        ),
        (
            "chunks[0].register_forward_hook("
            "lambda *a: torch.distributed.all_reduce(torch.ones(1)))",
            r"rank 0: 'bits collectives before the optimizer: \d+' without .*",
        ),
        (
            "raise RuntimeError('on purpose')",
            r"(?s)rank 0 failed with tracing: .*on purpose",
        ),
        (
            "os.environ['TTRACE_RECORD'] = ''",
            "nothing was recorded of grad_input, grad_norm, .*, updated_param",
        ),
    ],
)
def test_a_change_is_found_and_said(pool, tmp_path, disturbance, reason):
    result = observe(patched(tmp_path, disturbance), pool, tmp_path / "trace")
    assert re.fullmatch(reason, result.reason), result.reason
    assert result.passed is (not reason)


def test_a_kind_that_is_not_recorded_is_no_pass(pool, tmp_path):
    options = (*TINY, "--clip-grad", "0")  # so that Megatron computes no norm
    run = ObservedRun(name="tiny", options=options)
    result = observe(run, pool, tmp_path / "trace")
    assert result.reason == "nothing was recorded of grad_norm"


def test_row_and_summary():
    assert re.fullmatch(
        r"gpt/tp2/fp32/4 +neutral +2 +30 +472 +1880 +1\.3", observer_row(RESULT)
    ), observer_row(RESULT)
    changed = dataclasses.replace(RESULT, reason="rank 0: ...")
    assert " CHANGES " in observer_row(changed)
    assert observer_summary([RESULT, changed]) == (
        "1 of 2 runs are the same with and without tracing; "
        "60 checksums, counts and losses compared"
    )


def test_nothing_compared_is_no_pass():
    assert not dataclasses.replace(RESULT, num_checks=0).passed


def test_unknown_case_is_a_usage_error(capsys):
    assert main(["--observer", "no/such/case"]) == 2
    assert capsys.readouterr().err == "no case matches no/such/case\n"


def test_make_runs_it():
    makefile = (ROOT / "Makefile").read_text()
    command = "$(BIN)/python -m ttrace.examples.layout_matrix --observer"
    assert f"\nobserver: setup\n\t{command}\n" in makefile
