"""Turns verdicts into a report: totals, first divergence, set-up, sentences."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ttrace.compare.align import differing_settings, model_setting_differences
from ttrace.compare.execute import TensorResult
from ttrace.ir.tensor_id import Kind, Pass
from ttrace.ir.trace import TensorRecord
from ttrace.judge.diagnosis import diagnose
from ttrace.judge.verdict import Cause, Status, TensorVerdict, count_statuses
from ttrace.mapping.left_out import num_activations_left_out
from ttrace.mapping.rules import MapFile
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
from ttrace.store.reader import Trace

_PHASES = {
    Kind.INPUT: "forward",
    Kind.OUTPUT: "forward",
    Kind.LOSS: "forward",
    Kind.GRAD_OUTPUT: "backward",
    Kind.GRAD_INPUT: "backward",
    Kind.PARAM_GRAD: "backward",
    Kind.OP: "any",
    Kind.COLLECTIVE: "any",
}
"""Phase of a step by kind; the optimizer's for all others."""


def build_report(
    verdicts: Sequence[TensorVerdict],
    reference: Trace,
    candidate: Trace,
    *,
    backend: str,
    map_file: MapFile | None = None,
) -> Report:
    """Sums the verdicts up.

    Args:
        verdicts: One per tensor.
        reference: The trusted run.
        candidate: The run under test.
        backend: Name of what computed the figures.
        map_file: The map that lined the tensors up, or None.
    """
    statuses = count_statuses(verdicts)
    counts = Counts(
        total=len(verdicts),
        passed=statuses[Status.PASSED],
        failed=statuses[Status.FAILED],
        unmatched=statuses[Status.UNMATCHED],
        skipped=statuses[Status.SKIPPED],
        skipped_reasons=dict(
            Counter(v.reason for v in verdicts if v.status is Status.SKIPPED)
        ),
    )
    first = _first_divergence(verdicts)
    setup = _setup(verdicts, reference, candidate, map_file)
    outcome = _outcome(verdicts, counts, setup)
    return Report(
        verdict=outcome,
        summary=_summary(outcome, verdicts, counts, first, setup),
        backend=backend,
        counts=counts,
        first_divergence=first,
        diagnosis=diagnose(verdicts, candidate.info),
        tensors=tuple(map(_tensor_report, verdicts)),
        setup=setup,
    )


def _outcome(
    verdicts: Sequence[TensorVerdict], counts: Counts, setup: Setup
) -> Outcome:
    untrusted = any(v.cause is Cause.NONFINITE_REFERENCE for v in verdicts)
    nothing_compared = not counts.passed + counts.failed
    if untrusted or nothing_compared or setup.tensors or setup.binding:
        return Outcome.ERROR
    return Outcome.DIVERGED if counts.failed + counts.unmatched else Outcome.PASS


def _first_divergence(verdicts: Sequence[TensorVerdict]) -> FirstDivergence | None:
    """The first failed tensor; the first unmatched one where none failed."""
    for status in (Status.FAILED, Status.UNMATCHED):
        for verdict in verdicts:
            if verdict.status is status:
                return _divergence(verdict)
    return None


def _divergence(verdict: TensorVerdict) -> FirstDivergence:
    tensor_id = verdict.id
    place = f"step {tensor_id.step}"
    if tensor_id.microbatch is not None:
        place += f", micro-batch {tensor_id.microbatch}"
    what = tensor_id.kind.value
    if tensor_id.slot is not None:
        what += f" {tensor_id.slot}"
    if tensor_id.call:
        what += f" (call {tensor_id.call})"
    if tensor_id.pass_ is Pass.RECOMPUTE:
        what += " (recomputed)"
    if verdict.setup:
        phase = "set-up"
    elif tensor_id.pass_ is Pass.RECOMPUTE:
        phase = "backward"
    else:
        phase = _PHASES.get(tensor_id.kind, "optimizer")
    return FirstDivergence(
        id=str(tensor_id),
        module=tensor_id.module,
        kind=tensor_id.kind.value,
        phase=phase,
        sentence=f"{place}: {what} of {tensor_id.module}: {verdict.reason}",
    )


