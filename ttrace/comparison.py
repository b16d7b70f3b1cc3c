"""One comparison of two open traces: aligned, compared, judged, reported."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from ttrace.compare.backend import Backend
from ttrace.compare.calls.joined_calls import reorder_calls
from ttrace.compare.changed_results import compare_changed
from ttrace.compare.execute import Progress, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.processes import Processes
from ttrace.compare.second_look import look_again
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.closer_look import CloserLook, look_at_some
from ttrace.judge.coverage import check_kind_names
from ttrace.judge.evidence import read_evidence
from ttrace.judge.judging import judge_tensors
from ttrace.judge.revisions.call_order import calls_in_doubt
from ttrace.judge.runs.remarks import find_remarks
from ttrace.judge.tolerances.same_reference import (
    require_noise_of,
    require_origin,
    require_same_values,
)
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.allowances import Allowed
from ttrace.lining_up import kinds_left_out, line_up
from ttrace.mapping.mapped_trace import joined_from
from ttrace.mapping.rules import MapFile
from ttrace.report.build import build_report
from ttrace.report.model import Report


def compare_traces(
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    tolerances: ToleranceTable | None = None,
    allow: Allowed = (),
    allow_uncovered: Sequence[str] = (),
    strict_structure: bool = False,
    map_file: MapFile | None = None,
    only: CaptureFilter | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    closer_look: CloserLook = CloserLook.FAILED,
    overwritten: Collection[TensorId] = (),
) -> Report:
    """Aligns, compares and judges two traces.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        tolerances: What rounding explains; None judges by dtype and depth, and the
            report says so.
        allow: What may be unmatched.
        allow_uncovered: Kinds of which nothing need be compared.
        strict_structure: As for ``compare``.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        only: What is compared of the tensors, under the reference's names; None for
            all.
        progress: Called as the comparison proceeds.
        processes: Which share the work; None for this one alone.
        closer_look: As for ``compare``.
        overwritten: What of the candidate had the reference's values put in its place,
            once it was recorded: no failure goes on from it.

    Raises:
        CommandError: One of the processes ended, or hangs.
        CorruptTraceError: The bytes of a tensor are not those that were written.
        MapError: The map does not fit the traces.
        UsageError: ``allow_uncovered`` names no kind, ``only`` leaves no tensor, or
            tolerances are of another run.
    """
    check_kind_names(allow_uncovered)
    only = only or CaptureFilter()
    tolerances = tolerances or ToleranceTable()
    recorded = reference
    require_origin(tolerances, recorded.info, name=recorded.name)
    require_noise_of(tolerances, recorded.info, candidate.info, name=candidate.name)
    given = (reference, candidate)
    lined = line_up(reference, candidate, map_file=map_file, only=only)
    alignment, untied = lined.alignment, lined.untied
    reference, candidate = lined.reference, lined.candidate
    if lined.copies:
        noise = dict(tolerances.noise)
        noise |= {
            copy: noise[recorded]
            for copy, recorded in lined.copies.items()
            if recorded in noise
        }
        tolerances = replace(tolerances, noise=noise)
    plan = plan_rows(lined.plan(), reference, candidate)
    results = run_plan(
        plan, reference, candidate, backend, progress=progress, processes=processes
    )
    require_same_values(results, tolerances, recorded.info, name=recorded.name)
    results = look_again(results, reference, candidate, backend)
    reordered = reorder_calls(
        reference,
        candidate,
        calls_in_doubt(alignment, results, tolerances, reference.info, candidate.info),
    )
    if reordered.candidate is not candidate:
        candidate = reordered.candidate
        alignment = lined.aligned(candidate, reordered.set_aside)
        results = compare_changed(
            alignment.matches,
            results,
            reference,
            candidate,
            backend,
            processes=processes,
        )
    remarks = find_remarks(
        alignment, *given, tolerances, allow=allow, is_mapped=map_file is not None
    )
    verdicts, structure = judge_tensors(
        alignment,
        results,
        tolerances,
        reference,
        candidate,
        backend,
        allow=allow,
        strict_structure=strict_structure,
        joined_from=lambda tensor_id: joined_from(lined.named, tensor_id),
        unverified=lined.unverified,
        deduced=lined.known.layouts,
        padded=lined.regrouped.padded,
        assumed_calls=lined.joined.assumed,
    )
    evidence = read_evidence(
        verdicts,
        reference,
        candidate,
        backend,
        recorded=lined.named.info,
        own_microbatches=lined.known.candidate,
        untied=untied,
        matched_calls=lined.joined.places | reordered.places,
    )
    return build_report(
        verdicts,
        reference,
        candidate,
        backend=backend.name,
        tolerances=tolerances,
        map_file=map_file,
        allow_uncovered=(*allow_uncovered, *kinds_left_out(only)),
        note=" ".join(filter(None, (lined.note, reordered.note))),
        only=only,
        remarks=remarks,
        structure=structure,
        evidence=evidence,
        details=look_at_some(
            verdicts, reference, candidate, closer_look, evidence.place.first
        ),
        overwritten=overwritten,
    )
