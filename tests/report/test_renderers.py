"""The table of formats: every one renders, and the command line knows it."""

import json

import pytest

from tests.factories.reports import some_report
from ttrace.cli.parser import build_parser
from ttrace.errors import UsageError
from ttrace.report.model import Report
from ttrace.report.renderers import RENDERERS, load_renderer

TABLES = {"csv", "parquet"}
"""Formats of the tensors alone; all others give the verdict. Parquet has tests of its
own."""


@pytest.mark.parametrize("name", sorted(RENDERERS.keys() - TABLES))
def test_every_format_renders_the_verdict(name):
    text = load_renderer(name)(some_report())
    assert isinstance(text, str)
    assert "diverged" in text and some_report().summary in text
    assert text.endswith("\n")


def test_a_table_has_every_tensor():
    text = load_renderer("csv")(some_report())
    assert isinstance(text, str)
    assert all(tensor.id in text for tensor in some_report().tensors)


def test_json_is_the_report():
    assert Report.from_json(json.loads(load_renderer("json")(some_report()))) == (
        some_report()
    )


def test_text_is_what_the_terminal_shows():
    text = load_renderer("text")(some_report())
    assert isinstance(text, str)
    assert text.startswith("verdict: diverged\n") and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", RENDERERS)
def test_every_format_is_an_option(name):
    args = build_parser().parse_args(["compare", "a", "b", f"--{name}", "file"])
    assert getattr(args, name) == "file"


def test_unknown_format():
    with pytest.raises(UsageError, match="unknown format of a report") as caught:
        load_renderer("punch cards")
    assert "json, text" in str(caught.value)
