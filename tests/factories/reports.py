"""A report with one of everything, out of nothing but values."""

import math

from ttrace.judge.diagnosis import Diagnosis
from ttrace.report.model import (
    Counts,
    Culprit,
    FirstDivergence,
    KindCoverage,
    Outcome,
    Report,
    RunSetup,
    Setup,
    TensorReport,
)

PASSED = TensorReport(
    id="step0/mb0/embedding/output/0",
    kind="output",
    status="passed",
    reason="in part: the recorded ranks have 6 of 12 elements in common",
    part="ranks",
    shape=(3, 4),
    dtypes=("float32", "bfloat16"),
    layouts=("whole (1 rank)", "s[cp:zigzag] h (2 ranks)"),
    scales=(1.0, 0.5),
    rel_err=0.001953125,
    tolerance=0.0078125,
    tolerance_from="uncalibrated",
    tolerance_derivation="16 epsilons (0.00781) x sqrt of 1 modules",
    margin=0.25,
    reference_norm=2.5,
    max_abs_err=0.5,
    max_abs_err_at=(2, 1),
    cosine=0.75,
    scale_fit=1.25,
    num_unequal=3,
    num_elements=6,
    nan=(0, 0),
    inf=(0, 0),
    replica_spread=0.125,
    rank_rel_err={"0": 0.0, "1": 0.00390625},
)

FAILED = TensorReport(
    id="step0/decoder.final_layernorm/main_grad/weight",
    kind="main_grad",
    status="failed",
    reason="1 of 4 values of the candidate are NaN or infinite, none of the reference",
    cause="nonfinite_candidate",
    shape=(4,),
    dtypes=("float32", "float32"),
    layouts=("whole (1 rank)", "whole (2 ranks)"),
    scales=(1.0, 1.0),
    rel_err=math.inf,
    tolerance=0.0,
    tolerance_from="perturbed",
    tolerance_derivation="6.2 x the largest of 3 noise runs (0)",
    margin=math.inf,
    reference_norm=0.0,
    max_abs_err=0.0,
    cosine=0.0,
    num_unequal=1,
    num_elements=4,
    nan=(0, 1),
    inf=(0, 0),
    rank_rel_err={"0": math.inf},
)


def a_culprit(**changes) -> Culprit:
    """The place of the tensor that failed."""
    fields = {
        "id": FAILED.id,
        "sentence": "main_grad weight of decoder.final_layernorm (step 0): NaN; the "
        "gradients that backward made of it agree; explains 7 of 9 failed tensors",
        "share": "7 of 9 failed tensors",
        "explains": {"main_grad": 2, "updated_param": 5},
        "ids": (FAILED.id,),
        "num_own": 1,
        "inputs_agree": True,
    }
    return Culprit(**{**fields, **changes})


def some_report(**changes) -> Report:
    """One passed, one failed, one unmatched and one skipped tensor, and a diagnosis."""
    fields = {
        "verdict": Outcome.DIVERGED,
        "summary": "1 of 4 tensors diverge, 1 are unmatched.",
        "backend": "numpy",
        "counts": Counts(
            total=4,
            passed=1,
            failed=1,
            unmatched=1,
            skipped=1,
            skipped_reasons={"candidate: no layout rule": 1},
        ),
        "coverage": {
            "output": KindCoverage(compared=1, skipped=1, unmatched=1, total=3),
            "main_grad": KindCoverage(compared=1, skipped=0, unmatched=0, total=1),
        },
        "first_divergence": FirstDivergence(
            id=FAILED.id,
            module="decoder.final_layernorm",
            kind="main_grad",
            phase="optimizer",
            sentence="step 0: main_grad weight of decoder.final_layernorm: NaN",
        ),
        "diagnosis": (
            Diagnosis(
                code="replicas_differ",
                sentence="replicas of 1 tensor that must agree over tp do not: a "
                "reduction over tp is missing, or runs over the wrong group",
                evidence={"axes": "tp", "largest_spread": math.inf},
                tensor_ids=(FAILED.id,),
            ),
        ),
        "tensors": (
            PASSED,
            FAILED,
            TensorReport(
                id="step0/mb0/decoder.layers.7.mlp/output/0",
                kind="output",
                status="unmatched",
                reason="only in the reference",
            ),
            TensorReport(
                id="step0/mb0/router/output/0",
                kind="output",
                status="skipped",
                reason="candidate: no layout rule",
            ),
        ),
        "setup": Setup(
            reference=_run("reference", 1, {"tp": 1}),
            candidate=_run("candidate", 2, {"tp": 2}, num_recorded_ranks=1),
            differences={"torch": ("2.6.0", "2.7.0"), "tp": (1, 2)},
            binding=(),
            tensors=(),
        ),
    }
    return Report(**{**fields, **changes})


def _run(
    name: str,
    world_size: int,
    mesh: dict[str, int],
    num_recorded_ranks: int | None = None,
) -> RunSetup:
    return RunSetup(
        path=f"out/{name}",
        framework="megatron",
        world_size=world_size,
        versions={"torch": "2.6.0"},
        meshes={"dense": mesh},
        settings={"tp": world_size, "bf16": True, "seed": None},
        capture={"steps": "0"},
        num_recorded_ranks=num_recorded_ranks or world_size,
    )
