"""What a comparison covered, kind by kind, and what it should have and did not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import (
    ACTIVATIONS,
    GRADIENTS,
    OF_LAYOUT,
    RECORDED_BY_DEFAULT,
    Kind,
)
from ttrace.ir.side import Side
from ttrace.ir.trace import TraceInfo
from ttrace.judge.runs.trace_lines import (
    early_step,
    early_step_sentence,
    lacking_by_it,
    only_one_steps_early,
    side_without_optimizer,
)
from ttrace.judge.tolerances.tolerance import Estimator, ToleranceTable
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

NOISE = "noise"
"""Stands among the kinds for the noise runs, where ``--allow-uncovered`` takes them."""

PARAM_GRADIENTS = GRADIENTS - ACTIVATIONS
"""Gradients of parameters."""

EXPECTED_GROUPS = (PARAM_GRADIENTS, frozenset({Kind.UPDATED_PARAM}))
"""What a pass must have compared something of, wherever a run has any: the gradients of
the parameters, and what the optimizer made of them. Of a group one kind suffices."""

_HEADLINE = (
    ("updated_param", frozenset({Kind.UPDATED_PARAM})),
    *((kind.value, frozenset({kind})) for kind in Kind if kind in PARAM_GRADIENTS),
    ("activations", ACTIVATIONS - GRADIENTS),
    ("activation gradients", ACTIVATIONS & GRADIENTS),
)
"""What the headline names first, and which kinds it takes together."""


WITHOUT_NOISE = frozenset({Kind.PARAM, Kind.BUFFER, Kind.LEARNING_RATE})
"""What noise cannot change: a run starts without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCoverage:
    """How many tensors of one kind were compared.

    Attributes:
        compared: Those that passed or failed.
        skipped: Those that were skipped, each with its reason in the report.
        unmatched: Those that only one run has.
        total: All of either run.
        noise_dominated: Those among the compared ones that passed, and whose noise is
            too large to tell an error.
    """

    compared: int
    skipped: int
    unmatched: int
    total: int
    noise_dominated: int = 0

    def __post_init__(self):
        if (
            self.total != self.compared + self.skipped + self.unmatched
            or self.noise_dominated > self.compared
        ):
            raise ValueError(f"a coverage that does not add up: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something that was asked for, and of which nothing could be compared.

    Attributes:
        names: The kinds, as ``--allow-uncovered`` takes them, or ``noise``.
        sentence: What is missing, why, and what to do.
        is_blocking: It makes a divergence doubtful, too.
    """

    names: tuple[str, ...]
    sentence: str
    is_blocking: bool = False


def coverage_of(verdicts: Iterable[TensorVerdict]) -> dict[Kind, KindCoverage]:
    """Counts the tensors of every kind that occurs, in the order of a step."""
    verdicts = list(verdicts)
    counts = Counter((verdict.id.kind, verdict.status) for verdict in verdicts)
    dominated = Counter(v.id.kind for v in verdicts if v.noise_dominated)
    found = {kind for kind, _ in counts}
    return {
        kind: KindCoverage(
            compared=counts[kind, Status.PASSED] + counts[kind, Status.FAILED],
            skipped=counts[kind, Status.SKIPPED],
            unmatched=counts[kind, Status.UNMATCHED],
            total=sum(counts[kind, status] for status in Status),
            noise_dominated=dominated[kind],
        )
        for kind in Kind
        if kind in found
    }


def headline(coverage: Mapping[Kind, KindCoverage]) -> str:
    """``updated_param 37 of 37, main_grad 37 of 37, activations 402 of 410``, ...

    What is noise-dominated is counted apart, at the end.
    """
    named = {kind for _, kinds in _HEADLINE for kind in kinds}
    others = ((kind.value, frozenset({kind})) for kind in coverage if kind not in named)
    parts = []
    for name, kinds in (*_HEADLINE, *others):
        counts = [coverage[kind] for kind in kinds if kind in coverage]
        if counts:
            compared = sum(count.compared - count.noise_dominated for count in counts)
            parts.append(f"{name} {compared} of {sum(c.total for c in counts)}")
    dominated = [
        f"{kind.value} {count.noise_dominated}"
        for kind, count in coverage.items()
        if count.noise_dominated
    ]
    if dominated:
        parts.append(f"noise-dominated: {', '.join(dominated)}")
    return ", ".join(parts)


def find_gaps(
    verdicts: Sequence[TensorVerdict],
    tolerances: ToleranceTable,
    reference: TraceInfo,
    candidate: TraceInfo,
    *,
    allow: Sequence[str] = (),
) -> tuple[Gap, ...]:
    """What ought to have been compared and was not, not even in part.

    That is every kind that ``--kinds`` names; by default the gradients of the
    parameters and the updated parameters, where a run has any. What a filter, a map or
    ``--allow`` leaves out is no gap. Checkpoints are asked for nothing.

    Args:
        verdicts: On every tensor.
        tolerances: For the noise that they rest on.
        reference: The trusted run.
        candidate: The run under test.
        allow: Kinds, or ``noise``, that may be missing.
    """
    gaps = []
    if not (reference.is_checkpoint or candidate.is_checkpoint):
        requested = _requested_kinds(reference, candidate)
        groups = [frozenset({kind}) for kind in Kind if kind in requested]
        for group in groups or EXPECTED_GROUPS:
            gap = _gap(group, verdicts, requested)
            if gap is not None and not set(gap.names) <= set(allow):
                gaps.append(gap)
    gaps += _dominated_kinds(verdicts, tolerances, allow)
    if Kind.UPDATED_PARAM not in allow:
        gaps += _steps_in_one(reference, candidate)
        gaps += _misplaced_lines(verdicts, reference, candidate)
    if NOISE not in allow and _noise_reached_nothing(verdicts, tolerances):
        gaps.append(
            Gap(
                names=(NOISE,),
                sentence="The noise reached nothing: the noise runs equal the "
                "reference bit for bit in every tensor, so no tolerance was measured. "
                "Check that the script runs the recorded model under ttrace's "
                "frontend in the noise runs too, or compare without noise "
                "(--draws 0, no --tolerance)",
            )
        )
    return tuple(gaps)


def _steps_in_one(reference: TraceInfo, candidate: TraceInfo) -> list[Gap]:
    """Runs that recorded several steps of an optimizer as one.

    Where only one of them did, its tensors are those of another step.
    """
    sides = [
        side
        for side, info in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate))
        if any(
            id_.kind is Kind.UPDATED_PARAM and skipped.came_twice
            for id_, skipped in info.skipped.items()
        )
    ]
    if not sides:
        return []
    runs = " and the ".join(sides)
    return [
        Gap(
            names=(Kind.UPDATED_PARAM.value,),
            sentence=f"In the {runs}, parameters were updated several times within one "
            "step of the trace, and only what came first was recorded. Call "
            "trace.step() after every step of the optimizer; if several optimizers "
            "update the same parameters in a step, accept it with --allow-uncovered "
            "updated_param",
            is_blocking=len(sides) == 1,
        )
    ]


def _misplaced_lines(
    verdicts: Sequence[TensorVerdict], reference: TraceInfo, candidate: TraceInfo
) -> list[Gap]:
    """Only one run ended its steps too early, or gave its trace no optimizer."""
    names = (Kind.UPDATED_PARAM.value,)
    gaps = []
    if only_one_steps_early(reference, candidate):
        for side, info in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate)):
            step = early_step(info)
            if step is not None:
                sentence = f"In the {side}, {early_step_sentence(step)}"
                gaps.append(Gap(names=names, sentence=sentence, is_blocking=True))
    side = side_without_optimizer(reference, candidate)
    lacking = 0 if side is None else lacking_by_it(verdicts, side)
    if lacking:
        plural = "s are" if lacking > 1 else " is"
        gaps.append(
            Gap(
                names=names,
                sentence=f"The {side}'s trace was given no optimizer, so that "
                f"{lacking} tensor{plural} only in the other run. Give it: "
                "torch_capture.trace(model, optimizer)",
                # What fails before the optimizer is wrong all the same.
                is_blocking=not any(v.status is Status.FAILED for v in verdicts),
            )
        )
    return gaps


def uncovered_activations(verdicts: Iterable[TensorVerdict]) -> str:
    """That nothing was compared of what modules compute, in a pass; empty if any was.

    It is no gap: gradients of parameters and updates are computed from it. But a pass
    says that it rests on these alone.
    """
    verdicts = [v for v in verdicts if v.id.kind in ACTIVATIONS]
    named = []
    reasons: Counter[str] = Counter()
    for name, kinds in _HEADLINE:
        of_group = [v for v in verdicts if v.id.kind in kinds]
        skipped = [v for v in of_group if v.status is Status.SKIPPED]
        if of_group and len(skipped) == len(of_group):
            plural = "s" if len(of_group) > 1 else ""
            named.append(f"{name} ({len(of_group)} tensor{plural})")
            reasons.update(v.reason for v in skipped if not v.excused)
    if not reasons:
        return ""
    ((reason, _),) = reasons.most_common(1)
    return (
        f" Nothing of {' or '.join(named)} was compared, mostly for this reason: "
        f"{reason}."
    )


def check_kind_names(allow: Sequence[str]) -> None:
    """Refuses what ``--allow-uncovered`` cannot take.

    Raises:
        UsageError: A name is no kind, and not ``noise``.
    """
    known = (*(kind.value for kind in Kind), NOISE)
    unknown = [name for name in allow if name not in known]
    if unknown:
        raise UsageError(
            "unknown kind of tensor",
            where="--allow-uncovered (allow_uncovered=)",
            expected=", ".join(known),
            got=", ".join(map(repr, unknown)),
            remedy="name a kind out of this list",
        )


def _requested_kinds(*infos: TraceInfo) -> frozenset[Kind]:
    """The kinds that ``--kinds`` named for one run and that the other records too.

    Without those that runs of two layouts need not have in common; all that are
    recorded by default are not named one by one.
    """
    filters = [CaptureFilter.from_json(dict(info.ranks[0].capture)) for info in infos]
    named = frozenset[Kind]()
    for capture in filters:
        kinds = capture.kinds or frozenset()
        all_by_default = kinds >= RECORDED_BY_DEFAULT
        named |= kinds - RECORDED_BY_DEFAULT if all_by_default else kinds
    return frozenset(
        kind
        for kind in named - OF_LAYOUT
        if all(capture.wants_kind(kind) for capture in filters)
    )


def _gap(
    group: frozenset[Kind],
    verdicts: Iterable[TensorVerdict],
    requested: frozenset[Kind],
) -> Gap | None:
    of_group = [verdict for verdict in verdicts if verdict.id.kind in group]
    if not of_group:
        missing = sorted(group & requested)
        if not missing:
            return None  # nobody asked, and no run shows that there is any
        (kind,) = missing
        return Gap(
            names=(kind.value,),
            sentence=f"Nothing of kind {kind} could be compared: --kinds asks for it, "
            "and neither run recorded any. Have the script record it, leave it out "
            f"of --kinds, or accept it with --allow-uncovered {kind}",
        )
    reasons = Counter(
        verdict.reason
        for verdict in of_group
        if verdict.status is Status.SKIPPED and not verdict.excused
    )
    if not reasons or any(v.status is not Status.SKIPPED for v in of_group):
        return None
    ((reason, count),) = reasons.most_common(1)
    names = [kind.value for kind in Kind if kind in {v.id.kind for v in of_group}]
    kinds = " or ".join(names)
    options = " ".join(f"--allow-uncovered {name}" for name in names)
    return Gap(
        names=tuple(names),
        sentence=f"Nothing of kind {kinds} could be compared: all {len(of_group)} "
        f"tensors were skipped, {count} of them for this reason: {reason}. Remove the "
        f"reason, or accept it with {options}",
    )


def _dominated_kinds(
    verdicts: Sequence[TensorVerdict], tolerances: ToleranceTable, allow: Sequence[str]
) -> list[Gap]:
    """Kinds of which all that was compared has noise too large to tell an error."""
    return [
        Gap(
            names=(kind.value,),
            sentence=dominated_sentence(
                kind.value, counts, share=tolerances.policy.dominated_share
            ),
        )
        for kind, counts in coverage_of(verdicts).items()
        if counts.compared == counts.noise_dominated > 0 and kind.value not in allow
    ]


def dominated_sentence(kind: str, counts: KindCoverage, *, share: float) -> str:
    """That noise hides errors of all tensors of a kind, and what to do.

    Args:
        kind: The kind.
        counts: How much of it was compared.
        share: Share of a tensor's value above which noise dominates it.
    """
    return (
        f"Nothing of kind {kind} was checked: the reference's own noise exceeds "
        f"{share:.0%} of the value of all {counts.compared} compared tensors, and "
        "errors of that size would pass. Compare in a higher precision, or fewer "
        f"steps, or accept it with --allow-uncovered {kind}"
    )


def _noise_reached_nothing(
    verdicts: Iterable[TensorVerdict], tolerances: ToleranceTable
) -> bool:
    """Whether nothing that noise can change was changed by any noise run.

    It can change what was computed in floating point, and is not zero.
    """
    draws = []
    for verdict in verdicts:
        if verdict.result is None or verdict.tolerance is None or verdict.setup:
            continue
        record = verdict.result.plan.match.reference
        noise = tolerances.noise.get(record.id)
        if (
            noise is None
            or noise.reference_norm == 0
            or verdict.tolerance.estimator is not Estimator.PERTURBED
            or record.id.kind in WITHOUT_NOISE
            or dtype_named(record.shards[0].dtype).epsilon is None
        ):
            continue
        draws += noise.draws
    return bool(draws) and not any(draws)
