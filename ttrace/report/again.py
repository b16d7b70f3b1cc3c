"""A report judged again, without the traces: its verdict, by its tensors' statuses."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.errors import TraceError, UsageError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.coverage import (
    EXPECTED_GROUPS,
    KindCoverage,
    dominated_sentence,
    headline,
)
from ttrace.judge.diagnosis import Diagnosis
from ttrace.judge.frontier.first_divergence import FirstDivergence, divergence_of
from ttrace.judge.outcome import ErrorKind, Outcome, coarseness, dominated_note
from ttrace.judge.tolerances.precision import CoarserCompute
from ttrace.judge.tolerances.tolerance import Estimator, TolerancePolicy, ToleranceTable
from ttrace.judge.verdicts.allowances import Allowance, idle_remark
from ttrace.judge.verdicts.verdict import Status, TensorVerdict
from ttrace.report.model import Counts, Report
from ttrace.report.rejudge import (
    OTHER_NORM,
    Judged,
    Kept,
    NewLimit,
    judge_error,
    judge_presence,
    limit_by_multiplier,
    limit_by_table,
    num_matching,
)
from ttrace.report.tensor_report import TensorReport

_BAD = ("failed", "unmatched")
_COMPARED = ("passed", "failed")
_REMEDY = "make the report again with 'ttrace compare', which takes the same options"


def judge_again(
    report: Report,
    *,
    multiplier: float | None = None,
    tolerances: ToleranceTable | None = None,
    allow: Sequence[Allowance] = (),
) -> Report:
    """Judges a report by other tolerances or allowances.

    Args:
        report: What a comparison found.
        multiplier: Safety factor on the measured noise: of ``tolerances``, or of those
            that the report rests on; None leaves it.
        tolerances: What rounding explains; None leaves it.
        allow: What may be unmatched; where there is any, in place of what the report
            was made with.

    Returns:
        The report with other statuses, and with remarks on what could not be judged.

    Raises:
        UsageError: There is nothing to judge, or nothing to judge by.
        TraceError: The report does not hold what is needed.
    """
    if multiplier is None and tolerances is None and not allow:
        raise UsageError(
            "nothing to judge the report by",
            remedy="give --multiplier, --tolerance, --allow or --allow-file",
        )
    if report.error is not None or not report.tensors:
        raise UsageError(
            "the report holds no tensor to judge again",
            got=report.summary,
            remedy="repair what it names, and compare the runs",
        )
    judged = [Judged(tensor=tensor) for tensor in report.tensors]
    if multiplier is not None or tolerances is not None:
        limit_of = _new_limit(report, multiplier, tolerances)
        judged = [judge_error(tensor, limit_of) for tensor in report.tensors]
    tensors = tuple(item.tensor for item in judged)
    if allow:
        tensors = tuple(judge_presence(tensor, allow) for tensor in tensors)
    again = replace(
        report,
        tensors=tensors,
        counts=_counts(tensors),
        coverage=_coverage(tensors),
        first_divergence=_first(report, tensors),
        diagnosis=_diagnosis(report, tensors),
        culprits=(),  # what follows from what is told by the traces
    )
    policy = TolerancePolicy() if tolerances is None else tolerances.policy
    again = _with_verdict(again, report, dominated_share=policy.dominated_share)
    remarks = _remarks(report, again, judged, allow)
    return replace(again, remarks=(*report.remarks, *remarks))


def _new_limit(
    report: Report, multiplier: float | None, tolerances: ToleranceTable | None
) -> NewLimit:
    """What each tensor is tolerated now.

    Raises:
        UsageError: The tolerances are of another run.
        TraceError: The report does not say what its tolerances are made of.
    """
    compared = [t for t in report.tensors if t.rel_err is not None]
    if tolerances is not None:
        if multiplier is not None:
            policy = replace(tolerances.policy, multiplier=multiplier)
            tolerances = replace(tolerances, policy=policy)
        coarser = _coarser(compared, tolerances)
        _require_noise_of(tolerances, coarser)
        limit_of = limit_by_table(tolerances, coarser, report.tensors)
        _require_same_reference(compared, limit_of)
        return limit_of
    assert multiplier is not None
    measured = [t for t in compared if t.tolerance_from == Estimator.PERTURBED]
    if not measured:
        raise UsageError(
            "no tolerance of the report rests on measured noise, which a multiplier "
            "scales",
            got=f"{len(compared)} compared tensors",
            remedy="give --tolerance, with a file that 'ttrace tolerance' measured",
        )
    if all(tensor.tolerance_per_multiplier is None for tensor in measured):
        raise TraceError(
            "the report does not say what its tolerances are made of",
            expected="tolerance_per_multiplier of its tensors, as 'ttrace compare' "
            "writes it today",
            got="none; an earlier version wrote it",
            remedy=_REMEDY,
        )
    share = TolerancePolicy().dominated_share
    return limit_by_multiplier(multiplier, dominated_share=share)


def _coarser(
    compared: Sequence[TensorReport], tolerances: ToleranceTable
) -> CoarserCompute | None:
    """The dtypes of most outputs that were compared, if the candidate's is coarser."""
    outputs = [t.dtypes for t in compared if t.kind == Kind.OUTPUT and t.dtypes]
    names = []
    for side in range(2):
        counts = Counter(
            dtypes[side]
            for dtypes in outputs
            if dtype_named(dtypes[side]).epsilon is not None
        )
        names += [name for name, _ in counts.most_common(1)]
    if len(names) < 2:
        return None
    finer, coarser = (dtype_named(name).epsilon or 0.0 for name in names)
    if coarser <= finer:
        return None
    return CoarserCompute(
        reference=names[0], candidate=names[1], noise=tolerances.noise_dtype
    )


