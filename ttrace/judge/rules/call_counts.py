"""A module that one run calls more often in a micro-batch than the other."""

from ttrace.compare.calls.call_counts import calls_text
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.structure import layers_left_out
from ttrace.judge.verdicts.verdict import Status

_MAX_NAMED = 4


def call_counts(findings: Findings) -> Diagnosis | None:
    """Names the modules whose calls cannot be paired, and what fails beside them.

    Not where all of them run in one run only: that is told by other rules.
    """
    counts = findings.evidence.runs.calls
    of_calls = [v for v in findings.verdicts if findings.evidence.runs.is_of_call(v)]
    if not of_calls:
        return None
    step = min(verdict.id.step for verdict in of_calls)
    modules = dict.fromkeys(v.id.module for v in of_calls if v.id.step == step)
    outermost = [
        module
        for module in modules
        if not any(module.startswith(f"{other}.") for other in modules)
    ]
    names = list(dict.fromkeys(map(layers_left_out, outermost)))
    more = len(names) - _MAX_NAMED
    which = ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    said = calls_text(
        count
        for (of_step, _, module), count in counts.items()
        if of_step == step and module in outermost
    )
    are, their = ("is", "its") if len(names) == 1 else ("are", "their")
    others = [v for v in findings.failed if not findings.evidence.runs.is_of_call(v)]
    others += [
        v
        for v in findings.verdicts
        if v.status is Status.UNMATCHED and not findings.evidence.runs.is_of_call(v)
    ]
    beside = (
        f"what fails beside them is {others[0].id}"
        + (f" and {len(others) - 1} more: look there" if len(others) > 1 else "")
        if others
        else "nothing else fails, and no loss with gradients of their parameters was "
        "compared that would show what the calls come to: record these in both runs, "
        "or call the module alike"
    )
    return Diagnosis(
        code="call_counts",
        sentence=f"{which} {are} {said}, in step {step}: what {their} calls are given "
        f"and return has no counterpart, and fails for that alone; {beside}",
        evidence={"step": step, "modules": ",".join(outermost)},
        tensor_ids=ids_of(of_calls),
    )
