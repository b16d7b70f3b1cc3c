"""Puts a report together from verdicts and both runs; judges nothing itself."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ttrace.compare.details.tensor_details import TensorDetails
from ttrace.compare.execute import TensorResult
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.module_code import stated_code, without_code
from ttrace.ir.sharded_axes import ShardedAxes
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.coverage import coverage_of, find_gaps
from ttrace.judge.evidence import Evidence
from ttrace.judge.frontier.culprits import find_culprits
from ttrace.judge.outcome import judge_run
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.rules.table import diagnose
from ttrace.judge.tolerances.setup import SettingDifferences, compare_settings
from ttrace.judge.tolerances.tolerance import Tolerance, ToleranceTable
from ttrace.judge.verdicts.replica_axes import AxesApart
from ttrace.judge.verdicts.structure import StructureDifference
from ttrace.judge.verdicts.verdict import Status, TensorVerdict, count_statuses
from ttrace.mapping.left_out import num_activations_left_out
from ttrace.mapping.rules import MapFile
from ttrace.report.model import (
    Counts,
    MapSetup,
    Report,
    RunSetup,
    Setup,
    TensorReport,
)


def build_report(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    *,
    backend: str,
    tolerances: ToleranceTable,
    map_file: MapFile | None = None,
    allow_uncovered: Sequence[str] = (),
    note: str = "",
    only: CaptureFilter | None = None,
    remarks: Sequence[str] = (),
    structure: Sequence[StructureDifference] = (),
    evidence: Evidence,
    details: Mapping[TensorId, TensorDetails] | None = None,
    overwritten: Collection[TensorId] = (),
) -> Report:
    """Sums the verdicts up.

    Args:
        verdicts: One per tensor.
        reference: The trusted run.
        candidate: The run under test.
        backend: Name of what computed the figures.
        tolerances: What the verdicts rest on.
        map_file: The map that matched the tensors, or None.
        allow_uncovered: Kinds of which nothing need be compared.
        note: What else the summary has to say of how the runs were compared.
        only: What was compared of the tensors; None for all.
        remarks: What is odd about the comparison.
        structure: Modules that only one run has, and that change nothing.
        evidence: What was read of both runs to explain failures.
        details: What a closer look at some tensors told; None where there was none.
        overwritten: As for ``compare_traces``.
    """
    details = details or {}
    gaps = find_gaps(
        verdicts, tolerances, reference.info, candidate.info, allow=allow_uncovered
    )
    settings = compare_settings(reference.info, candidate.info)
    judged = judge_run(
        verdicts,
        settings,
        gaps,
        structure,
        candidate=candidate.info,
        evidence=evidence,
    )
    apart = AxesApart(candidate.info)
    return Report(
        verdict=judged.outcome,
        summary=f"{judged.summary} {note}" if note else judged.summary,
        error_kind=judged.error_kind,
        remarks=tuple(remarks),
        only={} if only is None else only.to_json(),
        backend=backend,
        counts=_counts(verdicts),
        coverage={kind.value: counts for kind, counts in coverage_of(verdicts).items()},
        first_divergence=evidence.place.first,
        diagnosis=diagnose(verdicts, candidate.info, evidence),
        structure=tuple(structure),
        tensors=tuple(_tensor_report(v, details.get(v.id), apart) for v in verdicts),
        setup=_setup(verdicts, reference, candidate, settings, map_file),
        culprits=explained(
            find_culprits,
            (),
            verdicts,
            evidence.runs.absences,
            evidence.place.first,
            overwritten,
        ),
        gaps=tuple(gap.sentence for gap in gaps),
    )


def _counts(verdicts: Sequence[TensorVerdict]) -> Counts:
    statuses = count_statuses(verdicts)
    return Counts(
        total=len(verdicts),
        passed=statuses[Status.PASSED],
        failed=statuses[Status.FAILED],
        unmatched=statuses[Status.UNMATCHED],
        skipped=statuses[Status.SKIPPED],
        skipped_reasons=dict(
            Counter(v.reason for v in verdicts if v.status is Status.SKIPPED)
        ),
    )


def _tensor_report(
    verdict: TensorVerdict, details: TensorDetails | None, apart: AxesApart
) -> TensorReport:
    bare = {
        "id": str(verdict.id),
        "kind": verdict.id.kind.value,
        "status": verdict.status.value,
        "reason": verdict.reason,
        "cause": None if verdict.cause is None else verdict.cause.value,
        "part": None if verdict.part is None else verdict.part.value,
        "allowed": verdict.allowed or None,
    }
    if verdict.result is None or verdict.tolerance is None:
        return TensorReport(**bare)
    result, stats = verdict.result, verdict.result.stats
    records = (result.plan.match.reference, result.plan.match.candidate)
    return TensorReport(
        **bare,
        shape=records[0].global_shape,
        dtypes=(records[0].shards[0].dtype, records[1].shards[0].dtype),
        layouts=(_describe_layout(records[0]), _describe_layout(records[1])),
        scales=(records[0].shards[0].scale, records[1].shards[0].scale),
        rel_err=stats.rel_err,
        tolerance=verdict.tolerance.relative_to(stats.reference_norm),
        tolerance_from=verdict.tolerance.estimator.value,
        tolerance_derivation=verdict.tolerance.derivation,
        noise_share=verdict.tolerance.noise_share,
        noise_dominated=verdict.noise_dominated or None,
        margin=verdict.margin,
        failed_part=verdict.failed_part,
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
        details=details,
        replica_spreads=_replica_spreads(result, apart),
        **_multiplier_terms(verdict.tolerance, stats.reference_norm),
    )


def _replica_spreads(result: TensorResult, apart: AxesApart) -> dict[str, float] | None:
    """The largest spread of the candidate's replicas, by the axes they are apart on."""
    spreads: dict[str, float] = {}
    mesh = result.plan.match.candidate.shards[0].layout.mesh
    for replica in result.candidate_replicas:
        over = apart.between(replica, mesh)
        spreads[over] = max(replica.spread, spreads.get(over, 0.0))
    return spreads or None


