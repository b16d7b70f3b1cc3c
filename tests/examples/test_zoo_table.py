"""The table in docs/zoo.md: how it is written, and that it lists what there is."""

import re

import pytest

from tests.examples.zoo_table import BEGIN, END, main, render, rewrite
from tests.paths import ROOT
from ttrace.examples.bug_zoo.registry import load_zoo
from ttrace.examples.bug_zoo.result import BugResult

PAGE = ROOT / "docs" / "zoo.md"

FOUND = BugResult(
    name="router_weight",
    source="Megatron-LM #599, PR 619",
    clean="pass",
    found=True,
    first_divergence="step0/decoder.layers.0.mlp.router/main_grad/weight",
    kind="main_grad",
    module_right=True,
    margin=1e4,
    diagnosis=("replicas_differ",),
    diagnosis_right=True,
    seconds=1.5,
)
MISSED = BugResult(
    name="final_layernorm",
    source="Megatron-LM #1446",
    clean="pass",
    found=False,
    first_divergence=None,
    kind=None,
    module_right=False,
    margin=None,
    diagnosis=(),
    diagnosis_right=False,
    seconds=1.5,
    reason="buggy run: All agree | here.\nmore",
)


def test_the_page_lists_exactly_the_registered_bugs():
    text = PAGE.read_text()
    table = text[text.index(BEGIN) : text.index(END)]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", table, re.MULTILINE)
    zoo = [exhibit.bug for exhibit in load_zoo()]
    assert rows == [(bug.name, bug.title, bug.source) for bug in zoo]


def test_rows_say_what_was_found_and_what_was_missed():
    lines = render([FOUND, MISSED]).splitlines()
    assert lines[0].startswith("1 of 2 bugs found, 1 first seen")
    assert (
        "| `final_layernorm` | Gradients of the final layernorm are not reduced under "
        "sequence parallelism | Megatron-LM #1446 | - "
        "| **no**: buggy run: All agree / here. |"
    ) in lines
    (found,) = [line for line in lines if line.startswith("| `router_weight`")]
    assert found.endswith(
        "| `step0/decoder.layers.0.mlp.router/main_grad/weight` | yes |"
    )


def test_every_bug_has_a_row_whether_it_was_run_or_not():
    lines = render([FOUND]).splitlines()
    assert len(lines) == 4 + len(load_zoo())
    assert sum(line.endswith("| - | not run |") for line in lines) == (
        len(load_zoo()) - 1
    )


def test_only_what_is_between_the_markers_changes(tmp_path):
    path = tmp_path / "zoo.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    results = tmp_path / "zoo.json"
    results.write_text("[]")
    main(str(results), str(path))
    text = path.read_text()
    assert text.startswith(f"before\n{BEGIN}\n0 of 0 bugs found")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text


def test_missing_marker_is_an_error():
    with pytest.raises(ValueError, match="markers"):
        rewrite("no markers here", "table")
