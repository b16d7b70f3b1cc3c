"""One comparison of two open traces: aligned, compared, judged, reported."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ttrace.compare.align import Alignment, align
from ttrace.compare.backend import Backend
from ttrace.compare.changed_results import compare_changed
from ttrace.compare.deduced_layouts import deduce_layouts
from ttrace.compare.execute import Progress, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.joined_calls import join_calls, reorder_calls
from ttrace.compare.own_buffers import agreeing_buffers
from ttrace.compare.plan import plan_comparison
from ttrace.compare.processes import Processes
from ttrace.compare.regroup import regroup
from ttrace.compare.second_look import look_again
from ttrace.compare.tied import untie
from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter, format_indices
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.allowances import Allowed
from ttrace.judge.call_order import calls_in_doubt
from ttrace.judge.closer_look import CloserLook, look_at_some
from ttrace.judge.coverage import check_kind_names
from ttrace.judge.evidence import read_evidence
from ttrace.judge.judging import judge_tensors
from ttrace.judge.remarks import find_remarks
from ttrace.judge.same_reference import (
    require_noise_of,
    require_origin,
    require_same_values,
)
from ttrace.judge.tolerance import ToleranceTable
from ttrace.mapping.apply import apply_map
from ttrace.mapping.mapped_trace import joined_from
from ttrace.mapping.one_sided import with_reasons
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
    one_sided: Mapping[TensorId, str] = {}
    unverified: Collection[TensorId] = ()
    given = (reference, candidate)
    if map_file is not None:
        mapped = apply_map(map_file, reference, candidate)
        reference, candidate = mapped.reference, mapped.candidate
        one_sided, unverified = mapped.one_sided, mapped.unverified
    named = candidate
    reference, aside = agreeing_buffers(reference, Side.REFERENCE)
    candidate, aside_too = agreeing_buffers(candidate, Side.CANDIDATE)
    untied = untie(reference, candidate)
    if untied.copies:
        noise = dict(tolerances.noise)
        noise |= {
            copy: noise[recorded]
            for copy, recorded in untied.copies.items()
            if recorded in noise
        }
        tolerances = replace(tolerances, noise=noise)
    known = deduce_layouts(untied.reference, untied.candidate)
    regrouped = regroup(known.reference, known.candidate)
    joined = join_calls(regrouped.reference, regrouped.candidate)
    reference, candidate = regrouped.reference, joined.candidate
    set_aside = {
        **aside,
        **aside_too,
        **untied.set_aside,
        **regrouped.set_aside,
        **joined.set_aside,
        **known.set_aside,
    }

    def aligned(
        candidate: TraceSource, more_aside: Mapping[TensorId, str]
    ) -> Alignment:
        found = align(
            reference.info,
            candidate.info,
            set_aside={**set_aside, **more_aside},
            given_otherwise=regrouped.given_otherwise,
        )
        return _restricted(with_reasons(found, one_sided), only)

    alignment = aligned(candidate, {})
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
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
        alignment = aligned(candidate, reordered.set_aside)
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
        joined_from=lambda tensor_id: joined_from(named, tensor_id),
        unverified=unverified,
        deduced=known.layouts,
        padded=regrouped.padded,
        assumed_calls=joined.assumed,
    )
    evidence = read_evidence(
        verdicts,
        reference,
        candidate,
        backend,
        recorded=named.info,
        own_microbatches=known.candidate,
        untied=untied,
        matched_calls=joined.places | reordered.places,
    )
    notes = (untied.note, regrouped.note, joined.note, reordered.note)
    return build_report(
        verdicts,
        reference,
        candidate,
        backend=backend.name,
        tolerances=tolerances,
        map_file=map_file,
        allow_uncovered=(*allow_uncovered, *_kinds_left_out(only)),
        note=" ".join(filter(None, notes)),
        only=only,
        remarks=remarks,
        structure=structure,
        evidence=evidence,
        details=look_at_some(
            verdicts, reference, candidate, closer_look, evidence.place.first
        ),
    )


def _restricted(alignment: Alignment, only: CaptureFilter) -> Alignment:
    """The entries that a filter lets through.

    Raises:
        UsageError: There are some, and it lets none through.
    """
    if only == CaptureFilter():
        return alignment
    left_out = _kinds_left_out(only)
    entries = tuple(
        entry
        for entry in alignment.entries
        if only.wants_step(entry.id.step)
        and only.wants_module(entry.id.module)
        and entry.id.kind not in left_out
    )
    if alignment.entries and not entries:
        ids = [entry.id for entry in alignment.entries]
        steps = format_indices(frozenset(id_.step for id_ in ids))
        kinds = [kind for kind in Kind if kind in {id_.kind for id_ in ids}]
        raise UsageError(
            "the filters leave nothing to compare",
            where=", ".join(
                f"--{name} {text}" for name, text in only.to_json().items()
            ),
            got=f"tensors of steps {steps}, of kinds {', '.join(kinds)}, of "
            f"{len({id_.module for id_ in ids})} modules",
            remedy="correct the filters; 'ttrace show TRACE' lists what there is",
        )
    return replace(alignment, entries=entries)


def _kinds_left_out(only: CaptureFilter) -> frozenset[Kind]:
    return frozenset() if only.kinds is None else frozenset(Kind) - only.kinds