def _multiplier_terms(tolerance: Tolerance, norm: float) -> dict[str, Any]:
    """What the tolerance is with another multiplier, as far as that makes it."""
    if tolerance.per_multiplier is None or not norm:
        return {}
    return {
        "tolerance_least": tolerance.least / norm,
        "tolerance_per_multiplier": tolerance.per_multiplier / norm,
    }


def _scale_fit(result: TensorResult) -> float | None:
    stats = result.stats
    if stats.reference_norm == 0:
        return None
    return stats.cosine * (stats.candidate_norm / stats.reference_norm)


def _describe_layout(record: TensorRecord) -> str:
    layout = record.shards[0].layout
    is_whole = tuple(layout.local_shape) == tuple(record.global_shape)
    parts = "whole" if is_whole else f"parts of {list(layout.local_shape)}"
    dims = layout.dims or parts
    ranks = f"{len(record.shards)} rank" + ("s" if len(record.shards) > 1 else "")
    return f"{dims} ({ranks})"


def _setup(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    settings: SettingDifferences,
    map_file: MapFile | None,
) -> Setup:
    return Setup(
        reference=run_setup(reference),
        candidate=run_setup(candidate),
        differences=settings.all,
        binding=settings.model,
        tensors=tuple(
            str(verdict.id)
            for verdict in verdicts
            if verdict.setup and verdict.status is Status.FAILED
        ),
        map=None if map_file is None else _map_setup(map_file, reference, candidate),
    )


def _map_setup(
    map_file: MapFile, reference: TraceSource, candidate: TraceSource
) -> MapSetup:
    return MapSetup(
        path=str(map_file.path),
        num_rules=len(map_file.rules),
        num_unverified=map_file.num_unverified,
        num_left_out_reference=num_activations_left_out(reference.info),
        num_left_out_candidate=num_activations_left_out(candidate.info),
    )


def run_setup(trace: TraceSource) -> RunSetup:
    rank_info = trace.info.ranks[0]
    parameters = _parameters(trace.info)
    axes = ShardedAxes(trace.info.ranks)
    return RunSetup(
        path=trace.name,
        framework=rank_info.framework,
        world_size=rank_info.world_size,
        versions=rank_info.versions,
        meshes={mesh.name: dict(mesh.sizes) for mesh in rank_info.meshes},
        settings=without_code(rank_info.settings),
        capture=rank_info.capture,
        num_recorded_ranks=len(trace.info.ranks),
        num_parameters=len(parameters),
        sharded_parameters=dict(
            Counter(axis for record in parameters for axis in axes.of(record))
        ),
        num_idle_ranks=_num_idle(trace.info),
        code=stated_code(rank.settings for rank in trace.info.ranks),
    )


def _num_idle(info: TraceInfo) -> int:
    """Devices that JAX sees, and that hold nothing; processes are there to work."""
    if info.ranks[0].framework != "jax" or not info.tensors:
        return 0
    recorded = {rank.rank for rank in info.ranks}
    return len(recorded - {s.rank for r in info.tensors.values() for s in r.shards})


def _parameters(info: TraceInfo) -> list[TensorRecord]:
    """Every parameter once, where it was recorded first."""
    found: dict[tuple[str, str | None], TensorRecord] = {}
    for kind in (Kind.PARAM, Kind.UPDATED_PARAM):
        for id_, record in info.tensors.items():
            if id_.kind is kind:
                found.setdefault((id_.module, id_.slot), record)
        if found:
            break
    return list(found.values())
