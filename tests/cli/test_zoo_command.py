"""``ttrace zoo``: list, run, errors, JSON."""

import dataclasses
import json

import pytest

from tests.factories.zoo_results import FOUND, MISSED
from ttrace.cli import zoo_command
from ttrace.cli.main import main
from ttrace.examples.bug_zoo import runner
from ttrace.examples.bug_zoo.registry import load_zoo
from ttrace.examples.bug_zoo.result import BugResult
from ttrace.examples.bug_zoo.table import codes_summary, summary


@pytest.fixture
def results(monkeypatch):
    """Stands in for the runs: the result of each bug by name."""
    pytest.importorskip("megatron.core")
    given = {"final_layernorm": FOUND, "router_weight": MISSED}

    def run_bug(exhibit, job, *, localize):
        assert localize is False  # nobody asked for it
        return given[exhibit.bug.name]

    monkeypatch.setattr(runner, "run_bug", run_bug)
    monkeypatch.setattr(zoo_command, "announce", lambda message: None)
    return given


def test_list_names_every_bug_with_its_source(capsys):
    assert main(["zoo", "list"]) == 0
    printed = capsys.readouterr().out
    for exhibit in load_zoo():
        assert exhibit.bug.name in printed
    for word in ("#1446", "wrong", "sequence-parallel", "fp8"):
        assert word in printed


def test_unknown_name_is_a_usage_error(capsys):
    assert main(["zoo", "run", "no_such_bug"]) == 2
    printed = capsys.readouterr().err
    assert "there is no such bug in the zoo" in printed
    assert "no_such_bug" in printed and "see 'ttrace zoo list'" in printed


def test_action_is_required(capsys):
    assert main(["zoo"]) == 2
    assert "ACTION" in capsys.readouterr().err


def test_run_succeeds_if_every_bug_is_found(results, capsys):
    assert main(["zoo", "run", "final_layernorm"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 bugs found, 1 first seen in the right place" in printed
    assert "1 of 1 clean twins pass" in printed
    assert "the first diagnosis is the stated one for 1 of 1 bugs" in printed


def test_missed_bug_stays_in_the_table_with_the_reason(results, capsys):
    assert main(["zoo", "run", "final_layernorm", "router_weight"]) == 1
    printed = capsys.readouterr().out
    assert "router_weight: buggy run: All agree." in printed
    assert "1 of 2 bugs found" in printed


def test_json_is_a_list_of_objects(results, tmp_path):
    path = tmp_path / "zoo.json"
    main(["zoo", "run", "router_weight", "final_layernorm", "--json", str(path)])
    values = json.loads(path.read_text())
    assert [value["name"] for value in values] == ["router_weight", "final_layernorm"]
    required = "name source clean found first_divergence module_right seconds".split()
    for value in values:
        assert set(required) <= set(value)
    assert values[1]["margin"] == "Infinity"
    assert [BugResult.from_json(value) for value in values] == [MISSED, FOUND]


def test_false_alarm_is_a_failure():
    alarmed = BugResult.from_json({**FOUND.to_json(), "clean": "diverged"})
    assert FOUND.as_expected and not alarmed.as_expected
    assert summary([FOUND, alarmed, MISSED]).endswith("2 of 3 clean twins pass")


def test_codes_are_counted_where_they_were_stated():
    wrong = dataclasses.replace(FOUND, code_right=False)
    assert codes_summary([MISSED]) == ""
    assert codes_summary([FOUND, wrong, MISSED]) == (
        "the first diagnosis is the stated one for 1 of 2 bugs"
    )


def test_results_of_before_codes_were_stated_are_read():
    value = FOUND.to_json()
    del value["expected_code"], value["code_right"]
    read = BugResult.from_json(value)
    assert (read.expected_code, read.code_right) == (None, None)
