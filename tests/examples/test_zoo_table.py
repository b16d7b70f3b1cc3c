"""The table in docs/zoo.md: how it is written, and that it lists what there is."""

import json
import re
from dataclasses import replace

import pytest

from tests.examples.zoo_table import BEGIN, END, main, render, rewrite
from tests.factories import zoo_results
from tests.paths import ROOT
from ttrace.examples.bug_zoo.registry import load_zoo

PAGE = ROOT / "docs" / "zoo.md"

ROUTER = replace(
    zoo_results.FOUND,
    name="router_weight",
    source="Megatron-LM #599, PR 619",
    first_divergence="step0/decoder.layers.0.mlp.router/main_grad/weight",
    margin=1e4,
)
LAYERNORM = replace(
    zoo_results.MISSED,
    name="final_layernorm",
    source="Megatron-LM #1446",
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
    lines = render([ROUTER, LAYERNORM]).splitlines()
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
    lines = render([ROUTER]).splitlines()
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


def test_what_was_not_run_keeps_its_row(tmp_path):
    path = tmp_path / "zoo.md"
    path.write_text(f"{BEGIN}\n{render([ROUTER, LAYERNORM])}\n{END}\n")
    results = tmp_path / "zoo.json"
    results.write_text(json.dumps([replace(LAYERNORM, found=False).to_json()]))
    main(str(results), str(path), keep=True)
    assert path.read_text() == f"{BEGIN}\n{render([ROUTER, LAYERNORM])}\n{END}\n"
    results.write_text("[]")
    main(str(results), str(path), keep=True)  # a row that was no success is run again
    assert path.read_text() == f"{BEGIN}\n{render([ROUTER])}\n{END}\n"


def test_missing_marker_is_an_error():
    with pytest.raises(ValueError, match="markers"):
        rewrite("no markers here", "table")
