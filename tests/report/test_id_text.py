"""Tensor ids in narrow columns."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from ttrace.report.id_text import IdText, break_id

ID = "step0/mb0/decoder.layers.0.self_attention.linear_qkv/output/0"


@pytest.mark.parametrize("width", range(1, 70))
def test_lines_end_between_parts(width):
    lines = break_id(ID, width)
    assert "".join(lines) == ID
    assert all(line[-1] in "/." for line in lines[:-1])
    assert all(len(line) <= max(width, len("self_attention.")) for line in lines)


@pytest.mark.parametrize("text", ["", "a", "/", "a//b", "..", "[bold]x[/bold]/y"])
def test_nothing_is_lost(text):
    assert "".join(break_id(text, 1)) == text


def test_a_narrow_table():
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column()
    table.add_row(IdText(text=ID), "why [not]")
    console = Console(file=io.StringIO(), width=36)
    with console.capture() as capture:
        console.print(table)
    cells = [line.split()[0] for line in capture.get().splitlines()]
    assert "".join(cells) == ID
    assert all(cell[-1] in "/." for cell in cells[:-1])
