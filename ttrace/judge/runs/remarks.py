"""What is odd about a comparison and changes no verdict: said, and left to the user."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ttrace.compare.align import Alignment, Unmatched
from ttrace.compare.samples.samples import is_model_input
from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.side import Side
from ttrace.ir.trace import PRECISION_SETTINGS, SkippedRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.unheld_parameters import unheld_in
from ttrace.judge.runs.run_lengths import other_lengths
from ttrace.judge.runs.trace_lines import (
    early_step,
    early_step_sentence,
    side_without_optimizer,
)
from ttrace.judge.runs.undescribed import shorter_parameters
from ttrace.judge.tolerances.precision import coarser_compute, compute_dtypes
from ttrace.judge.tolerances.setup import compare_settings
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.allowances import Allowed, allowances_of, idle_remark

_WITH_BACKWARD = frozenset({"torch", "megatron"})
"""Frameworks in whose steps a script calls backward itself."""


def find_remarks(
    alignment: Alignment,
    reference: TraceSource,
    candidate: TraceSource,
    tolerances: ToleranceTable,
    *,
    allow: Allowed = (),
    is_mapped: bool = False,
) -> tuple[str, ...]:
    """Sentences without a full stop.

    Args:
        alignment: What became of every tensor.
        reference: The trusted run, as it was given.
        candidate: The run under test, likewise.
        tolerances: What rounding explains.
        allow: What may be unmatched.
        is_mapped: A map says which names go together.
    """
    remarks = []
    if _is_same(reference, candidate):
        remarks.append(
            f"reference and candidate are the same trace, {reference.name}: it agrees "
            "with itself, whatever it holds"
        )
    remarks += _repeats(reference.info, candidate.info)
    remarks += _early_steps(reference.info, candidate.info)
    side = side_without_optimizer(reference.info, candidate.info)
    if side is not None:
        remarks.append(
            f"the {side}'s trace was given no optimizer, and nothing of it was "
            "recorded: torch_capture.trace(model, optimizer)"
        )
    matches = [(m.reference, m.candidate) for m in alignment.matches]
    if not shorter_parameters(matches, candidate.info):  # which share their samples
        remarks += other_lengths(alignment, reference.info, candidate)
    for side, trace in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate)):
        outside = ranks_outside(trace.info)
        if outside is not None:
            remarks.append(f"in the {side} {outside}")
        unheld = parameters_of_no_optimizer(trace.info)
        if unheld is not None:
            remarks.append(f"in the {side} {unheld}")
    remarks += _runs_without_modules(reference.info, candidate.info)
    names = (reference.name, candidate.name)
    remarks += _other_names(alignment, *names, is_mapped=is_mapped)
    if is_mapped:
        remarks += _kinds_without_rules(alignment, *names)
    finer = tuple(_noise_of_a_finer_dtype(reference.info, candidate.info, tolerances))
    precisions = _precisions(reference.info, candidate.info, is_said=bool(finer))
    remarks += (
        f"the runs differ in precision, which is no other set-up: {name} {first} in "
        f"the reference, {second} in the candidate"
        for name, (first, second) in precisions.items()
    )
    return (*remarks, *finer, *_idle_patterns(alignment, allow))


def _runs_without_modules(reference: TraceInfo, candidate: TraceInfo) -> Iterator[str]:
    """That one run recorded no input or output of any module, and the other did."""
    infos = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    if any(info.is_checkpoint or info.ranks[0].capture for info in infos.values()):
        return
    counts = {
        side: sum(
            id_.kind in ACTIVATIONS and not is_model_input(id_)
            for id_ in (*info.tensors, *info.skipped)
        )
        for side, info in infos.items()
    }
    for side, info in infos.items():
        other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
        if counts[side] or not counts[other]:
            continue
        remedy = "give the trace call the very model that the loop runs"
        if info.ranks[0].framework == "jax":
            remedy = (
                "give jax_capture.trace the function that calls the model, and name "
                "what plain JAX computes by jax.named_scope or ttrace.tap"
            )
        yield (
            f"no module of the {side} ran in a recorded step, as far as ttrace knows: "
            f"it has no input or output of any, and the {other} has {counts[other]}; "
            f"{remedy}"
        )


def _other_names(
    alignment: Alignment, reference: str, candidate: str, *, is_mapped: bool
) -> Iterator[str]:
    """That either run has parameters of which the other has none of the name."""
    only: dict[Side, list[str]] = {side: [] for side in Side}
    for entry in alignment.entries:
        if isinstance(entry, Unmatched) and not entry.reason:
            if entry.id.kind is Kind.PARAM:
                only[entry.present].append(f"{entry.id.module}/{entry.id.slot}")
    if not all(only.values()):
        return
    ours, theirs = (
        f"{len(names)} parameter{'s' * (len(names) > 1)} ({names[0]}"
        + (", ...)" if len(names) > 1 else ")")
        for names in (only[Side.REFERENCE], only[Side.CANDIDATE])
    )
    if is_mapped:
        yield (
            f"{ours} of the reference and {theirs} of the candidate have no "
            "counterpart by the map: if they are the same, write a rule for them; a "
            "proposal leaves a parameter out that begins with other values, as one "
            "that was not loaded"
        )
        return
    yield (
        f"{ours} of the reference and {theirs} of the candidate have no counterpart of "
        "the same name: if they are the same under other names, or stacked or split, "
        f"'ttrace map {reference} {candidate}' proposes a map, for --map"
    )


def _kinds_without_rules(
    alignment: Alignment, reference: str, candidate: str
) -> Iterator[str]:
    """That both runs have tensors of a kind, and the map pairs none of them."""
    only: dict[Side, Counter[Kind]] = {side: Counter() for side in Side}
    for entry in alignment.entries:
        if isinstance(entry, Unmatched) and not entry.reason:
            only[entry.present][entry.id.kind] += 1
    paired = {match.id.kind for match in alignment.matches}
    ours, theirs = only[Side.REFERENCE], only[Side.CANDIDATE]
    for kind in Kind:
        if ours[kind] and theirs[kind] and kind not in paired:
            yield (
                f"no rule of the map pairs any {kind}, of which {ours[kind]} are in "
                f"the reference and {theirs[kind]} in the candidate: a map that was "
                "proposed of runs without them does not know them; 'ttrace map "
                f"{reference} {candidate}' proposes one that does"
            )


def _precisions(
    reference: TraceInfo, candidate: TraceInfo, *, is_said: bool
) -> dict[str, tuple[object, object]]:
    """What the runs say of their dtypes and differ in, or what their outputs show.

    The latter unless it is said already.
    """
    differences = compare_settings(reference, candidate).all
    found = {
        name: differences[name]
        for name in PRECISION_SETTINGS
        if name in differences and None not in differences[name]
    }
    computed = compute_dtypes(reference, candidate)
    # Outputs show it in plainer words than what modules were told.
    is_told = found.keys() - {"compute_dtypes"} or is_said
    if computed is not None and not is_told:
        return {"most modules compute in": computed}
    return found


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
        f"{coarser.factor:.3g}, as a rule far wider than measured ones, and errors "
        f"below them do not show. Measure it in {coarser.candidate}: give 'ttrace "
        "check' the reference's command in place of --reference-trace, or record noise "
        f"runs with --noise-dtype {coarser.candidate}"
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


def _early_steps(reference: TraceInfo, candidate: TraceInfo) -> Iterator[str]:
    """That steps were ended before the optimizer's, in both runs.

    Where it is one of them, nothing else is said.
    """
    step = early_step(candidate)
    if step is not None and early_step(reference) is not None:
        yield f"in both runs {early_step_sentence(step)}"


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


def ranks_outside(info: TraceInfo) -> str | None:
    """That some ranks hold a parameter outside of the mesh that others have it on."""
    known = {rank.rank: {mesh.name for mesh in rank.meshes} for rank in info.ranks}
    for id_, record in info.tensors.items():
        if id_.kind is not Kind.PARAM:
            continue
        ranks: dict[str, list[int]] = {}
        for shard in record.shards:
            ranks.setdefault(shard.layout.mesh, []).append(shard.rank)
        if all(known[shard.rank].issuperset(ranks) for shard in record.shards):
            continue
        places = " and ".join(
            f"on mesh {name} for {'ranks' if len(numbers) > 1 else 'rank'} "
            f"{', '.join(map(str, sorted(numbers)))}"
            for name, numbers in ranks.items()
        )
        return (
            f"{id_.module}.{id_.slot} is {places}, and these do not know each other: "
            "start as many processes as the mesh of the model has, or make it of all"
        )
    return None


def parameters_of_no_optimizer(info: TraceInfo) -> str | None:
    """That no rank of a run holds some of what is trained in an optimizer."""
    unheld = {rank.rank: unheld_in(rank.settings) for rank in info.ranks}
    names = dict.fromkeys(name for of_rank in unheld.values() for name in of_rank)
    if not names:
        return None
    ranks = {
        (id_.module, id_.slot): {shard.rank for shard in record.shards}
        for id_, record in info.tensors.items()
        if id_.kind is Kind.PARAM
    }
    nowhere = sorted(
        name
        for name in names
        if all(name in unheld[rank] for rank in ranks.get(name, unheld.keys()))
    )
    if not nowhere:
        return None
    more = f" and {len(nowhere) - 1} more parameters" if len(nowhere) > 1 else ""
    return (
        f"no optimizer that was given to trace() on any rank holds "
        f"{'.'.join(nowhere[0])}{more}, so that no main_grad and no update of it is "
        "recorded; give trace() all optimizers, or set requires_grad=False on what is "
        "not trained"
    )


def _is_same(reference: TraceSource, candidate: TraceSource) -> bool:
    if reference is candidate:
        return True
    try:
        return os.path.samefile(reference.name, candidate.name)
    except OSError:  # of a source that lies in no folder
        return False


def _idle_patterns(alignment: Alignment, allow: Allowed) -> Iterator[str]:
    for allowance in allowances_of(allow):
        entries = [e for e in alignment.entries if e.id.matches(allowance.pattern)]
        unmatched = sum(isinstance(entry, Unmatched) for entry in entries)
        remark = idle_remark(allowance, len(entries), unmatched)
        if remark:
            yield remark
