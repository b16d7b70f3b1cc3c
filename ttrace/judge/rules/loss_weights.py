"""Micro-batches that count otherwise in the loss of the step."""

from collections.abc import Mapping, Sequence

from ttrace.ir.kinds import KINDS, Kind, Phase
from ttrace.judge.diagnosis import LEAST_ELEMENTS, Diagnosis, Findings, ids_of
from ttrace.judge.runs.microbatch_factors import MicrobatchFactors
from ttrace.judge.runs.token_losses import TokenWeights
from ttrace.judge.verdicts.factors import factor_text, multiple_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST_SPREAD = 1e-3
"""Relative difference of factors that are not the same one."""

_UNEQUAL = "Where they have unequal numbers of tokens, divide"

_MAX_NAMED = 4
"""Micro-batches, parts, factors or targets that the sentence says."""


def loss_weights(findings: Findings) -> Diagnosis | None:
    """Says that every micro-batch's gradients are a factor of its own times too large.

    Told where nothing of the forward failed but the loss, and the first gradient of
    each micro-batch that fails is a multiple of the reference's, by factors that are
    not all the same; or where so is the first one in parts, which are micro-batches of
    the candidate.
    """
    first = _first_gradients(findings)
    in_parts = findings.evidence.runs.factors
    if in_parts is not None and first and first[0].id == in_parts.id:
        return _of_parts(in_parts, first)
    of_tokens = findings.evidence.runs.tokens
    if isinstance(of_tokens, TokenWeights):
        return _of_tokens(of_tokens)
    factors = [_factor(verdict) for verdict in first]
    if len(first) < 2 or any(factor is None for factor in factors):
        return None
    known = [factor for factor in factors if factor is not None]
    if max(known) - min(known) <= _LEAST_SPREAD * max(map(abs, known)):
        return None
    numbers = [verdict.id.microbatch or 0 for verdict in first]
    return _diagnosis(first, dict(zip(numbers, known, strict=True)), _UNEQUAL)


def _of_parts(found: MicrobatchFactors, first: Sequence[TensorVerdict]) -> Diagnosis:
    """The same of the candidate's micro-batches, with their tokens where these tell."""
    if not found.tokens:
        return _diagnosis(first, found.factors, _UNEQUAL, of=" of the candidate")
    tokens = list(map(str, list(found.tokens.values())[:_MAX_NAMED]))
    if len(found.tokens) > _MAX_NAMED:
        tokens.append("more")
    advice = (
        f"They have {', '.join(tokens[:-1])} and {tokens[-1]} tokens that count in the "
        "loss, and each factor is the mean of these over the micro-batch's own: the "
        "loss is a mean of means. Divide"
    )
    return _diagnosis(first, found.factors, advice, of=" of the candidate")


def _of_tokens(found: TokenWeights) -> Diagnosis:
    """The same of tokens within a micro-batch, as of those of a device."""
    step = f"step {found.id.step}"
    if found.id.microbatch is not None:
        step += f", micro-batch {found.id.microbatch}"
    return Diagnosis(
        code="loss_weights",
        sentence=f"the forward of {step} agrees, and the gradient of {found.id.module} "
        f"is the reference's times {_token_factors(found)}",
        evidence={
            "step": found.id.step,
            "least_factor": found.least,
            "largest_factor": found.largest,
        },
        tensor_ids=(str(found.id),),
    )