def _require_noise_of(
    tolerances: ToleranceTable, coarser: CoarserCompute | None
) -> None:
    """Refuses noise that stands for coarser roundings than the candidate has."""
    dtype = tolerances.noise_dtype
    if dtype is None:
        return
    epsilon = dtype_named(dtype).epsilon or 0.0
    if coarser is None or coarser.epsilon < epsilon:
        raise UsageError(
            "the noise stands for coarser roundings than the candidate has",
            expected=f"a candidate that computes in {dtype}",
            got="one that computes in "
            + ("the dtype of the reference" if coarser is None else coarser.candidate),
            remedy="give tolerances that were measured for this candidate",
        )


def _require_same_reference(
    compared: Sequence[TensorReport], limit_of: NewLimit
) -> None:
    """Refuses tolerances that fit no tensor of the report."""
    limits = [limit_of(tensor) for tensor in compared]
    kept = [limit.reason for limit in limits if isinstance(limit, Kept)]
    if len(kept) < len(limits):
        return
    norms = kept.count(OTHER_NORM)
    got = f"{norms} tensors with other norms, and {len(kept) - norms} without noise"
    raise UsageError(
        "the tolerances were measured on another reference",
        expected="tolerances of the reference that the report is of",
        got=f"{got}, of {len(limits)} compared tensors",
        remedy="give the tolerance.json of its check, or measure the noise of its "
        "reference with 'ttrace tolerance'",
    )


def _counts(tensors: Sequence[TensorReport]) -> Counts:
    statuses = Counter(tensor.status for tensor in tensors)
    skipped = (tensor.reason for tensor in tensors if tensor.status == "skipped")
    return Counts(
        total=len(tensors),
        passed=statuses["passed"],
        failed=statuses["failed"],
        unmatched=statuses["unmatched"],
        skipped=statuses["skipped"],
        skipped_reasons=dict(Counter(skipped)),
    )


def _coverage(tensors: Sequence[TensorReport]) -> dict[str, KindCoverage]:
    counts = Counter((tensor.kind, tensor.status) for tensor in tensors)
    dominated = Counter(t.kind for t in tensors if t.noise_dominated)
    kinds = {tensor.kind for tensor in tensors}
    return {
        kind.value: KindCoverage(
            compared=sum(counts[kind, status] for status in _COMPARED),
            skipped=counts[kind, "skipped"],
            unmatched=counts[kind, "unmatched"],
            total=sum(counts[kind, status] for status in Status),
            noise_dominated=dominated[kind],
        )
        for kind in Kind
        if kind in kinds
    }


def _first(report: Report, tensors: Sequence[TensorReport]) -> FirstDivergence | None:
    """That of the report while it stands; else the first tensor that fails now."""
    bad = {tensor.id: tensor for tensor in tensors if tensor.status in _BAD}
    first = report.first_divergence
    failed = [tensor for tensor in bad.values() if tensor.status == "failed"]
    if first is not None and first.id in bad:
        before = {tensor.id for tensor in report.tensors if tensor.status in _BAD}
        earlier = [t for t in failed if t.id not in before]
        order = [tensor.id for tensor in tensors]
        if not earlier or order.index(first.id) < order.index(earlier[0].id):
            was = next(t for t in report.tensors if t.id == first.id)
            if not was.reason:
                return first
            sentence = first.sentence.replace(was.reason, bad[first.id].reason)
            return replace(first, sentence=sentence)
        failed = earlier
    found = (failed or [*bad.values()])[:1]
    return divergence_of(_verdict_of(found[0], report)) if found else None


def _verdict_of(tensor: TensorReport, report: Report) -> TensorVerdict:
    return TensorVerdict(
        id=parse_tensor_id(tensor.id),
        status=Status(tensor.status),
        reason=tensor.reason,
        setup=tensor.id in report.setup.tensors,
    )


