"""Types of JSON values: the first that is wrong is named, with its place."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import pytest

from tests.factories.reports import a_culprit, some_report
from ttrace.errors import TraceError
from ttrace.report.json_types import Mismatch, find_mismatch
from ttrace.report.model import ErrorDetails, MapSetup, Report
from ttrace.report.renderers import load_renderer


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    colour: Colour | None = None
    pair: tuple[int, float] | None = None
    inner: Inner | None = None
    by_name: Mapping[str, Inner] | None = None
    anything: object = None
    either: str | float | None = None
    word: Annotated[str | None, Colour] = None


@pytest.mark.parametrize(
    "value",
    [
        {"count": 3},
        {"count": 3, "word": "blue"},
        {"count": 3, "colour": "red", "pair": [1, 2], "anything": [{}]},
        {"count": 3, "pair": [1, "Infinity"], "inner": {"share": "NaN"}},
        {"count": 3, "by_name": {"a": {"share": 1, "names": ["x", "y"]}}},
        {"count": 3, "either": "x", "inner": None, "of another version": 1},
    ],
)
def test_what_fits(value):
    assert find_mismatch(value, Outer) is None


@pytest.mark.parametrize(
    ("value", "field", "expected", "got"),
    [
        ([], "", "an object", "a list of 0 values"),
        ({}, "count", "a value", "nothing"),
        ({"count": True}, "count", "a whole number", "true"),
        ({"count": 1.5}, "count", "a whole number", "1.5"),
        ({"count": None}, "count", "a whole number", "null"),
        ({"count": 1, "colour": "green"}, "colour", "one of red, blue", "'green'"),
        ({"count": 1, "colour": []}, "colour", "one of red, blue", "a list of 0 va"),
        ({"count": 1, "pair": [1]}, "pair", "a list of 2 values", "a list of 1 va"),
        ({"count": 1, "pair": [1, "x"]}, "pair[1]", "a number", "'x'"),
        ({"count": 1, "inner": {}}, "inner.share", "a value", "nothing"),
        (
            {"count": 1, "by_name": {"a": {"share": 1, "names": ["x", 2]}}},
            "by_name.a.names[1]",
            "a text",
            "2",
        ),
        ({"count": 1, "word": "green"}, "word", "one of red, blue", "'green'"),
        ({"count": 1, "either": {}}, "either", "a text or a number", "an object with"),
    ],
)
def test_the_first_that_does_not_fit_is_named(value, field, expected, got):
    found = find_mismatch(value, Outer)
    assert found is not None and found.got.startswith(got)
    assert found == Mismatch(field=field, expected=expected, got=found.got)


def test_a_long_value_is_cut():
    found = find_mismatch({"count": "x" * 1000}, Outer)
    assert found is not None and len(found.got) < 70


def places(value, path=()):
    """Every place within a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from places(item, (*path, key))


def with_value(value, path, new):
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def full_report():
    report = some_report(
        culprits=(a_culprit(),),
        error=ErrorDetails(what="it is wrong", remedy="mend it"),
        gaps=("no gradients",),
        remarks=("odd",),
        only={"kinds": "output"},
    )
    mapped = MapSetup(path="map.toml", num_rules=1, num_unverified=0)
    return replace(report, setup=replace(report.setup, map=mapped))


@pytest.mark.parametrize("new", ["x", 5, [[]], {"x": {}}], ids=str)
def test_no_value_of_a_wrong_type_gives_a_traceback(tmp_path, new):
    """It is refused with its place, or every form can be made of the report."""
    whole = json.loads(full_report().json_text())
    path = tmp_path / "report.json"
    refused = 0
    for place in places(whole):
        if not place:
            continue
        path.write_text(json.dumps(with_value(whole, place, new)))
        try:
            report = Report.load(path)
        except TraceError as error:
            assert str(path) in str(error.where)
            refused += 1
            continue
        for name in ("text", "junit", "markdown", "csv", "json"):
            assert load_renderer(name)(report)
    assert refused > 50
