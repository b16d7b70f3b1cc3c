"""Values that are those of before, to the bit, though what makes them is not."""

from collections.abc import Iterable
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, tensors
from ttrace.judge.lint.facts import Facts, RunFacts

_LEAST_ELEMENTS = 8
"""Elements of a tensor that is not equal to another one by chance."""

_UPDATED = (Kind.UPDATED_PARAM, Kind.WRITTEN_PARAM)

_Call = tuple[int, int | None, str, int]
"""Step, micro-batch, module and call."""


def stale_activation(run: RunFacts) -> Diagnosis | None:
    """Outputs that are those of the micro-batch, or of the step, before.

    Said where the module's own inputs have other values of the same shape, and it is
    known to depend on them: in the same step other micro-batches have other outputs, or
    a gradient goes to its input, or parameters of its own have changed. What a module
    makes of shapes and positions alone is the same each time.
    """
    inputs = _inputs(run)
    held = _held(run)
    depends = _depends_on_inputs(run)
    stale = []
    for id_, facts in run.tensors.items():
        if id_.kind is not Kind.OUTPUT or id_.pass_ is not Pass.FORWARD:
            continue
        if not facts.is_float or facts.is_constant or facts.count < _LEAST_ELEMENTS:
            continue
        for before in _before(id_, run):
            other = run.tensors.get(before)
            if other is None or other.content != facts.content:
                continue
            if not _are_others(inputs.get(_call(id_)), inputs.get(_call(before))):
                continue
            is_updated = id_.step != before.step and (
                held.get((id_.step, id_.module)) != held.get((before.step, id_.module))
            )
            has_gradient = any(
                not facts.is_zero
                for facts in (
                    run.tensors.get(replace(given, kind=Kind.GRAD_INPUT))
                    for given in inputs[_call(id_)]
                )
                if facts is not None
            )
            is_shown = (id_.module, id_.slot, id_.step) in depends
            if is_updated or has_gradient or is_shown:
                stale.append((id_, before))
                break
    if not stale:
        return None
    first, before = stale[0]
    what = "step" if first.step != before.step else "micro-batch"
    return Diagnosis(
        code="stale_activation",
        sentence=f"{first} is, bit for bit, that of the {what} before ({before}), "
        f"though what {first.module} was given is not; {tensors(len(stale))} in all: "
        "look for a cache, a buffer that is read before it is written, or a variable "
        "of the loop that is not renewed",
        evidence={"num_tensors": len(stale)},
        tensor_ids=tuple(str(id_) for id_, _ in stale[:MAX_IDS]),
    )


def stale_gradient(run: RunFacts) -> Diagnosis | None:
    """Gradients of matrices that are those of the step before, on other data."""
    data = {
        step: {
            id_: facts.content
            for id_, facts in _of_step(run, step)
            if id_.kind is Kind.INPUT and id_.module == ROOT_MODULE
        }
        for step in {id_.step for id_ in run.tensors}
    }
    stale = []
    for id_, facts in run.tensors.items():
        if id_.kind not in (Kind.PARAM_GRAD, Kind.MAIN_GRAD) or not id_.step:
            continue
        if facts.is_constant or facts.num_dims < 2 or facts.count < _LEAST_ELEMENTS:
            continue
        before = run.tensors.get(replace(id_, step=id_.step - 1))
        if before is None or before.content != facts.content:
            continue
        now = list(data[id_.step].values())
        if now and now != list(data.get(id_.step - 1, {}).values()):
            stale.append(id_)
    if not stale:
        return None
    return Diagnosis(
        code="stale_gradient",
        sentence=f"{stale[0]} is, bit for bit, that of the step before, though the "
        f"model was given other data; {tensors(len(stale))} in all: look for a "
        "backward that does not run, or for gradients that are copied from where "
        "nothing was written to",
        evidence={"num_tensors": len(stale)},
        tensor_ids=tuple(map(str, stale[:MAX_IDS])),
    )


def _of_step(run: RunFacts, step: int) -> Iterable[tuple[TensorId, Facts]]:
    return ((id_, facts) for id_, facts in run.tensors.items() if id_.step == step)


def _call(tensor_id: TensorId) -> _Call:
    return tensor_id.step, tensor_id.microbatch, tensor_id.module, tensor_id.call


def _before(tensor_id: TensorId, run: RunFacts) -> Iterable[TensorId]:
    """The same of the micro-batch before, and of the step before."""
    if tensor_id.microbatch:
        yield replace(tensor_id, microbatch=tensor_id.microbatch - 1)
    if tensor_id.step:
        yield replace(tensor_id, step=tensor_id.step - 1)


def _inputs(run: RunFacts) -> dict[_Call, dict[TensorId, Facts]]:
    """Inputs of each call, of its first forward."""
    found: dict[_Call, dict[TensorId, Facts]] = {}
    for id_, facts in run.tensors.items():
        if id_.kind is Kind.INPUT and id_.pass_ is Pass.FORWARD:
            found.setdefault(_call(id_), {})[id_] = facts
    return found


def _are_others(
    now: dict[TensorId, Facts] | None, before: dict[TensorId, Facts] | None
) -> bool:
    """Whether both were recorded, and values differ; all counts are equal."""
    if not now or not before or len(now) != len(before):
        return False
    pairs = list(zip(now.values(), before.values(), strict=True))
    return all(one.count == other.count for one, other in pairs) and any(
        one.content != other.content for one, other in pairs
    )


def _held(run: RunFacts) -> dict[tuple[int, str], tuple[bytes, ...]]:
    """Contents of the parameters that a module itself holds when a step begins."""
    now: dict[str, dict[str | None, bytes]] = {}
    for id_, facts in run.tensors.items():
        if id_.kind is Kind.PARAM:
            now.setdefault(id_.module, {})[id_.slot] = facts.content
    found: dict[tuple[int, str], tuple[bytes, ...]] = {}
    for step in sorted({id_.step for id_ in run.tensors}):
        found |= {(step, module): tuple(of.values()) for module, of in now.items()}
        for id_, facts in _of_step(run, step):
            if id_.kind in _UPDATED and id_.slot in now.get(id_.module, {}):
                now[id_.module][id_.slot] = facts.content
    return found


def _depends_on_inputs(run: RunFacts) -> set[tuple[str, str | None, int]]:
    """Outputs of which a step has several values, in its micro-batches."""
    contents: dict[tuple[str, str | None, int], set[bytes]] = {}
    for id_, facts in run.tensors.items():
        if id_.kind is Kind.OUTPUT and id_.pass_ is Pass.FORWARD:
            name = (id_.module, id_.slot, id_.step)
            contents.setdefault(name, set()).add(facts.content)
    return {name for name, different in contents.items() if len(different) > 1}