def _diagnosis(
    report: Report, tensors: Sequence[TensorReport]
) -> tuple[Diagnosis, ...]:
    """Those of which a tensor is still bad, or that name none."""
    bad = {tensor.id for tensor in tensors if tensor.status in _BAD}
    return tuple(
        item
        for item in report.diagnosis
        if bad and (not item.tensor_ids or bad & set(item.tensor_ids))
    )


def _with_verdict(again: Report, report: Report, *, dominated_share: float) -> Report:
    """The verdict that follows; an error stays one.

    Raises:
        TraceError: The report does not say what should have been compared.
    """
    if report.verdict is Outcome.ERROR:
        return again
    gaps = list(_new_gaps(report, again, dominated_share))
    if report.gaps is not None:
        gaps = [*report.gaps, *gaps]
        again = replace(again, gaps=tuple(gaps))
    counts = again.counts
    if counts.failed or counts.unmatched:
        assert again.first_divergence is not None
        pairs = ((counts.failed, "diverge"), (counts.unmatched, "unmatched"))
        numbers = ", ".join(f"{number} {word}" for number, word in pairs if number)
        return replace(
            again,
            verdict=Outcome.DIVERGED,
            summary=f"Of {counts.total} tensors: {numbers}. First: "
            f"{again.first_divergence.sentence}.",
        )
    _require_gaps(report)
    compared = headline({Kind(kind): c for kind, c in again.coverage.items()})
    if gaps:
        return replace(
            again,
            verdict=Outcome.ERROR,
            error_kind=ErrorKind.COVERAGE,
            summary=f"{'. '.join(gaps)}. What could be compared agrees: {compared}.",
        )
    dominated = again.num_noise_dominated
    summary = (
        f"All {counts.passed - dominated} compared tensors agree within their "
        f"tolerance: {compared}."
    )
    if dominated:
        summary += dominated_note(dominated)
    summary += coarseness(
        tensor.tolerance
        for tensor in again.tensors
        if tensor.status == "passed"
        and tensor.tolerance is not None
        and tensor.tolerance_from != Estimator.EXACT
    )
    return replace(again, verdict=Outcome.PASS, summary=summary)


def _require_gaps(report: Report) -> None:
    """Refuses to let a report pass that does not say what was left out."""
    if report.gaps is None and report.verdict is not Outcome.PASS:
        raise TraceError(
            "the report does not say whether all was compared that should have been, "
            "so that it can be no pass",
            expected="its key gaps, as 'ttrace compare' writes it today",
            got="none; an earlier version wrote it",
            remedy=_REMEDY,
        )


def _new_gaps(report: Report, again: Report, dominated_share: float) -> Iterable[str]:
    """Kinds of which nothing is compared any more, or nothing but noise."""
    for group in EXPECTED_GROUPS:
        before, after = (
            [t for t in side.tensors if t.kind in group] for side in (report, again)
        )
        if (
            any(tensor.status != "skipped" for tensor in before)
            and all(tensor.status == "skipped" for tensor in after)
            and not all(tensor.allowed for tensor in after)
        ):
            kinds = " or ".join(dict.fromkeys(tensor.kind for tensor in after))
            yield (
                f"Nothing of kind {kinds} is compared: what was not skipped is allowed "
                "to be unmatched"
            )
    for kind, counts in again.coverage.items():
        old = report.coverage.get(kind)
        was = old is not None and old.compared == old.noise_dominated
        if counts.compared == counts.noise_dominated > 0 and not was:
            yield dominated_sentence(kind, counts, share=dominated_share)


def _remarks(
    report: Report,
    again: Report,
    judged: Sequence[Judged],
    allow: Sequence[Allowance],
) -> Iterable[str]:
    pairs = list(zip(report.tensors, again.tensors, strict=True))
    moves = Counter((old.status, new.status) for old, new in pairs)
    passing, failing = moves["failed", "passed"], moves["passed", "failed"]
    yield (
        f"judged again from the report: {_tensors(passing)} that failed now pass, "
        f"{failing} that passed fail, {moves['unmatched', 'skipped']} that were "
        f"unmatched are allowed, {moves['skipped', 'unmatched']} are no longer allowed"
    )
    for reason, number in Counter(x.kept for x in judged if x.kept).most_common():
        yield f"not judged again, {_tensors(number)} that failed: {reason}"
    if report.verdict is Outcome.ERROR:
        yield (
            "the verdict stays an error: what it names is not a matter of tolerances "
            "or of unmatched tensors"
        )
    if passing:
        yield (
            f"parts of the {_tensors(passing)} that now pass were not judged, as a "
            "report does not hold them: 'ttrace compare' judges them"
        )
    if failing:
        yield (
            f"{_tensors(failing)} that now fail were judged by tolerance alone: "
            "'ttrace compare' also tells updates that turned with the sign of noise"
        )
    for allowance in allow:
        remark = idle_remark(allowance, *num_matching(report.tensors, allowance))
        if remark:
            yield remark


def _tensors(number: int) -> str:
    return f"{number} tensor" if number == 1 else f"{number} tensors"
