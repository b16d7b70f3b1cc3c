"""The set-up of both runs, side by side."""

from dataclasses import replace

from tests.factories.reports import some_report
from ttrace.report.html.both_runs import (
    SetupRow,
    differences,
    map_sentence,
    setup_groups,
)
from ttrace.report.model import MapSetup
from ttrace.testing.report_samples import diverged_report


def with_setup(**changes):
    report = some_report()
    return replace(report, setup=replace(report.setup, **changes))


def test_what_changes_the_mathematics_comes_first():
    rows = differences(with_setup(binding=("tp",)))
    assert rows == [
        SetupRow(
            name="tp", reference="1", candidate="2", differs=True, is_binding=True
        ),
        SetupRow(name="torch", reference="2.6.0", candidate="2.7.0", differs=True),
    ]


def test_groups_have_what_differs_first():
    groups = {group.title: group.rows for group in setup_groups(with_setup())}
    assert list(groups) == ["run", "meshes", "versions", "settings", "recorded only"]
    assert groups["settings"][0] == SetupRow(
        name="tp", reference="1", candidate="2", differs=True
    )
    assert SetupRow(name="bf16", reference="yes", candidate="yes") in groups["settings"]
    assert SetupRow(name="recorded ranks", reference="", candidate="1") in groups["run"]
    assert groups["meshes"][0].candidate == "tp 2"


def test_a_setting_of_one_run_is_no_difference():
    candidate = replace(some_report().setup.candidate, settings={"extra": 1})
    groups = {
        group.title: group.rows
        for group in setup_groups(with_setup(candidate=candidate))
    }
    row = next(row for row in groups["settings"] if row.name == "extra")
    assert row == SetupRow(name="extra", reference="", candidate="1")


def test_map():
    assert map_sentence(some_report()) == ""
    assert map_sentence(diverged_report("m")) == (
        "Tensors were matched by m.toml, 7 rules, 2 of them unverified."
    )
    mapped = MapSetup(
        path="m",
        num_rules=1,
        num_unverified=0,
        num_left_out_reference=3,
        num_left_out_candidate=4,
    )
    assert map_sentence(with_setup(map=mapped)) == (
        "Tensors were matched by m, 1 rule; it leaves out 3 inputs and outputs of the "
        "reference, 4 of the candidate."
    )
