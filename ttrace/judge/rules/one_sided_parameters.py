"""A module with parameters that it has in one of the runs only."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, parse_tensor_id
from ttrace.judge.absences.one_sided_parameters import few, of_side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import TensorVerdict


def one_sided_parameters(findings: Findings) -> Diagnosis | None:
    """Names them, where an output of the module is the first to differ.

    Or where that is of a module beside one that has no counterpart, such as a norm that
    a port leaves out: what it ought to be given comes next.

    Nothing is said where either run has some there that the other has not: they may be
    the same ones under other names, or cut otherwise. Nor of layers that one run lacks.
    """
    first = findings.evidence.place.first
    if first is None or not any(str(v.id) == first.id for v in findings.failed):
        return None
    module, kind = first.module, parse_tensor_id(first.id).kind
    if module == ROOT_MODULE or kind not in (Kind.INPUT, Kind.OUTPUT):
        return None
    absences = findings.evidence.runs.absences
    known = [
        v
        for v in absences.parameters
        if not any(layer.has(v.id.module) for layer in absences.layers)
    ]
    here = [v for v in known if _is_in(v, module)] if kind is Kind.OUTPUT else []
    is_beside = not here
    if is_beside:
        here = [v for v in known if _parent(v.id.module) == _parent(module)]
    sides = {v.present for v in here}
    if len(sides) != 1:
        return None
    if is_beside:
        here = [v for v in here if v.id.module == here[0].id.module]
    side = Side.REFERENCE if Side.REFERENCE in sides else Side.CANDIDATE
    elsewhere = len(of_side(known, side)) - len(here)
    are = "are" if elsewhere > 1 else "is"
    more = (
        f"; {elsewhere} more, of other modules, {are} in the {side} only"
        if elsewhere
        else ""
    )
    plural = "s" if len(here) > 1 else ""
    if is_beside:
        module = here[0].id.module
    names = _names(here, module)
    what = "is the first to differ"
    says = (
        f"{module} is in the {side} only, with its parameter{plural} {names}, and "
        f"{kind} {parse_tensor_id(first.id).slot} of {first.module} beside it {what}"
        if is_beside
        else f"{module} has parameter{plural} {names} in the {side} only, and its "
        f"output {what}"
    )
    return Diagnosis(
        code="one_sided_parameters",
        sentence=f"{says}{more}: build both models with the same parameters, such as "
        "adapters, norms or biases of the same modules and layers",
        evidence={"module": module, "side": side.value, "number": len(here)},
        tensor_ids=ids_of(here),
    )


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def _is_in(verdict: TensorVerdict, module: str) -> bool:
    return verdict.id.module == module or verdict.id.module.startswith(f"{module}.")


def _names(verdicts: Sequence[TensorVerdict], module: str) -> str:
    """By their paths within the module: ``lora_A.default/weight, bias``."""
    return few(
        [
            f"{v.id.module[len(module) + 1 :]}/{v.id.slot}".removeprefix("/")
            for v in verdicts
        ]
    )