def _summary(
    outcome: Outcome,
    verdicts: Sequence[TensorVerdict],
    counts: Counts,
    first: FirstDivergence | None,
    setup: Setup,
) -> str:
    if outcome is Outcome.PASS:
        return f"All {counts.passed} compared tensors agree within their tolerance."
    if not counts.passed + counts.failed:
        return (
            f"Nothing could be compared: of {counts.total} tensors in the two traces, "
            f"{counts.unmatched} are unmatched and {counts.skipped} skipped. Check "
            "that both were recorded from the same model, with filters that overlap."
        )
    if setup.binding:
        pairs = (
            f"{name} is {setup.differences[name][0]} in the reference and "
            f"{setup.differences[name][1]} in the candidate"
            for name in setup.binding
        )
        return (
            f"Set-up differs: {', '.join(pairs)}. This changes the mathematics; make "
            "it equal in both runs. What follows may be a consequence."
        )
    assert first is not None
    if outcome is Outcome.DIVERGED:
        bad = ((counts.failed, "diverge"), (counts.unmatched, "unmatched"))
        numbers = ", ".join(f"{number} {word}" for number, word in bad if number)
        return f"Of {counts.total} tensors: {numbers}. First: {first.sentence}."
    for verdict in verdicts:
        if verdict.cause is Cause.NONFINITE_REFERENCE:
            return (
                f"The reference cannot be trusted. {verdict.id}: {verdict.reason}. "
                "Repair the reference run first."
            )
    given = next(v for v in verdicts if v.setup and v.status is Status.FAILED)
    return (
        "Set-up differs: the two runs were not given the same. First: "
        f"{given.id}: {given.reason}. Start both from the same parameters and data; "
        "what follows may be a consequence."
    )


def _tensor_report(verdict: TensorVerdict) -> TensorReport:
    bare = TensorReport(
        id=str(verdict.id),
        kind=verdict.id.kind.value,
        status=verdict.status.value,
        reason=verdict.reason,
    )
    if verdict.result is None or verdict.tolerance is None:
        return bare
    result, stats = verdict.result, verdict.result.stats
    records = (result.plan.match.reference, result.plan.match.candidate)
    return replace(
        bare,
        shape=records[0].global_shape,
        dtypes=(records[0].shards[0].dtype, records[1].shards[0].dtype),
        layouts=(_describe_layout(records[0]), _describe_layout(records[1])),
        scales=(records[0].shards[0].scale, records[1].shards[0].scale),
        rel_err=stats.rel_err,
        tolerance=verdict.tolerance.relative_to(stats.reference_norm),
        tolerance_from=verdict.tolerance.estimator.value,
        tolerance_derivation=verdict.tolerance.derivation,
        margin=verdict.margin,
        reference_norm=stats.reference_norm,
        max_abs_err=stats.max_abs_diff,
        max_abs_err_at=result.max_abs_diff_at,
        cosine=stats.cosine,
        scale_fit=_scale_fit(result),
        num_unequal=stats.num_unequal,
        num_elements=stats.count,
        nan=(stats.num_nan_reference, stats.num_nan_candidate),
        inf=(stats.num_inf_reference, stats.num_inf_candidate),
        replica_spread=max(
            (replica.spread for replica in result.candidate_replicas), default=None
        ),
        rank_rel_err={
            str(rank): part.rel_err for rank, part in sorted(result.rank_stats.items())
        },
    )


def _scale_fit(result: TensorResult) -> float | None:
    stats = result.stats
    if stats.reference_norm == 0:
        return None
    return stats.cosine * (stats.candidate_norm / stats.reference_norm)


def _describe_layout(record: TensorRecord) -> str:
    layout = record.shards[0].layout
    dims = layout.dims or " ".join(map(str, layout.local_shape)) or "scalar"
    ranks = f"{len(record.shards)} rank" + ("s" if len(record.shards) > 1 else "")
    return f"{dims} ({ranks})"


def _setup(
    verdicts: Sequence[TensorVerdict],
    reference: Trace,
    candidate: Trace,
    map_file: MapFile | None,
) -> Setup:
    sides = tuple(map(_run_setup, (reference, candidate)))
    differences = differing_settings(sides[0].versions, sides[1].versions)
    differences |= differing_settings(sides[0].settings, sides[1].settings)
    return Setup(
        reference=sides[0],
        candidate=sides[1],
        differences=differences,
        binding=tuple(model_setting_differences(sides[0].settings, sides[1].settings)),
        tensors=tuple(
            str(verdict.id)
            for verdict in verdicts
            if verdict.setup and verdict.status is Status.FAILED
        ),
        map=None if map_file is None else _map_setup(map_file, reference, candidate),
    )


def _map_setup(map_file: MapFile, reference: Trace, candidate: Trace) -> MapSetup:
    return MapSetup(
        path=str(map_file.path),
        num_rules=len(map_file.rules),
        num_unverified=map_file.num_unverified,
        num_left_out_reference=num_activations_left_out(reference.info),
        num_left_out_candidate=num_activations_left_out(candidate.info),
    )


def _run_setup(trace: Trace) -> RunSetup:
    rank_info = trace.info.ranks[0]
    return RunSetup(
        path=str(trace.path),
        framework=rank_info.framework,
        world_size=rank_info.world_size,
        versions=rank_info.versions,
        meshes={mesh.name: dict(mesh.sizes) for mesh in rank_info.meshes},
        settings=rank_info.settings,
        capture=rank_info.capture,
    )
