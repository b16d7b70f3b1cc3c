"""Where the code is of the modules that a report names; as values and as lines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.module_code import ModuleCode, code_of
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.report.isolation import IsolatedPlace
from ttrace.report.model import Report, TensorReport
from ttrace.report.places import place_of

MAX_MODULES = 3
"""Modules whose code is named in lines; a table of findings has all."""

_OWN = frozenset({Kind.OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})
"""What a module computes itself."""

_GIVEN = frozenset({Kind.INPUT, Kind.GRAD_OUTPUT})
"""What comes to a module from the code around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePlace:
    """The code of a module of which something is wrong.

    Attributes:
        module: Its path, as the report has it.
        reference: That of the reference, or of the nearest module around it that is
            none of a library of layers; None where no trace tells.
        candidate: The same of the candidate.
    """

    module: str
    reference: ModuleCode | None
    candidate: ModuleCode | None


def code_places(report: Report) -> Iterator[CodePlace]:
    """The code of all places that a report names, as far as the runs tell."""
    for module in dict.fromkeys(_modules(report)):
        place = code_of_module(report, module)
        if place is not None:
            yield place


def code_of_module(report: Report, module: str) -> CodePlace | None:
    """The code of a module; None where no trace tells."""
    runs = report.setup.reference, report.setup.candidate
    reference, candidate = (code_of(module, run.code) for run in runs)
    if reference is None and candidate is None:
        return None
    return CodePlace(module=module, reference=reference, candidate=candidate)


def code_of_operation(place: IsolatedPlace) -> CodePlace | None:
    """The line of the operation that is wrong in a place; None where none is named."""
    found = place.operation
    if found is None:
        return None
    candidate = _code_at(found.source, found.name, place.module)
    reference = _code_at(found.reference_source, found.reference_name, place.module)
    if candidate is None and reference is None:
        return None
    return CodePlace(module=place.module, reference=reference, candidate=candidate)


def _code_at(line: str, name: str, module: str) -> ModuleCode | None:
    file, _, number = line.rpartition(":")
    if not file or not number.isdigit():
        return None
    return ModuleCode(module=module, name=name, file=file, line=int(number))


def computed_by(tensor: TensorReport) -> str | None:
    """The module in whose code a tensor is computed.

    Returns:
        None of what is computed elsewhere, such as sums over ranks and updates, and of
        what a model is given.
    """
    module = place_of(tensor).module
    if tensor.kind in _OWN:
        return module
    if tensor.kind in _GIVEN and module != ROOT_MODULE:
        return module.rpartition(".")[0] or ROOT_MODULE
    return None


def code_lines(report: Report) -> Iterable[str]:
    """``code of h.0.attn.out: within Attention.forward (models/gpt.py:42)``."""
    for number, place in enumerate(code_places(report)):
        if number == MAX_MODULES:
            return
        yield _line(place)


def _modules(report: Report) -> Iterator[str]:
    """Those that were shown to be wrong by themselves come first."""
    if report.isolation is not None:
        yield from (place.module for place in report.isolation.isolated)
    begun = dict.fromkeys(culprit.id for culprit in report.culprits)
    if report.first_divergence is not None:
        begun.setdefault(report.first_divergence.id)
    found = {t.id: t for t in report.tensors if t.id in begun}
    for id_ in begun:
        module = computed_by(found[id_]) if id_ in found else None
        if module is not None:
            yield module


def _line(place: CodePlace) -> str:
    sides = {"candidate": place.candidate, "reference": place.reference}
    said = [
        f"{_words(place.module, code)} in the {side}"
        for side, code in sides.items()
        if code is not None
    ]
    if place.candidate == place.reference and place.candidate is not None:
        said = [_words(place.module, place.candidate)]
    name = "the model" if place.module == ROOT_MODULE else place.module
    return f"code of {name}: {'; '.join(said)}"


def _words(module: str, code: ModuleCode) -> str:
    within = "" if code.module == module else "within "
    return f"{within}{code.name} ({code.file}:{code.line})"
