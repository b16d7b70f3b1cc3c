"""Reports of every kind for the suite for renderers, out of nothing but values."""

import math
from dataclasses import replace

from ttrace.judge.diagnosis import Diagnosis
from ttrace.report.model import (
    Counts,
    FirstDivergence,
    MapSetup,
    Outcome,
    Report,
    RunSetup,
    Setup,
    TensorReport,
)

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img/src=x/onerror=alert(1)>',
    "quotes": "'\"`${x}`\"'",
    "entity": "&lt;b&gt;&amp;",
    "cdata": "]]><x/>",
    "rich markup": "[bold]x[/bold][link=x]",
    "closing markup": "[/]",
    "markdown": "|**x**|_y_|`z`|",
    "template": "{{7*7}}{%x%}%s{0}",
    "backslash": "C:\\new\\table\\",
    "unicode": "Gruß-層-🙂",
}
"""Names that some format would take for its own syntax; each must be read as it is."""

CONTROLS = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;title\x07",
    "bell": "a\x07b",
    "backspaces": "bad\x08\x08\x08ok",
    "null": "a\x00b",
    "8-bit control": "a\x9b31mb",
    "right to left": "a\u202eb",
}
"""Names with characters that a terminal or a browser obeys instead of showing them."""

LONG = "layers." + "x" * 10_000
"""A module path of 10 000 characters."""


def failed_tensor(id_: str) -> TensorReport:
    """A failed tensor with all its figures."""
    return TensorReport(
        id=id_,
        kind="output",
        status="failed",
        reason="margin 4",
        shape=(3, 4),
        dtypes=("float32", "bfloat16"),
        layouts=("whole (1 rank)", "s[tp] h (2 ranks)"),
        scales=(1.0, 0.5),
        rel_err=0.5,
        tolerance=0.125,
        tolerance_from="perturbed",
        tolerance_derivation="4 x the largest of 3 noise runs",
        margin=4.0,
        reference_norm=2.5,
        max_abs_err=0.5,
        max_abs_err_at=(2, 1),
        cosine=0.75,
        scale_fit=1.25,
        num_unequal=3,
        num_elements=12,
        nan=(0, 0),
        inf=(0, 0),
        replica_spread=0.25,
        rank_rel_err={"0": 0.0, "1": 0.5},
    )


def diverged_report(
    name: str = "decoder.layers.3.mlp", reason: str = "no layout rule"
) -> Report:
    """A report in which a name stands wherever one of the user's can stand.

    Args:
        name: Of modules, settings, files and versions.
        reason: Of skipped and unmatched tensors.
    """
    failed = failed_tensor(f"step0/mb0/{name}/output/0")
    sentence = f"step 0: output 0 of {name} differs by 0.5, 4 times its tolerance"
    return Report(
        verdict=Outcome.DIVERGED,
        summary=f"1217 of 4801 tensors diverge, first in {name}.",
        backend="numpy",
        counts=Counts(
            total=4801,
            passed=3210,
            failed=1217,
            unmatched=311,
            skipped=63,
            skipped_reasons={reason: 63},
        ),
        first_divergence=FirstDivergence(
            id=failed.id, module=name, kind="output", phase="forward", sentence=sentence
        ),
        diagnosis=(
            Diagnosis(
                code="replicas_differ",
                sentence=f"replicas of {name} differ over tp: a reduction is missing",
                evidence={"axes": name, "largest_spread": 0.25},
                tensor_ids=(failed.id,),
            ),
        ),
        tensors=(
            replace(failed, id=f"step0/mb0/{name}/input/0", status="passed"),
            failed,
            TensorReport(
                id=f"step0/{name}/main_grad/weight",
                kind="main_grad",
                status="unmatched",
                reason=f"only in the reference: {reason}",
            ),
            TensorReport(
                id=f"step0/mb0/{name}/grad_output/0",
                kind="grad_output",
                status="skipped",
                reason=reason,
            ),
        ),
        setup=Setup(
            reference=_run(name, 1),
            candidate=_run(name, 2),
            differences={name: (name, 2)},
            binding=(name,),
            tensors=(f"step0/{name}/param/weight",),
            map=MapSetup(path=f"{name}.toml", num_rules=7, num_unverified=2),
        ),
    )


def passing_report() -> Report:
    """Everything agrees, all of it compared."""
    passed = replace(
        failed_tensor("step0/mb0/head/output/0"), status="passed", reason="", margin=0.5
    )
    return replace(
        diverged_report(),
        verdict=Outcome.PASS,
        summary="All 1 tensors agree.",
        counts=Counts(
            total=1, passed=1, failed=0, unmatched=0, skipped=0, skipped_reasons={}
        ),
        first_divergence=None,
        diagnosis=(),
        tensors=(passed,),
        setup=_plain_setup(),
    )


def error_report() -> Report:
    """The runs were not set up alike."""
    report = diverged_report()
    return replace(
        report,
        verdict=Outcome.ERROR,
        summary="The runs were not set up alike: seq_length 16 and 32.",
        diagnosis=(),
        setup=replace(report.setup, differences={"seq_length": (16, 32)}),
    )


def empty_report() -> Report:
    """Nothing was compared, as there was nothing."""
    return replace(
        passing_report(),
        verdict=Outcome.ERROR,
        summary="Nothing was compared.",
        counts=Counts(
            total=0, passed=0, failed=0, unmatched=0, skipped=0, skipped_reasons={}
        ),
        tensors=(),
    )


def nonfinite_report() -> Report:
    """Figures that are NaN or infinite, and such as are missing."""
    report = diverged_report()
    failed = replace(
        report.tensors[1],
        rel_err=math.nan,
        tolerance=0.0,
        margin=math.inf,
        reference_norm=math.inf,
        max_abs_err=math.inf,
        max_abs_err_at=None,
        cosine=-math.inf,
        scale_fit=math.nan,
        nan=(0, 12),
        inf=(3, 0),
        replica_spread=math.nan,
        rank_rel_err={"0": math.nan, "1": math.inf},
    )
    bare = TensorReport(id=failed.id, kind="output", status="failed", reason="NaN")
    diagnosis = replace(report.diagnosis[0], evidence={"spread": math.nan})
    return replace(report, tensors=(failed, bare), diagnosis=(diagnosis,))


def reports() -> dict[str, Report]:
    """One report of every kind, by name."""
    return {
        "pass": passing_report(),
        "diverged": diverged_report(),
        "error": error_report(),
        "empty": empty_report(),
        "nonfinite": nonfinite_report(),
        "long names": diverged_report(name=LONG),
        "many tensors": replace(
            diverged_report(),
            tensors=tuple(failed_tensor(f"step0/m{i}/output/0") for i in range(5000)),
        ),
        **{f"hostile {name}": diverged_report(text) for name, text in HOSTILE.items()},
        **{f"control {name}": diverged_report(text) for name, text in CONTROLS.items()},
    }


def _plain_setup() -> Setup:
    return Setup(
        reference=_run("reference", 1),
        candidate=_run("candidate", 1),
        differences={},
        binding=(),
        tensors=(),
    )


def _run(name: str, world_size: int) -> RunSetup:
    return RunSetup(
        path=f"out/{name}",
        framework="torch",
        world_size=world_size,
        versions={"torch": name},
        meshes={name: {"tp": world_size}},
        settings={name: name, "bf16": True, "seed": None, "scale": math.inf},
        capture={"modules": name},
    )
