"""Isolation: the candidate once more, every module given what the reference's was.

An error that is not handed on shows only where it is made. How the candidate is run,
the caller knows.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress
from ttrace.comparison import compare_traces
from ttrace.errors import TtraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind, Phase, kinds_of_phases
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId, parse_tensor_id
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.places import isolated_places
from ttrace.isolation.repeats import begins_otherwise
from ttrace.isolation.rewrites import Rewrites, plan_rewrites, write_rewrites
from ttrace.judge.closer_look import CloserLook
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.allowances import Allowed
from ttrace.lining_up import line_up
from ttrace.mapping.rules import MapFile
from ttrace.recording.rewrites import (
    REWRITING_FRAMEWORKS,
    REWRITTEN_KINDS,
    rewritten_by,
)
from ttrace.report.isolation import Isolation
from ttrace.report.model import ErrorKind, Outcome, Report

Rerun = Callable[[Path, CaptureFilter], TraceSource]
"""Runs the candidate with the values of a trace, recording what a filter lets through.

Raises TtraceError where it fails."""

_HANDED_ON = kinds_of_phases(Phase.FORWARD, Phase.BACKWARD)
"""Kinds in which one failure makes others."""

_MAX_SUSPECTS = 8

COLLECTIVE_CODES = frozenset(
    {
        "collective_group",
        "collective_missing",
        "collective_repeated",
        "collective_result",
    }
)
"""Codes of what is said of collectives that a module runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationRequest:
    """What is isolated.

    Attributes:
        reference: The trusted run.
        candidate: The run under test, as it was recorded.
        rerun: Runs it once more.
        folder: For the values that are put in; removed at the end.
        tolerances: As for ``compare_traces``.
        map_file: Likewise.
        allow: Likewise.
        strict_structure: Likewise.
        suspects: Modules whose collectives the run records.
    """

    reference: TraceSource
    candidate: TraceSource
    rerun: Rerun
    folder: Path
    tolerances: ToleranceTable = field(default_factory=ToleranceTable)
    map_file: MapFile | None = None
    allow: Allowed = ()
    strict_structure: bool = False
    suspects: tuple[str, ...] = ()


def isolate(
    request: IsolationRequest,
    backend: Backend,
    *,
    step: int,
    progress: Progress | None = None,
) -> Isolation:
    """Runs the candidate once more on the reference's values, and says what is wrong.

    Args:
        request: What to isolate.
        backend: Computes the statistics.
        step: The step in which values are put in; those before it must agree.
        progress: Called as the comparison proceeds.

    Returns:
        What it showed; where it could not be run, or its run failed, why.
    """
    obstacle = runs_obstacle(request.reference.info, request.candidate.info)
    if obstacle:
        return Isolation(obstacle=obstacle)
    try:
        return _isolated(request, backend, step, progress)
    except TtraceError as error:
        where = "" if error.where is None else f" ({error.where})"
        return Isolation(
            step=step,
            obstacle=f"the candidate was to run once more on the reference's values: "
            f"{error.what}{where}; to do: {error.remedy}",
        )
    finally:
        shutil.rmtree(request.folder, ignore_errors=True)


def report_obstacle(report: Report) -> str | None:
    """Why a candidate is not run once more after a comparison; empty if it may be.

    None where there is nothing to say of it at all.
    """
    if report.verdict is Outcome.ERROR and report.error_kind is ErrorKind.SETUP:
        return (
            "the runs were not given the same, and the reference's values would hide "
            "what follows from that: mend the set-up first"
        )
    if report.verdict is not Outcome.DIVERGED or not report.failed():
        return None
    step = first_failed_step(report)
    in_step = [t for t in report.tensors if parse_tensor_id(t.id).step == step]
    handed_on = [t for t in in_step if Kind(t.kind) in _HANDED_ON]
    if any(tensor.status == "failed" for tensor in handed_on):
        return ""
    if any(tensor.status == "unmatched" for tensor in handed_on):
        return (
            f"of forward and backward nothing fails in step {step}, but for what only "
            "one run has: make both run the same modules first"
        )
    if not any(tensor.status == "passed" for tensor in handed_on):
        return (
            f"nothing of forward and backward was compared in step {step}, where the "
            "first failure is: record inputs, outputs and their gradients, too"
        )
    return (
        f"forward and backward agree in step {step}, where the first failure is, so no "
        "module hands an error on to others, and running the candidate on the "
        "reference's values would show the same"
    )


def suspects_of(report: Report) -> tuple[str, ...]:
    """Modules whose collectives may be what is wrong, the first ones of a comparison.

    The model itself is none: all collectives of a run would be inside of it.
    """
    modules = [parse_tensor_id(culprit.id).module for culprit in report.culprits]
    if report.first_divergence is not None:
        modules.insert(0, report.first_divergence.module)
    named = [module for module in dict.fromkeys(modules) if module != ROOT_MODULE]
    return tuple(named[:_MAX_SUSPECTS])


