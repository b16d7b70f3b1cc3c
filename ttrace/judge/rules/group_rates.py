"""Groups of parameters that have another learning rate than in the reference."""

from ttrace.ir.kinds import Kind
from ttrace.ir.optimizer_settings import groups_text
from ttrace.ir.parameter_groups import Name, groups_in
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict


def group_rates(findings: Findings) -> Diagnosis | None:
    """Names the groups, with a parameter of each; the first step in which any differs.

    Where an optimizer has several groups, and the trace says what is in them.
    """
    found = [
        (verdict, held)
        for verdict in findings.failed
        if verdict.id.kind is Kind.LEARNING_RATE
        and verdict.cause is Cause.ERROR
        and verdict.result is not None
        and (held := _held(verdict, findings))
    ]
    if not found:
        return None
    step = min(verdict.id.step for verdict, _ in found)
    found = [(verdict, held) for verdict, held in found if verdict.id.step == step]
    clauses, evidence = [], {}
    for verdict, (group, names) in found:
        assert verdict.result is not None
        stats = verdict.result.stats
        ours, theirs = stats.max_abs_candidate, stats.max_abs_reference
        name = _text(next(iter(names)))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        clauses.append(
            f"that of {groups_text([group])} ({name}{more}) is {ours:.7g}, "
            f"and {theirs:.7g} in the reference"
        )
        evidence |= {f"{group} of the candidate": ours, f"{group}, reference": theirs}
    return Diagnosis(
        code="group_rates",
        sentence=f"learning rates differ in step {step} of the candidate: "
        f"{'; '.join(clauses)}. Look at the lr of the group, and at its schedule",
        evidence=evidence,
        tensor_ids=ids_of([verdict for verdict, _ in found]),
    )


def _held(
    verdict: TensorVerdict, findings: Findings
) -> tuple[str, tuple[Name, ...]] | None:
    """The candidate's group of a learning rate, and what it holds; None if unknown."""
    assert verdict.result is not None
    (shard, *_) = verdict.result.plan.match.candidate.shards
    group = shard.id.slot or ""
    held: dict[Name, None] = {}
    for rank in findings.candidate.ranks:
        held |= dict.fromkeys(sorted(groups_in(rank.settings).get(group, ())))
    return (group, tuple(held)) if held else None


def _text(name: Name) -> str:
    module, slot = name
    return slot if module == ROOT_MODULE else f"{module}.{slot}"
