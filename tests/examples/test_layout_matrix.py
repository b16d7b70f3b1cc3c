"""The matrix of correct layouts: its data, its table, and a small part of it run."""

import dataclasses
import fnmatch
import re

import pytest

from tests.paths import ROOT
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.examples.layout_matrix.__main__ import main, row, summary
from ttrace.examples.layout_matrix.cases import LAYOUTS, MODELS, PRECISIONS, all_cases
from ttrace.examples.layout_matrix.releases import LIMITS, left_out_reason
from ttrace.examples.layout_matrix.runner import CaseResult, run_case
from ttrace.examples.main_job import MainJob

CASES = {case.name: case for case in all_cases()}

RESULT = CaseResult(
    name="gpt/tp2/fp32/4",
    verdict="pass",
    num_compared=476,
    num_skipped=2,
    num_unmatched=0,
    margin=0.51,
    at="step0/mb0/@root/output/0",
    seconds=1.26,
    reason="",
)


def test_there_are_at_least_sixty_cases_of_distinct_names():
    assert len(CASES) == len(all_cases()) >= 60


@pytest.mark.parametrize(
    "model", ["mla*", "gdn*", "dsa*", "sinks*", "padded*", "shared*", "mtp*"]
)
def test_every_variant_is_there_in_several_layouts(model):
    names = fnmatch.filter(CASES, f"{model}/*")
    assert len({name.split("/")[1] for name in names}) >= 3


def test_every_model_layout_and_precision_is_used():
    parts = [name.split("/") for name in CASES]
    assert {part[0] for part in parts} == set(MODELS)
    assert {part[1] for part in parts} == set(LAYOUTS)
    assert {part[2] for part in parts} == set(PRECISIONS)


def test_cases_are_left_out_where_megatron_cannot_run_them(monkeypatch, capsys):
    old = [name for name in CASES if left_out_reason(name, "0.15.3") is None]
    assert not any(left_out_reason(name, "0.16.1") for name in CASES)
    assert len(CASES) > len(old) >= 60
    assert {"moe-aux/tp2-sp-ep2-etp1/fp32/4", "llama/cp2/fp32/4"} <= set(old)
    assert "#2237" in (left_out_reason("moe-aux/cp2-ep2/fp32/4", "0.15.3") or "")
    monkeypatch.setattr("importlib.metadata.version", lambda package: "0.15.3")
    assert main(["mqa/tp2/*"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "no case matches mqa/tp2/*\n"
    assert printed.out.splitlines() == [
        f"left out: mqa/tp2/{precision}/4; megatron-core 0.15.3 refuses fewer key and "
        "value heads than tensor-parallel ranks"
        for precision in ("fp32", "bf16")
    ]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.cases[0])
def test_every_limit_of_a_release_is_of_a_case(limit):
    for pattern in limit.cases:
        assert fnmatch.filter(CASES, pattern), pattern


def test_options_are_those_of_the_example():
    pytest.importorskip("torch")
    from ttrace.examples.megatron_gpt.arguments import (
        parse_arguments,
        resolve_arguments,
    )

    for case in CASES.values():
        args = parse_arguments([*case.model, *case.layout])
        resolve_arguments(args, case.world_size)
        alone = parse_arguments(case.model)
        resolve_arguments(alone, 1)
        shared = set(vars(args)) - {
            option.removeprefix("--").replace("-", "_") for option in case.layout
        }
        derived = {"data_parallel_size", "num_microbatches", "patch"}
        resolved = {
            "expert_tensor_parallel_size",
            "virtual_pipeline_model_parallel_size",
        }
        for name in shared - derived - resolved:
            assert getattr(args, name) == getattr(alone, name), (case.name, name)


@pytest.mark.parametrize(
    "name",
    [
        "gpt/tp2-sp/fp32/4",
        "moe/tp2-sp-ep2-etp1/fp32/4",
        "mla-dup/tp2-sp/fp32/4",
        "gdn-moe/tp2-sp-ep2-etp1/fp32/4",
    ],
)
def test_case_passes(name, job):
    result = run_case(CASES[name], job)
    assert result.passed, result.reason
    assert result.num_compared > 300
    assert result.margin is not None and 0 < result.margin < 1
    assert result.at.startswith("step0/")


def test_failed_run_is_a_row_that_says_so(job):
    case = CASES["gpt/tp2-sp/fp32/4"]
    wrong = dataclasses.replace(case, layout=(*case.layout, "--lr", "-1"))
    result = run_case(wrong, job)
    assert result.verdict == "error" and not result.passed
    assert "an option is out of range" in result.reason


@pytest.fixture(scope="module")
def job(pools):
    pytest.importorskip("megatron.core")
    with MainJob(NumpyBackend(), pools=pools) as main_job:
        yield main_job


def test_unmatched_tensors_are_no_pass():
    assert RESULT.passed
    assert not dataclasses.replace(RESULT, num_unmatched=1).passed
    assert not dataclasses.replace(RESULT, verdict="diverged").passed


def test_row_and_summary():
    assert re.fullmatch(
        r"gpt/tp2/fp32/4 +pass +476 +2 +0 +0\.510 +1\.3", row(RESULT)
    ), row(RESULT)
    other = dataclasses.replace(RESULT, verdict="diverged", margin=2.5, at="x")
    none = dataclasses.replace(RESULT, verdict="error", margin=None)
    assert summary([RESULT, other, none]) == (
        "1 of 3 layouts pass; largest margin 2.500 (gpt/tp2/fp32/4, x)"
    )
    assert " - " in row(none)


def test_cases_whose_package_is_missing_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert main(["hf-bert/*", "accelerate-gpt2/ddp/*"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "left out: accelerate-gpt2/ddp/fp32/8; accelerate is not installed",
        "left out: hf-bert/ddp2/fp32/8; transformers is not installed",
        "left out: hf-bert/fsdp2/fp32/8; transformers is not installed",
    ]


def test_unknown_case_is_a_usage_error(capsys):
    assert main(["no/such/case"]) == 2
    assert capsys.readouterr().err == "no case matches no/such/case\n"


def test_make_runs_it():
    makefile = (ROOT / "Makefile").read_text()
    assert "\nmatrix: setup\n\t$(BIN)/python -m ttrace.examples.layout_matrix\n" in (
        makefile
    )
