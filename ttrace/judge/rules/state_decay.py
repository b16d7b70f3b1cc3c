"""Weight decay that goes through the moments of an optimizer in one run only."""

from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, Findings, tensors
from ttrace.judge.optimizers.state_decay import is_state
from ttrace.judge.optimizers.update_fit import common_value
from ttrace.judge.reading.failures import examined_text

_MAX_NAMED = 3

_SETTINGS = frozenset({"decoupled_weight_decay", "weight_decay"})


def state_decay(findings: Findings) -> Diagnosis | None:
    """Says in which run, and by which share of the parameter."""
    found = findings.evidence.optimizer.state_decays
    share = common_value([each.share for each in found])
    if share is None:
        return None
    more, less = "candidate", "reference"
    if share < 0:
        more, less = less, more
    names = [f"{each.id.module}/{each.id.slot}" for each in found]
    rest = len(names) - _MAX_NAMED
    named = ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    differ = "differs" if len(found) == 1 else "differ"
    examined = examined_text(findings.verdicts, is_state)
    settings = [
        d.sentence for d in findings.evidence.optimizer.settings if d.name in _SETTINGS
    ]
    told = f" ({'; '.join(settings)})" if settings else ""
    return Diagnosis(
        code="weight_decay_in_moments",
        sentence=f"{tensors(len(found))} (optimizer_state){examined} {differ} by "
        f"{abs(share):.3g} times the parameter in step {found[0].id.step} while their "
        f"gradients agree: the {more} adds more of a weight decay to the gradient "
        f"before its moments (L2) than the {less}{told}, on {named}. Decay by as much, "
        "and in the same place, in both: before the moments, or behind them "
        "(decoupled)",
        evidence={"share_of_parameter": share},
        tensor_ids=tuple(str(each.id) for each in found[:MAX_IDS]),
    )
