"""What is said of the first operation that differs: a sentence, and its fields."""

from collections.abc import Mapping, Sequence

import numpy as np

from ttrace.isolation.operations.agreement import Form, forms_agree, is_inexact
from ttrace.isolation.operations.call import Operation
from ttrace.isolation.operations.first_difference import Difference, FirstDifference
from ttrace.report.isolation import OperationFinding
from ttrace.report.wording import figure

_MAX_LINES = 3

Forms = Mapping[str, Sequence[Form]]


def finding_of(
    found: FirstDifference,
    candidate: Forms,
    reference: Forms,
    tolerance: float,
) -> OperationFinding:
    """Says what is known of the first operation that differs.

    Args:
        found: Which one, and how.
        candidate: The forms of the candidate's values.
        reference: Those of the reference.
        tolerance: As in ``forms_agree``.
    """
    one, other = found.operation, found.reference
    factor = None
    if other is not None and found.what is Difference.OTHER_RESULT:
        factor = _factor(*_results(found, candidate, reference), tolerance)
    return OperationFinding(
        name=_name(one),
        source=one.line,
        what=found.what.value,
        sentence=_SENTENCES[found.what](
            found, _compared(found, candidate, reference, tolerance, factor)
        ),
        reference_name="" if other is None else _name(other),
        reference_source="" if other is None else other.line,
        factor=factor,
    )


def _results(
    found: FirstDifference, candidate: Forms, reference: Forms
) -> tuple[Sequence[Form], Sequence[Form]]:
    """The forms of the results that do not agree; none where there is no twin."""
    one, other = found.operation, found.reference
    if other is None or found.result >= len(other.results):
        return (), ()
    ours, theirs = one.results[found.result], other.results[found.result]
    return candidate.get(ours, ()), reference.get(theirs, ())


def _name(operation: Operation) -> str:
    return operation.name.lstrip("_")


def _at(operation: Operation) -> str:
    """``mul` at model.py:88``."""
    line = f" at {operation.line}" if operation.line else ""
    return f"`{_name(operation)}`{line}"


def _other_result(found: FirstDifference, compared: str) -> str:
    assert found.reference is not None
    operands = "its operands agree, " if found.operation.operands else ""
    if found.unknown_operands:
        operands = f"{_unknown(found)}, "
    return (
        f"inside, the first operation that differs is {_at(found.operation)}: "
        f"{operands}its result {compared} the reference's "
        f"{_at(found.reference)}{_constants(found.operation, found.reference)}"
    )


def _unknown(found: FirstDifference) -> str:
    named = [origin for origin in found.unknown_operands if origin]
    what = (
        f"what it takes from outside ({', '.join(named)})"
        if named
        else "a tensor that it takes from outside"
    )
    return f"{what} has no twin in the reference's operations, all else agrees"


def _other_operands(found: FirstDifference, compared: str) -> str:
    assert found.reference is not None
    ours = ", ".join(found.takes) or "less"
    theirs = ", ".join(found.reference_takes) or "nothing of the kind"
    return (
        f"inside, the first operation that differs is {_at(found.operation)}: it takes "
        f"{ours}, where the reference's {_at(found.reference)} takes {theirs}"
        f"{_constants(found.operation, found.reference)}"
    )


def _missing(found: FirstDifference, compared: str) -> str:
    assert found.reference is not None
    where = f"comes before what the candidate's {_at(found.operation)} does at once"
    if found.is_at_end:
        where = (
            f"changes what the candidate hands on as {_at(found.operation)} gives it"
        )
    if found.is_at_end and found.takes:
        where = f"changes {found.takes[0]}, which the candidate hands on as it is"
    return (
        f"inside, the reference has an operation that the candidate lacks: its "
        f"{_at(found.reference)}{_with(found.reference)} {where}"
    )


def _extra(found: FirstDifference, compared: str) -> str:
    if found.reference is None:
        return (
            "inside, the candidate has an operation that the reference lacks: "
            f"{_at(found.operation)}{_with(found.operation)} changes what the "
            "reference hands on as it is"
        )
    return (
        "inside, the candidate has an operation that the reference lacks: "
        f"{_at(found.operation)}{_with(found.operation)} comes before what the "
        f"reference's {_at(found.reference)} does at once"
    )


def _other_way(found: FirstDifference, compared: str) -> str:
    ours = _row((found.operation, *found.further))
    theirs = _row(found.reference_further)
    if not found.operation.operands:
        return (
            f"inside, what {_at(found.operation)} makes is the first that no operation "
            "of the reference makes; whether it is wrong or another way to the same "
            "does not show there"
        )
    if not theirs:
        return (
            f"inside, what {_at(found.operation)} gives is the first that no operation "
            "of the reference gives, though what it takes agrees; whether it is wrong "
            "or another way to the same does not show there"
        )
    return (
        f"inside, the two differ from {_at(found.operation)} on, the operands of which "
        f"agree: the candidate goes on with {ours}, the reference with {theirs}, and "
        "nothing in between can be set against each other: compare these lines"
    )


