"""Parameters that are one in one run, and two in the other."""

from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.runs.tied_parameters import SplitTie


def split_ties(findings: Findings) -> Diagnosis | None:
    """Says which parameter is a copy that is trained on its own."""
    found = findings.evidence.runs.split_ties
    if not found:
        return _lost_share(findings)
    first = found[0]
    names = {each.copy.name for each in found} | {each.copy.original for each in found}
    about = [
        verdict
        for verdict in findings.verdicts
        if (verdict.id.module, verdict.id.slot) in names
        and (verdict.present is not None or verdict in findings.failed)
    ]
    is_torch = findings.candidate.ranks[0].framework == "torch"
    sentences = (
        _apart(each) if each.lies_apart else _own(each, is_torch=is_torch)
        for each in found
    )
    return Diagnosis(
        code="split_ties",
        sentence="; ".join(sentences),
        evidence={
            "num_copies": len(found),
            **({} if first.step is None else {"step": first.step}),
        },
        tensor_ids=ids_of(about),
    )


def _lost_share(findings: Findings) -> Diagnosis | None:
    """That a gradient has the share of one use of its parameter, and lacks another."""
    found = findings.evidence.place.share
    if found is None:
        return None
    what = (
        f"the gradient of {found.id.module}.{found.id.slot} in step {found.id.step} "
        f"(micro-batch {found.id.microbatch}) "
    )
    if found.lacks_lookups:
        what += (
            "is the reference's without what the look-ups of its rows add "
            f"({found.num_looked_up} rows), on all elements. What is left is of "
            "another use of that parameter, such as a head that is tied to it: look "
            "for what detaches it where it is looked up"
        )
    else:
        what += (
            "is what the look-ups of its rows add, on all elements "
            f"({found.num_looked_up} rows), and that of the reference "
            f"({found.num_rows} rows) has a share of another use of the parameter, "
            "such as a head that is tied to it. Look at whether that use is given the "
            "parameter itself in the candidate, not a copy of it or what is detached "
            "from it"
        )
    return Diagnosis(
        code="split_ties",
        sentence=what,
        evidence={
            "step": found.id.step,
            "num_rows": found.num_rows,
            "num_looked_up": found.num_looked_up,
        },
        tensor_ids=(str(found.id),),
    )


def _own(found: SplitTie, *, is_torch: bool) -> str:
    copy, original, side, other = _names(found)
    sentence = (
        f"{copy} begins as a copy of {original} and is a parameter of its own in the "
        f"{side}; in the {other} they are one: it has {original} alone, and runs "
        f"{found.copy.name[0]} too"
    )
    if found.step is not None:
        sentence += (
            f". In step {found.step} the gradients of both add up to that of the "
            f"{other}"
        )
    module, slot = found.copy.name
    of, of_slot = found.copy.original
    if side is Side.CANDIDATE and is_torch:
        return (
            f"{sentence}. Tie them in the candidate ({module}.{slot} = {of}.{of_slot}, "
            "before the optimizer is made), or untie them in the reference"
        )
    return f"{sentence}. Tie them in both runs, or in neither"


def _apart(found: SplitTie) -> str:
    copy, original, side, other = _names(found)
    return (
        f"{copy} and {original} are one parameter in the {other}, and begin alike on "
        f"ranks of their own in the {side}, where their gradients are not added up: in "
        f"step {found.step} each is given its own part, and the two add up to the "
        f"gradient of the {other}. Sum the gradients of the ranks that share the "
        "parameter (all_reduce) before optimizer.step()"
    )


def _names(found: SplitTie) -> tuple[str, str, Side, Side]:
    side = found.copy.side
    other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
    return ".".join(found.copy.name), ".".join(found.copy.original), side, other