def first_failed_step(report: Report) -> int:
    """The step in which a comparison finds the first failure; 0 where it finds none."""
    steps = [parse_tensor_id(tensor.id).step for tensor in report.failed()]
    return min(steps, default=0)


def runs_obstacle(reference: TraceInfo, candidate: TraceInfo) -> str:
    """Why a candidate cannot run on the reference's values; empty if it can."""
    first = candidate.ranks[0]
    if first.framework not in REWRITING_FRAMEWORKS:
        names = ", ".join(sorted(REWRITING_FRAMEWORKS))
        return (
            f"the candidate was recorded by the frontend {first.framework}, and only "
            f"those of {names} can put the reference's values in"
        )
    if len(candidate.ranks) < first.world_size:
        return (
            "only some ranks of the candidate were recorded, and the others would go "
            "on with their own values: record all ranks"
        )
    for side, info in (("reference", reference), ("candidate", candidate)):
        if not any(id_.kind in REWRITTEN_KINDS for id_ in info.tensors):
            return (
                f"no input and no output gradient of a module of the {side} was "
                "recorded: record these kinds, too"
            )
    return ""


def _isolated(
    request: IsolationRequest, backend: Backend, step: int, progress: Progress | None
) -> Isolation:
    reference, candidate = request.reference, request.candidate
    lined = line_up(reference, candidate, map_file=request.map_file)
    plan = plan_rewrites(lined, step)
    shutil.rmtree(request.folder, ignore_errors=True)
    rewrites = write_rewrites(plan, lined, candidate, request.folder)
    if not rewrites.shards:
        reasons = "; ".join(rewrites.left_out) or f"step {step} has none in both runs"
        return Isolation(
            left_out=rewrites.left_out,
            obstacle="no value of the reference can take the place of one of the "
            f"candidate's: {reasons}",
        )
    capture = CaptureFilter.from_json(dict(candidate.info.ranks[0].capture))
    steps = frozenset(range(step + 1))
    if capture.steps is not None:
        steps &= capture.steps
    is_alone = candidate.info.ranks[0].world_size == 1
    suspects = () if is_alone else request.suspects
    capture = replace(capture, steps=steps, collectives=suspects)
    again = request.rerun(rewrites.folder, capture)
    overwritten, left_out = _overwritten(rewrites, again.info)
    report = compare_traces(
        reference,
        again,
        backend,
        tolerances=request.tolerances,
        map_file=request.map_file,
        allow=request.allow,
        strict_structure=request.strict_structure,
        only=CaptureFilter(steps=steps, collectives=suspects),
        progress=progress,
        closer_look=CloserLook.NONE,
        overwritten=overwritten,
    )
    notes = [
        begins_otherwise(candidate, again, step),
        _forward_note(overwritten, again),
    ]
    notes += [
        f"in that run, {finding.sentence}"
        for finding in report.diagnosis
        if finding.code in COLLECTIVE_CODES
    ]
    return Isolation(
        step=step,
        isolated=isolated_places(report, overwritten),
        num_overwritten=len(overwritten),
        left_out=left_out,
        notes=tuple(filter(None, notes)),
    )


def _forward_note(overwritten: Collection[TensorId], again: TraceSource) -> str:
    """Says that no error was kept from going on through the forward, if so."""
    inner = {id_.kind for id_ in again.info.tensors if id_.module != ROOT_MODULE}
    given = {id_.kind for id_ in overwritten if id_.module != ROOT_MODULE}
    if Kind.OUTPUT not in inner or Kind.INPUT in given:
        return ""
    return (
        "no input of a module inside the model was overwritten (named scopes and taps "
        "have outputs alone), so errors went on through the forward, and of several "
        "wrong places in it only the first is named"
    )


def _overwritten(
    rewrites: Rewrites, again: TraceInfo
) -> tuple[frozenset[TensorId], Mapping[str, int]]:
    """What a run did overwrite, by the ids that are compared, and why not the rest."""
    left: dict[tuple[TensorId, int], str] = {}
    silent: set[int] = set()
    for info in again.ranks:
        said = rewritten_by(info)
        if said is None:
            silent.add(info.rank)
        else:
            left |= {(id_, info.rank): reason for id_, reason in said.left.items()}
    overwritten: set[TensorId] = set()
    left_out = Counter(rewrites.left_out)
    for id_, shards in rewrites.shards.items():
        reasons = [left[shard] for shard in shards if shard in left]
        if any(rank in silent for _, rank in shards):
            reasons.append("the run does not say that it was put in")
        if reasons:
            left_out[reasons[0]] += 1
        else:
            overwritten.add(id_)
    return frozenset(overwritten), left_out