def _returned(found: FirstDifference, compared: str) -> str:
    meant = (
        "something else"
        if found.reference is None
        else f"what its {_at(found.reference)} gives"
    )
    handed = found.takes[0] if found.takes else f"what {_at(found.operation)} gives"
    return (
        "inside, every operation behind the result agrees, but what is handed on is "
        f"{handed}, where the reference hands on {meant}"
    )


def _pending(found: FirstDifference, compared: str) -> str:
    meant = (
        "the reference has"
        if found.reference is None
        else f"the reference's {_at(found.reference)} gives"
    )
    return (
        f"inside, every operation agrees, and what {_at(found.operation)} gives is on "
        f"each rank a part of the sum that {meant}: nothing adds them up behind it; "
        "look for the all-reduce (or reduce-scatter) that is missing there"
    )


_SENTENCES = {
    Difference.PENDING: _pending,
    Difference.OTHER_RESULT: _other_result,
    Difference.OTHER_OPERANDS: _other_operands,
    Difference.MISSING: _missing,
    Difference.EXTRA: _extra,
    Difference.OTHER_WAY: _other_way,
    Difference.RETURNED: _returned,
}


def _row(operations: Sequence[Operation]) -> str:
    """``matmul`, `mul` and 3 more at model.py:88``: by line, in order."""
    by_line: dict[str, list[str]] = {}
    for one in operations:
        by_line.setdefault(one.line, []).append(f"`{_name(one)}`")
    rows = []
    for line, names in list(by_line.items())[:_MAX_LINES]:
        said = ", ".join(dict.fromkeys(names))
        rows.append(f"{said} at {line}" if line else said)
    if len(by_line) > _MAX_LINES:
        rows.append("more")
    return "; ".join(rows)


def _with(operation: Operation) -> str:
    told = [text for text in operation.constants if "[" not in text]
    return f" ({', '.join(told)})" if told else ""


def _constants(candidate: Operation, reference: Operation) -> str:
    """The constants that differ; shapes, which differ between layouts, do not count."""
    ours, theirs = _by_name(candidate), _by_name(reference)
    names = [
        name
        for name in dict.fromkeys((*theirs, *ours))
        if ours.get(name) != theirs.get(name)
        and "[" not in f"{ours.get(name)}{theirs.get(name)}"
    ]
    if not names:
        return ""
    told = [
        f"{name} is {theirs.get(name, 'not given')} there and "
        f"{ours.get(name, 'not given')} here"
        for name in names
    ]
    return f" ({', '.join(told)})"


def _by_name(operation: Operation) -> dict[str, str]:
    pairs = (text.partition("=") for text in operation.constants)
    return {name: value for name, _, value in pairs}


def _compared(
    found: FirstDifference,
    candidate: Forms,
    reference: Forms,
    tolerance: float,
    factor: float | None,
) -> str:
    """How two results stand to each other, as the words between them."""
    if factor is not None:
        return f"is {figure(factor)} times that of"
    if found.reference is not None:
        ours, theirs = _results(found, candidate, reference)
        if any(_is_rearranged(a, b, tolerance) for a in ours for b in theirs):
            return "has, in another order, the values of"
        if any(form.is_block for form in ours):
            return "is no part of that of"
        sizes = {form.num_elements for form in ours}
        if theirs and ours and not sizes & {form.num_elements for form in theirs}:
            return "has another number of elements than that of"
    return "is not that of"


def _factor(
    candidate: Sequence[Form], reference: Sequence[Form], tolerance: float
) -> float | None:
    """What a result is times another one; None where it is no multiple of it."""
    for ours in candidate:
        if ours.parts[0].dtype.kind == "c":
            continue
        for theirs in reference:
            is_number = is_inexact(ours.parts[0].dtype)
            if not is_number or not (ours.norm and theirs.norm):
                continue
            for factor in (ours.norm / theirs.norm, -ours.norm / theirs.norm):
                parts = tuple(part.astype(np.float64) / factor for part in ours.parts)
                scaled = Form(
                    parts=parts,
                    is_whole=ours.is_whole,
                    num_elements=ours.num_elements,
                    norm=theirs.norm,
                    total=ours.total / factor,
                    num_unbounded=ours.num_unbounded,
                )
                is_other = abs(factor - 1) > max(tolerance, 1e-6)
                if is_other and forms_agree(scaled, theirs, tolerance):
                    return factor
    return None


def _is_rearranged(ours: Form, theirs: Form, tolerance: float) -> bool:
    if ours.num_elements != theirs.num_elements:
        return False
    sorted_values = []
    for form in (ours, theirs):
        parts = form.parts[:1] if form.is_whole else form.parts
        if parts[0].dtype.kind == "c":
            return False
        values = np.concatenate([part.astype(np.float64).ravel() for part in parts])
        sorted_values.append(np.sort(values))
    one, other = sorted_values
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    return bool(
        np.linalg.norm(one - other) <= max(tolerance, 1e-12) * np.linalg.norm(other)
    )
