"""Parameters that are not trained: never updated, or without a gradient at times."""

from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, tensors
from ttrace.judge.lint.facts import Facts, RunFacts

_Name = tuple[str, str | None]
"""Module and slot of a parameter."""

_ADAM = (".exp_avg", ".mu")
"""Names of states of optimizers whose first steps are as long as the learning rate."""

_ROUNDED = 8.0
"""Epsilons of the largest element, that an update must be larger than to show."""


def never_updated(run: RunFacts) -> Diagnosis | None:
    """Parameters that no step changed, though what the optimizer was given is not zero.

    Said where an update would show in the parameter's dtype, by the learning rate of
    every group, and where the step changed others.
    """
    skipped = skipped_steps(run.trace.info)
    before: dict[_Name, Facts] = {
        _name(id_): facts
        for id_, facts in run.tensors.items()
        if id_.kind is Kind.PARAM
    }
    by_step: dict[int, list[TensorId]] = {}
    for id_ in run.tensors:
        by_step.setdefault(id_.step, []).append(id_)
    changed: set[_Name] = set()
    stuck: dict[_Name, TensorId] = {}
    for step in sorted(by_step):
        updated = [id_ for id_ in by_step[step] if id_.kind is Kind.UPDATED_PARAM]
        moved = {
            _name(id_)
            for id_ in updated
            if _name(id_) in before
            and before[_name(id_)].content != run.tensors[id_].content
        }
        rates = [
            run.tensors[id_].largest
            for id_ in by_step[step]
            if id_.kind is Kind.LEARNING_RATE
        ]
        for id_ in updated:
            name = _name(id_)
            is_same = name in before and name not in moved
            if is_same and moved and step not in skipped:
                if _would_show(id_, rates, before[name], run):
                    stuck.setdefault(name, id_)
            before[name] = run.tensors[id_]
        for id_ in by_step[step]:
            if id_.kind is Kind.WRITTEN_PARAM:
                before[_name(id_)] = run.tensors[id_]
        changed |= moved
    found = [id_ for name, id_ in stuck.items() if name not in changed]
    if not found:
        return None
    return Diagnosis(
        code="never_updated",
        sentence=f"{tensors(len(found))} did not change in any recorded step that "
        "changed others, though what the optimizer was given is not zero, first "
        f"{found[0]}: if that is not meant, the optimizer does not hold these "
        "parameters, or what it computes is not written back to them",
        evidence={"num_tensors": len(found)},
        tensor_ids=tuple(map(str, found[:MAX_IDS])),
    )


def _would_show(
    updated: TensorId, rates: list[float], before: Facts, run: RunFacts
) -> bool:
    """Whether the update of a parameter is larger than its dtype's resolution."""
    gradient = run.tensors.get(replace(updated, kind=Kind.CLIPPED_GRAD))
    gradient = gradient or run.tensors.get(replace(updated, kind=Kind.MAIN_GRAD))
    if gradient is None or not gradient.largest or gradient.num_nan + gradient.num_inf:
        return False
    if not rates:
        return True  # of JAX none are recorded
    length = min(rates)
    slots = [f"{updated.slot}{state}" for state in _ADAM]
    states = [replace(updated, kind=Kind.OPTIMIZER_STATE, slot=slot) for slot in slots]
    if not any(state in run.tensors for state in states):
        length *= gradient.largest
    return length > _ROUNDED * (before.epsilon or 0.0) * before.largest


def no_gradient(run: RunFacts) -> Diagnosis | None:
    """Parameters without a gradient in a step or micro-batch, which another one has.

    Where their module ran, and other parameters have one.
    """
    skipped = skipped_steps(run.trace.info)
    ran = {
        (id_.step, id_.microbatch, id_.module)
        for id_, facts in run.tensors.items()
        if id_.kind is Kind.OUTPUT and id_.pass_ is Pass.FORWARD and facts.count
    }
    ran |= {(step, None, module) for step, _, module in ran}
    missing: list[TensorId] = []
    for kind in (Kind.PARAM_GRAD, Kind.MAIN_GRAD):
        by_time: dict[tuple[int, int | None], dict[_Name, TensorId]] = {}
        for id_ in (*run.tensors, *run.trace.info.skipped):
            if id_.kind is kind and id_.slot is not None:  # not a whole step
                by_time.setdefault((id_.step, id_.microbatch), {})[_name(id_)] = id_
        known: dict[_Name, TensorId] = {}
        for of_one in by_time.values():
            known = {**of_one, **known}
        missing += [
            replace(id_, step=step, microbatch=number)
            for (step, number), of_one in by_time.items()
            if step not in skipped
            for name, id_ in known.items()
            if name not in of_one and (step, number, name[0]) in ran
        ]
    if not missing:
        return None
    return Diagnosis(
        code="no_gradient",
        sentence=f"there is no {missing[0]}, though {missing[0].module} ran, others "
        "have a gradient there, and this parameter has one elsewhere in the run; "
        f"{tensors(len(missing))} in all: look for a detach(), a no_grad() block, a "
        "stop_gradient, or an output that the loss does not use",
        evidence={"num_tensors": len(missing)},
        tensor_ids=tuple(map(str, missing[:MAX_IDS])),
    )


def _name(tensor_id: TensorId) -> _Name:
    return tensor_id.module, tensor_id.slot
