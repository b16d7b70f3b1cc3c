"""What is odd about a comparison and changes no verdict: said, and left to the user."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ttrace.compare.align import Alignment, Unmatched
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.trace import PRECISION_SETTINGS, SkippedRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.precision import coarser_compute
from ttrace.judge.setup import compare_settings
from ttrace.judge.tolerance import ToleranceTable

_WITH_BACKWARD = frozenset({"torch", "megatron"})
"""Frameworks in whose steps a script calls backward itself."""


def find_remarks(
    alignment: Alignment,
    reference: TraceSource,
    candidate: TraceSource,
    tolerances: ToleranceTable,
    *,
    allow: Sequence[str] = (),
) -> tuple[str, ...]:
    """Sentences without a full stop.

    Args:
        alignment: What became of every tensor.
        reference: The trusted run, as it was given.
        candidate: The run under test, likewise.
        tolerances: What rounding explains.
        allow: Patterns of tensor ids that may be unmatched.
    """
    remarks = []
    if _is_same(reference, candidate):
        remarks.append(
            f"reference and candidate are the same trace, {reference.name}: it agrees "
            "with itself, whatever it holds"
        )
    remarks += _repeats(reference.info, candidate.info)
    differences = compare_settings(reference.info, candidate.info).all
    remarks += (
        f"the runs differ in precision, which is no other set-up: {name} "
        f"{differences[name][0]} in the reference, {differences[name][1]} in the "
        "candidate"
        for name in PRECISION_SETTINGS
        if name in differences and None not in differences[name]
    )
    finer = _noise_of_a_finer_dtype(reference.info, candidate.info, tolerances)
    return (*remarks, *finer, *_idle_patterns(alignment, allow))


def _noise_of_a_finer_dtype(
    reference: TraceInfo, candidate: TraceInfo, tolerances: ToleranceTable
) -> Iterator[str]:
    """That noise was multiplied, where it could have been measured."""
    coarser = coarser_compute(reference, candidate, noise_dtype=tolerances.noise_dtype)
    if coarser is None or coarser.factor <= 1 or not tolerances.noise:
        return
    measured = coarser.noise or coarser.reference
    yield (
        f"the noise was measured in {measured} and the candidate computes in "
        f"{coarser.candidate}: tolerances are that noise times up to "
        f"{coarser.factor:.3g}, far wider than measured ones, and errors below them do "
        f"not show. Measure it in {coarser.candidate}: give 'ttrace check' the "
        "reference's command in place of --reference-trace, or record noise runs with "
        f"--noise-dtype {coarser.candidate}"
    )


def _repeats(reference: TraceInfo, candidate: TraceInfo) -> Iterator[str]:
    """That tensors came twice: said once where it is the same in both runs."""
    sides = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    found = {side: repeats_in(info) for side, info in sides.items()}
    first, second = found.values()
    if first is not None and first == second:
        yield f"in both runs {first}"
        return
    for side, repeats in found.items():
        if repeats is not None:
            yield f"in the {side} {repeats}"


def repeats_in(info: TraceInfo) -> str | None:
    """That tensors came twice in a run, as where a step was not ended; or None.

    Gradients of parameters come twice alone where several backward passes of a
    micro-batch reach them: what is recorded once a step would come twice, too, if steps
    ran together.
    """
    twice = [skipped for skipped in info.skipped.values() if skipped.came_twice]
    if not twice:
        return None
    count = len(twice)
    plural = "" if count == 1 else "s"
    said = f"{count} tensor{plural} came twice, and only the first is recorded."
    has_backward = info.ranks[0].framework in _WITH_BACKWARD
    if has_backward and all(s.id.kind is Kind.PARAM_GRAD for s in twice):
        return f"{said} {_several_backwards(twice, info)}"
    reasons = Counter(skipped.reason for skipped in twice)
    hint = reasons.most_common(1)[0][0].partition(".")[2]
    return f"{said}{hint}"


def _several_backwards(twice: Sequence[SkippedRecord], info: TraceInfo) -> str:
    parameters = {(skipped.id.module, skipped.id.slot) for skipped in twice}
    plural = "" if len(parameters) == 1 else "s"
    given = [
        replace(skipped.id, kind=Kind.MAIN_GRAD, microbatch=None, call=0)
        for skipped in twice
    ]
    instead = "param_grad is that of the first of them"
    if all(tensor_id in info.tensors for tensor_id in given):
        instead += ", and main_grad what the optimizer is given"
    return (
        f"Several backward passes of one micro-batch reach {len(parameters)} "
        f"parameter{plural}: {instead}. That is nothing to mend where it is meant, as "
        "with the two losses of a GAN; else look for a backward() too many"
    )


def _is_same(reference: TraceSource, candidate: TraceSource) -> bool:
    if reference is candidate:
        return True
    try:
        return os.path.samefile(reference.name, candidate.name)
    except OSError:  # of a source that lies in no folder
        return False


def _idle_patterns(alignment: Alignment, allow: Sequence[str]) -> Iterator[str]:
    for pattern in dict.fromkeys(allow):
        matching = [entry for entry in alignment.entries if entry.id.matches(pattern)]
        if any(isinstance(entry, Unmatched) for entry in matching):
            continue
        if not matching:
            yield (
                f"--allow {pattern} matches no tensor of either run; patterns are "
                "those of 'ttrace show TRACE PATTERN'"
            )
        else:
            plural = "s, none" if len(matching) > 1 else ", which is not one"
            yield (
                f"--allow {pattern} allows nothing: it matches {len(matching)} "
                f"tensor{plural} of those that only one run has"
            )
