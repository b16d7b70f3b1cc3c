"""A module that both runs have, and that one of them alone trains."""

from collections.abc import Iterable, Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.absences.one_sided_parameters import few
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_COMPARED = (Status.PASSED, Status.FAILED)

_OTHER = {Side.REFERENCE: Side.CANDIDATE, Side.CANDIDATE: Side.REFERENCE}


def trained_in_one(findings: Findings) -> Diagnosis | None:
    """Names modules whose parameters one run alone gives to its optimizer.

    Under names of its own, such as the copy that PEFT trains: what has one name in both
    runs, other rules tell. Only where the module's outputs were compared in the first
    step and agree, and the other run has parameters in it and a gradient of none.
    """
    step = min((v.id.step for v in findings.verdicts), default=0)
    of_step = [v for v in findings.verdicts if v.id.step == step]
    gradients = [v for v in of_step if v.id.kind is Kind.MAIN_GRAD]
    if not any(v.status in _COMPARED for v in gradients):
        return None
    outputs: dict[str, set[Status]] = {}
    for verdict in of_step:
        if verdict.id.kind is Kind.OUTPUT and verdict.present is None:
            outputs.setdefault(verdict.id.module, set()).add(verdict.status)
    agreeing = {
        module
        for module, statuses in outputs.items()
        if module != ROOT_MODULE and statuses == {Status.PASSED}
    }
    parameters = [v for v in of_step if v.id.kind is Kind.PARAM]
    of_both = {(v.id.module, v.id.slot) for v in parameters if v.present is None}
    for side in Side:
        trained = [
            v
            for v in gradients
            if v.status is Status.UNMATCHED
            and v.present is side
            and not v.beyond
            and (v.id.module, v.id.slot) not in of_both
        ]
        around = {v.id: _around(v.id.module, agreeing) for v in trained}
        modules = dict.fromkeys(m for m in around.values() if m is not None)
        held = _held(modules, (v for v in parameters if v.present is not side))
        given = _held(modules, (v for v in gradients if v.present is not side))
        found = [module for module in modules if held[module] and not given[module]]
        if found:
            verdicts = [v for v in trained if around[v.id] in found]
            frozen = [v for module in found for v in held[module]]
            norm = any(
                v.id.kind is Kind.GRAD_NORM and v.status is Status.FAILED
                for v in of_step
            )
            return _found(found, verdicts, frozen, side, step, norm_differs=norm)
    return None


def _around(module: str, agreeing: set[str]) -> str | None:
    """The innermost of some modules that a module is in; itself counts."""
    while module not in agreeing:
        module, dot, _ = module.rpartition(".")
        if not dot:
            return None
    return module


def _held(
    modules: Iterable[str], verdicts: Iterable[TensorVerdict]
) -> dict[str, list[TensorVerdict]]:
    """By module the tensors of it, and of what is inside of it."""
    found: dict[str, list[TensorVerdict]] = {module: [] for module in modules}
    for verdict in verdicts:
        module = verdict.id.module
        while module:
            if module in found:
                found[module].append(verdict)
            module = module.rpartition(".")[0]
    return found


def _found(
    modules: Sequence[str],
    trained: Sequence[TensorVerdict],
    frozen: Sequence[TensorVerdict],
    side: Side,
    step: int,
    *,
    norm_differs: bool,
) -> Diagnosis:
    norm = (
        "; grad_norm, which is taken of all gradients, and what is clipped by it "
        "differ with them"
    )
    is_one = len(modules) == 1
    return Diagnosis(
        code="trained_in_one",
        sentence=f"{few(modules)} {'is' if is_one else 'are'} trained in the {side} "
        f"only: its optimizer is given a gradient of {_names(trained)} in step {step}, "
        f"and that of the {_OTHER[side]} none of {_names(frozen)}, although the "
        f"outputs agree{norm if norm_differs else ''}. "
        f"Train {'it' if is_one else 'them'} in both runs, or in neither: look at what "
        "is frozen, and at modules_to_save of PEFT",
        evidence={"side": side.value, "number": len(trained)},
        tensor_ids=ids_of(trained),
    )


def _names(verdicts: Sequence[TensorVerdict]) -> str:
    return few([f"{v.id.module}/{v.id.slot}" for v in verdicts])