def _token_factors(found: TokenWeights) -> str:
    """The factors of tokens, what they mean, and what to do."""
    what = f"{factor_text(found.least)} to {factor_text(found.largest)}, token by token"
    if found.factors:
        named = [f"{factor_text(factor)} at {part}" for part, factor in found.factors]
        what = _some(named, "parts")
    if found.is_mean_of_means:
        shares = [
            f"{number} in {len(part.indices)}"
            for number, (part, _) in zip(found.tokens, found.factors, strict=True)
        ]
        shares[0] = shares[0].replace(" in ", " tokens count in ") + " indices"
        if len(shares) > _MAX_NAMED:
            shares = [*shares[:_MAX_NAMED], "so on"]
        return (
            f"{what}: tokens count otherwise in the loss. There "
            f"{', '.join(shares[:-1])} and {shares[-1]}, and each factor is as much "
            "smaller as they are more: the loss is a mean of means. Divide the sum of "
            "all losses by the number of tokens of the whole step, over all "
            "micro-batches, ranks and devices"
        )
    if found.by_target:
        by_factor: dict[str, list[str]] = {}
        for target, factor in found.by_target:
            by_factor.setdefault(factor_text(factor), []).append(str(target))
        named = [
            f"{factor} where the target is {_some(targets, 'targets')}"
            for factor, targets in by_factor.items()
        ]
        return (
            f"{_some(named, 'factors')}: the loss weighs targets otherwise. Look at "
            "the weights of the classes that it is given"
        )
    if found.is_of_targets:
        return (
            f"{what}: tokens or samples count otherwise in the loss. Look at the "
            "weights that it gives them, and at what the sum of all losses is divided "
            "by: a mean is to be over all of the step, over all micro-batches, ranks "
            "and devices"
        )
    return (
        f"{what}: look at what the loss, or a term of it that {found.id.module} goes "
        "into, multiplies its parts by"
    )


def _some(named: Sequence[str], what: str) -> str:
    num_more = len(named) - _MAX_NAMED
    more = f" and so on in {num_more} more {what}" if num_more > 0 else ""
    return f"{', '.join(named[:_MAX_NAMED])}{more}"


def _diagnosis(
    first: Sequence[TensorVerdict],
    factors: Mapping[int, float],
    advice: str,
    *,
    of: str = "",
) -> Diagnosis:
    """The diagnosis.

    Args:
        first: The gradients that failed first.
        factors: By micro-batch.
        advice: What to do, up to what is to be divided.
        of: Whose micro-batches they are.
    """
    step = first[0].id.step
    named = ", ".join(
        f"{factor_text(factor)} in micro-batch {number}{'' if index else of}"
        for index, (number, factor) in enumerate(list(factors.items())[:_MAX_NAMED])
    )
    num_more = len(factors) - _MAX_NAMED
    more = f" and so on in {num_more} more" if num_more > 0 else ""
    return Diagnosis(
        code="loss_weights",
        sentence=f"the forward of step {step} agrees, and the gradient of "
        f"{first[0].id.module} is the reference's times {named}{more}: micro-batches "
        f"count otherwise in the loss. {advice} the sum of all losses by the number of "
        "tokens of the whole step, over all micro-batches and ranks",
        evidence={
            "step": step,
            "least_factor": min(factors.values()),
            "largest_factor": max(factors.values()),
        },
        tensor_ids=ids_of(first),
    )


def _first_gradients(findings: Findings) -> list[TensorVerdict]:
    """The first failed gradient of each micro-batch; none if a forward failed, too."""
    found: dict[int, TensorVerdict] = {}
    step = None
    for verdict in findings.failed:
        traits = KINDS[verdict.id.kind]
        step = verdict.id.step if step is None else step
        if verdict.id.step != step or verdict.id.kind is Kind.LOSS:
            continue
        if traits.phase is Phase.FORWARD and not _is_one_number(verdict):
            return []
        if traits.phase is Phase.BACKWARD and verdict.id.microbatch is not None:
            found.setdefault(verdict.id.microbatch, verdict)
    was_compared = any(
        verdict.id.kind is Kind.OUTPUT
        and verdict.id.step == step
        and verdict.status is Status.PASSED
        for verdict in findings.verdicts
    )
    return list(found.values()) if was_compared else []


def _is_one_number(verdict: TensorVerdict) -> bool:
    """Whether it may be a loss that the model returns."""
    return verdict.result is not None and verdict.result.stats.count == 1


def _factor(verdict: TensorVerdict) -> float | None:
    """As ``multiple_of``; None also where there are too few elements to tell."""
    if verdict.result is None or verdict.result.stats.count < LEAST_ELEMENTS:
        return None
    return multiple_of(verdict)
