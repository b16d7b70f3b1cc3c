"""Renders a report as JUnit XML: a test case for each module and kind; only renders.

The first case is the verdict itself, so that a file of tests is red exactly where the
exit code is not 0: a set-up difference, or nothing compared, is of no module.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from ttrace.report.caveats import caveats
from ttrace.report.code_places import code_lines
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.isolation_text import isolation_lines
from ttrace.report.model import Outcome, Report, TensorReport
from ttrace.report.places import ModuleKind, by_module_and_kind
from ttrace.report.printable import printable
from ttrace.report.runs_text import runs_lines
from ttrace.report.wording import (
    counts_line,
    figure,
    figures,
    map_line,
    only_line,
    place_lines,
    reason_beside_figures,
    settings_line,
    setup_line,
    skipped_lines,
)

_MAX_TENSORS = 10
"""Tensors that a failed case names."""


def render_junit(report: Report) -> str:
    """The renderer ``junit`` of ``ttrace.report.renderers``."""
    cases = [_verdict_case(report)]
    cases += map(_case, by_module_and_kind(report.tensors))
    ends = Counter(child.tag for case in cases for child in case)
    totals = {
        "name": "ttrace",
        "tests": str(len(cases)),
        "failures": str(ends["failure"]),
        "errors": str(ends["error"]),
    }
    suites = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(
        suites, "testsuite", {**totals, "skipped": str(ends["skipped"])}
    )
    suite.extend(cases)
    ElementTree.indent(suites, " ")
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _verdict_case(report: Report) -> ElementTree.Element:
    case = _element("testcase", {"classname": "ttrace", "name": "verdict"})
    lines = [f"verdict: {report.verdict.value}", report.summary, counts_line(report)]
    lines += _details(report)
    if report.verdict is Outcome.PASS:
        case.append(_element("system-out", {}, lines))
        return case
    tag = "error" if report.verdict is Outcome.ERROR else "failure"
    kind = report.verdict if report.error_kind is None else report.error_kind
    case.append(_element(tag, {"message": report.summary, "type": kind.value}, lines))
    return case


def _details(report: Report) -> Iterable[str]:
    error, first = report.error, report.first_divergence
    if error is not None:
        for label in ("what", "where", "expected", "got", "remedy"):
            value = getattr(error, label)
            if value is not None:
                yield f"{label}: {value}"
    if first is not None:
        yield f"first divergence: {first.sentence} ({first.id})"
    yield from place_lines(report)
    yield from isolation_lines(report.isolation)
    yield from code_lines(report)
    yield from (f"diagnosis: {item.sentence}" for item in report.diagnosis)
    if closer_look := closer_look_sentence(report):
        yield f"closer look: {closer_look}"
    yield from (f"remark: {remark}" for remark in report.remarks)
    yield from runs_lines(report.setup)
    yield from (f"skipped {line}" for line in skipped_lines(report))
    yield from caveats(report)
    lines = (only_line(report), setup_line(report), settings_line(report))
    yield from filter(None, lines)
    if report.setup.map is not None:
        yield map_line(report.setup.map)


def _case(group: ModuleKind) -> ElementTree.Element:
    case = _element("testcase", {"classname": group.module, "name": group.kind})
    bad = group.of_status("failed", "unmatched")
    skipped = group.of_status("skipped")
    if bad:
        attributes = {"message": _message(group, bad), "type": _causes(bad)}
        case.append(_element("failure", attributes, _bad_lines(bad)))
    elif len(skipped) == len(group.tensors):
        reason = f"all {len(skipped)} tensors: {skipped[0].reason}"
        case.append(_element("skipped", {"message": reason}))
    elif skipped:
        reasons = Counter(tensor.reason for tensor in skipped)
        lines = [f"skipped {number}: {why}" for why, number in reasons.items()]
        case.append(_element("system-out", {}, lines))
    return case


def _message(group: ModuleKind, bad: Sequence[TensorReport]) -> str:
    numbers = Counter(tensor.status for tensor in bad)
    parts = ", ".join(f"{number} {status}" for status, number in numbers.items())
    margins = [t.margin for t in bad if t.margin is not None]
    message = f"of {len(group.tensors)} tensors: {parts}"
    if margins:
        message += f"; largest margin {figure(max(margins, key=_size))}"
    return message


def _size(margin: float) -> float:
    return math.inf if math.isnan(margin) else margin


def _causes(bad: Sequence[TensorReport]) -> str:
    return ",".join(dict.fromkeys(t.cause or t.status for t in bad))


def _bad_lines(bad: Sequence[TensorReport]) -> Iterable[str]:
    for tensor in bad[:_MAX_TENSORS]:
        yield tensor.id
        rel_err, tolerance = figures(tensor)
        if rel_err is not None:
            yield (
                f"  rel_err {figure(rel_err)}, tolerance {figure(tolerance)}, margin "
                f"{figure(tensor.margin)}"
            )
        yield f"  {reason_beside_figures(tensor)}"
    if len(bad) > _MAX_TENSORS:
        yield f"and {len(bad) - _MAX_TENSORS} more"


def _element(
    tag: str, attributes: dict[str, str], lines: Iterable[str] = ()
) -> ElementTree.Element:
    """An element whose texts hold nothing that XML forbids: no control characters."""
    element = ElementTree.Element(
        tag, {name: printable(value) for name, value in attributes.items()}
    )
    text = printable("\n".join(lines))
    if text:
        element.text = text
    return element
