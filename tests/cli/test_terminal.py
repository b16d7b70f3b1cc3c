"""Progress appears late and on terminals only; results keep to standard output."""

import argparse
import io

import pytest
from rich.console import Console

from tests.factories.clock import Clock
from ttrace.cli import terminal
from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def shown(monkeypatch, clock, *, on_terminal, seconds):
    """What a progress bar has drawn after so many seconds of work."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=on_terminal, width=80)
    monkeypatch.setattr(terminal, "status_console", lambda: console)
    with terminal.progress_bar("comparing") as progress:
        progress(1, 4)
        clock.now += seconds
        progress(2, 4)
        progress(3, 4)
    return output.getvalue()


def test_quick_work_draws_nothing(monkeypatch, clock):
    assert shown(monkeypatch, clock, on_terminal=True, seconds=1.9) == ""


def test_slow_work_draws_a_bar(monkeypatch, clock):
    text = shown(monkeypatch, clock, on_terminal=True, seconds=2.1)
    assert "comparing" in text and "75%" in text


def test_nothing_is_drawn_where_nobody_looks(monkeypatch, clock):
    assert shown(monkeypatch, clock, on_terminal=False, seconds=600) == ""


def test_the_bar_ends_where_the_work_fails(monkeypatch, clock):
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(terminal, "status_console", lambda: console)
    with pytest.raises(RuntimeError), terminal.progress_bar("comparing") as progress:
        clock.now += 5
        progress(1, 2)
        raise RuntimeError
    assert console._live_stack == []  # another bar may start


def test_announcements_go_to_standard_error(capsys):
    terminal.announce("recording [the] reference")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ttrace: recording [the] reference\n"


def test_results_have_room_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert terminal.output_console().width == 120


def options(**given):
    names = ("modules", "kinds", "steps", "microbatches", "ranks")
    return argparse.Namespace(**{**dict.fromkeys(names), **given})


def test_options_become_a_filter():
    assert terminal.capture_from(options()) == CaptureFilter()
    capture = terminal.capture_from(options(modules="a,b.*", steps="0-1"))
    assert capture == CaptureFilter(modules=("a", "b.*"), steps=frozenset({0, 1}))
    with pytest.raises(UsageError, match="--steps"):
        terminal.capture_from(options(steps="x"))


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (2_340_000_000, "2.3 GB"),
    ],
)
def test_sizes(num_bytes, text):
    assert terminal.size_text(num_bytes) == text
