"""What a run says of itself that trains nothing: groups without a rate, warnings."""

from ttrace.ir.kinds import Kind
from ttrace.ir.step_notes import UNSCALED_BACKWARDS, scales_of_steps
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_warnings import warnings_in
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis
from ttrace.judge.lint.facts import RunFacts

_MAX_NAMED = 3


def zero_rate(run: RunFacts) -> Diagnosis | None:
    """Groups of parameters whose learning rate is 0 in all recorded steps."""
    by_group: dict[str | None, list[TensorId]] = {}
    for id_ in run.tensors:
        if id_.kind is Kind.LEARNING_RATE:
            by_group.setdefault(id_.slot, []).append(id_)
    idle = {
        group: ids
        for group, ids in by_group.items()
        if all(run.tensors[id_].is_zero for id_ in ids)
    }
    if not idle:
        return None
    num_steps = len({id_.step for ids in idle.values() for id_ in ids})
    still = _still(run)
    names = ", ".join(still[:_MAX_NAMED])
    more = len(still) - _MAX_NAMED
    which = f" ({names}{f' and {more} more' if more > 0 else ''} did not change)"
    groups = ", ".join(str(group or "the optimizer") for group in idle)
    steps = f"all {num_steps} recorded steps" if num_steps > 1 else "the recorded step"
    return Diagnosis(
        code="zero_rate",
        sentence=f"the learning rate of {groups} is 0 in {steps}: nothing trains the "
        f"parameters of {'it' if len(idle) == 1 else 'these groups'}"
        f"{which if still else ''}. If that is not meant, look at the group's lr and "
        "at its schedule; where a warm-up starts from 0, record more steps",
        evidence={"groups": groups, "num_steps": num_steps},
        tensor_ids=tuple(str(id_) for ids in idle.values() for id_ in ids)[:MAX_IDS],
    )


def _still(run: RunFacts) -> list[str]:
    """Parameters with a gradient that no recorded step changed."""
    contents: dict[tuple[str, str | None], set[bytes]] = {}
    with_gradient = set()
    for id_, facts in run.tensors.items():
        name = (id_.module, id_.slot)
        if id_.kind in (Kind.PARAM, Kind.UPDATED_PARAM, Kind.WRITTEN_PARAM):
            contents.setdefault(name, set()).add(facts.content)
        elif id_.kind is Kind.MAIN_GRAD and not facts.is_zero:
            with_gradient.add(name)
    updated = {
        (id_.module, id_.slot) for id_ in run.tensors if id_.kind is Kind.UPDATED_PARAM
    }
    return [
        f"{module}.{slot}"
        for (module, slot), of_one in contents.items()
        if len(of_one) == 1 and (module, slot) in with_gradient & updated
    ]


def unscaled_backward(run: RunFacts) -> Diagnosis | None:
    """Steps in which a scaler divides gradients whose loss it had not multiplied."""
    settings = run.trace.info.ranks[0].settings
    found = scales_of_steps(settings, UNSCALED_BACKWARDS)
    if not found:
        return None
    scale, steps = found[0]
    return Diagnosis(
        code="unscaled_backward",
        sentence=f"in step {min(steps, default=0)} gradients are unscaled by {scale}, "
        "and no backward that made them started from scaler.scale(loss): call "
        "scaler.scale(loss).backward()",
        evidence={"loss_scale": float(scale), "num_steps": len(steps)},
        tensor_ids=(),
    )


def warnings(run: RunFacts) -> Diagnosis | None:
    """What was said in the log as the run was recorded, said again."""
    said = warnings_in(rank.settings for rank in run.trace.info.ranks)
    if not said:
        return None
    sentences = " ".join(
        line if line.endswith((".", "?")) else f"{line}." for line in said
    )
    return Diagnosis(
        code="warnings",
        sentence=f"as it was recorded, the log said: {sentences}",
        evidence={"num_warnings": len(said)},
        tensor_ids=(),
    )
