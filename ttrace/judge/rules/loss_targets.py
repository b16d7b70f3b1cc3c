"""Tokens that other targets are learnt of, or that count in one run's loss only."""

from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.runs.token_losses import CountedTokens, OtherTargets

_MAX_NAMED = 4
"""Samples that the sentence names."""


def loss_targets(findings: Findings) -> Diagnosis | None:
    """Says which tokens' targets, or which tokens, the candidate's loss has otherwise.

    Read off the first gradient, behind a forward that agrees.
    """
    found = findings.evidence.runs.tokens
    if isinstance(found, CountedTokens):
        sentence, evidence = _counted(found)
    elif isinstance(found, OtherTargets):
        sentence, evidence = _targets(found)
    else:
        return None
    return Diagnosis(
        code="loss_targets",
        sentence=sentence,
        evidence=evidence,
        tensor_ids=(str(found.id),),
    )


def _counted(found: CountedTokens) -> tuple[str, dict[str, str | float]]:
    these = []
    if found.more:
        these.append(f"{found.more} that count in the candidate only")
    if found.less:
        these.append(f"{found.less} that count in the reference only")
    target = ""
    if found.target is not None:
        target = f". The target of all of these is {found.target}"
    return (
        f"the forward agrees, and {found.candidate} tokens count in the candidate's "
        f"loss of {_where(found)}, {found.reference} in the reference's: its gradient "
        f"has {' and '.join(these)}; all others count alike{target}. Look at which "
        "labels the loss ignores, such as those of padding (ignore_index, the mask)",
        {
            "reference": found.reference,
            "candidate": found.candidate,
            "more": found.more,
            "less": found.less,
        },
    )


def _targets(found: OtherTargets) -> tuple[str, dict[str, str | float]]:
    evidence: dict[str, str | float] = {
        "differing": found.differing,
        "counted": found.counted,
    }
    said = (
        "the forward agrees, and the gradient of the cross entropy shows other targets "
        f"in {_where(found)}: of {found.differing} tokens of {found.counted}. "
    )
    if found.shift is not None:
        dim, by = found.shift
        evidence["shift"] = by
        positions = "position" if abs(by) == 1 else "positions"
        said += (
            f"They are those that the reference has {abs(by)} {positions} "
            f"{'further on' if by > 0 else 'before'} (dim {dim}): look at where labels "
            "are shifted, which is to be done once, by the data or by the loss"
        )
    elif found.of is not None:
        evidence["of"] = str(found.of)
        said += (
            f"They are those of step {found.of.step}, micro-batch "
            f"{found.of.microbatch}, of the reference: look at how labels and outputs "
            "are brought together"
        )
    elif found.samples:
        moved = [(i, j) for i, j in enumerate(found.samples) if i != j]
        named = ", ".join(f"{i} has those of {j}" for i, j in moved[:_MAX_NAMED])
        more = len(moved) - _MAX_NAMED
        evidence["samples"] = len(moved)
        said += (
            f"Samples (dim {found.samples_dim}) have those of others: {named}"
            f"{f', and {more} more' if more > 0 else ''}. Look at how labels are cut "
            "over ranks or devices, which is to be as tokens are"
        )
    else:
        said += (
            "Look at the labels that the loss is given: whether they are of the same "
            "samples as the tokens, and whether something writes to them meanwhile"
        )
    return said, evidence


def _where(found: CountedTokens | OtherTargets) -> str:
    if found.id.microbatch is None:
        return f"step {found.id.step}"
    return f"step {found.id.step}, micro-batch {found.id.microbatch}"
