"""Renders a report as SARIF 2.1.0: findings beside the code they are about.

Only renders. A pass has no results; what readers of SARIF do not look for, such as the
counts, is in the properties of the run. The format is that of OASIS: https://docs.oasis-open.org/sarif/sarif/v2.1.0/.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from ttrace.ir.module_code import ModuleCode
from ttrace.report.caveats import caveats
from ttrace.report.code_places import (
    CodePlace,
    code_of_module,
    code_of_operation,
    computed_by,
)
from ttrace.report.model import Outcome, Report
from ttrace.report.printable import printable
from ttrace.report.wording import (
    counts_line,
    only_line,
    place_lines,
    settings_line,
    setup_line,
    skipped_lines,
)

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/"
    "sarif-schema-2.1.0.json"
)

_ROOT = "%SRCROOT%"
"""What readers put in place of the folder in which a run began."""

_FIRST = "first_divergence"
_ISOLATED = "wrong_by_itself"


def render_sarif(report: Report) -> str:
    """The renderer ``sarif`` of ``ttrace.report.renderers``."""
    results = list(_results(report))
    rules = dict.fromkeys(result["ruleId"] for result in results)
    run = {
        "tool": {
            "driver": {
                "name": "ttrace",
                "version": version("ttrace"),
                "rules": [{"id": rule} for rule in rules],
            }
        },
        "invocations": [{"executionSuccessful": report.verdict is not Outcome.ERROR}],
        "originalUriBaseIds": {
            _ROOT: {"description": {"text": "where the training scripts were started"}}
        },
        "results": results,
        "properties": _properties(report),
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1) + "\n"


def _properties(report: Report) -> dict[str, Any]:
    lines = (only_line(report), setup_line(report), settings_line(report))
    lists = {
        "places": place_lines(report),
        "skipped": skipped_lines(report),
        "remarks": (*report.remarks, *caveats(report), *filter(None, lines)),
    }
    return {
        "verdict": report.verdict.value,
        "summary": printable(report.summary),
        "counts": printable(counts_line(report)),
        **{name: list(map(printable, texts)) for name, texts in lists.items()},
    }


def _results(report: Report) -> Iterator[dict[str, Any]]:
    if report.error is not None or report.verdict is Outcome.ERROR:
        kind = report.error_kind.value if report.error_kind else report.verdict.value
        yield _result(kind, report.summary, None)
        return
    modules = {tensor.id: computed_by(tensor) for tensor in report.tensors}

    def code_at(tensor_id: str | None) -> CodePlace | None:
        module = modules.get(tensor_id) if tensor_id else None
        return None if module is None else code_of_module(report, module)

    first = report.first_divergence
    if first is not None:
        yield _result(_FIRST, first.sentence, code_at(first.id), first.id)
    isolated = () if report.isolation is None else report.isolation.isolated
    for place in isolated:
        code = code_of_operation(place) or code_of_module(report, place.module)
        inside = "" if place.operation is None else f"; {place.operation.sentence}"
        text = f"{place.module}: {place.sentence}{inside}"
        yield _result(_ISOLATED, text, code, *place.ids[:1])
    for item in report.diagnosis:
        tensor_id = next(iter(item.tensor_ids), None)
        yield _result(item.code, item.sentence, code_at(tensor_id), tensor_id)


def _result(
    rule: str, text: str, place: CodePlace | None, tensor_id: str | None = None
) -> dict[str, Any]:
    """A finding.

    Args:
        rule: Its stable short name.
        text: What it says.
        place: Whose code it is about; None where that is not known.
        tensor_id: The tensor where it shows.
    """
    result: dict[str, Any] = {
        "ruleId": rule,
        "level": "error",
        "message": {"text": printable(text)},
    }
    location: dict[str, Any] = {}
    if tensor_id is not None:
        location["logicalLocations"] = [
            {"fullyQualifiedName": printable(tensor_id), "kind": "member"}
        ]
    if place is not None:
        code = place.candidate or place.reference
        assert code is not None, "a place has the code of one side"
        location["physicalLocation"] = _physical(code)
        if place.reference not in (None, code):
            assert place.reference is not None
            of_reference = {"physicalLocation": _physical(place.reference)}
            of_reference["message"] = {"text": "the same of the reference"}
            result["relatedLocations"] = [of_reference]
    if location:
        result["locations"] = [location]
    return result


def _physical(code: ModuleCode) -> dict[str, Any]:
    return {
        "artifactLocation": {"uri": quote(code.file), "uriBaseId": _ROOT},
        "region": {"startLine": code.line},
    }
