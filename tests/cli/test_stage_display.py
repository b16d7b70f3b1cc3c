"""Stages on the terminal: what begins, how far it is, and no figure that is made up."""

import io

import pytest
from rich.console import Console

from tests.factories.clock import Clock
from ttrace.cli import stage_display as module
from ttrace.cli.stage_display import StageDisplay, clock_text, stage_display
from ttrace.launch.stages import Expectation, StageObserver, Stages


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def line(clock, monkeypatch):
    """What the line below a running stage shows, after so many seconds."""

    def line(expected=None, parts=(), seconds=10.0, width=80):
        console = Console(file=io.StringIO(), width=width)
        display = StageDisplay(quiet=False)
        monkeypatch.setattr(module, "announce", lambda words: None)
        display.begin("recording", expected)
        for after_s, done, total in parts:
            clock.now += after_s
            display.progress(done, total)
        clock.now += seconds - sum(part[0] for part in parts)
        assert display._running is not None
        with console.capture() as captured:
            console.print(display._running.drawn())
        return captured.get()

    return line


def test_it_is_an_observer():
    assert isinstance(StageDisplay(quiet=True), StageObserver)


def test_stages_say_how_long_they_took(clock, capsys):
    with stage_display() as display:
        display.begin("recording", None)
        clock.now += 12.34
        display.begin("looking", None)
        clock.now += 0.05
        display.begin("comparing", None)
        clock.now += 0.2
    assert capsys.readouterr().err.splitlines() == [
        "ttrace: recording",
        "ttrace: recording: done after 12.3 s",
        "ttrace: looking",
        "ttrace: comparing",
        "ttrace: comparing: done after 0.2 s",
    ]


def test_what_ran_before_is_said_where_a_run_begins(capsys):
    with stage_display() as display:
        display.begin(
            "recording the candidate",
            Expectation(what="the reference", took_s=3.14),
        )
    err = capsys.readouterr().err
    assert err == "ttrace: recording the candidate (the reference took 3.1 s)\n"


def test_quiet_says_nothing(clock, capsys):
    with stage_display(quiet=True) as display:
        display.begin("recording", Expectation(what="the reference", took_s=3.0))
        clock.now += 9
        display.progress(1, 2)
    assert capsys.readouterr().err == ""


def test_a_stage_that_fails_is_no_done_one(clock, capsys):
    with pytest.raises(ValueError), stage_display() as display:
        display.begin("recording", None)
        clock.now += 3
        raise ValueError
    assert "ttrace: recording: stopped after 3.0 s\n" in capsys.readouterr().err


def test_a_stage_that_ended_well_is_not_stopped_by_what_follows(clock, capsys):
    with pytest.raises(ValueError), stage_display() as display:
        with Stages(display).stage("recording"):
            clock.now += 3
        clock.now += 5
        raise ValueError
    assert capsys.readouterr().err == (
        "ttrace: recording\nttrace: recording: done after 3.0 s\n"
    )
    with pytest.raises(ValueError), stage_display() as display:
        with Stages(display).stage("comparing"):
            clock.now += 3
            raise ValueError
    assert "comparing: stopped after 3.0 s" in capsys.readouterr().err


def test_a_young_stage_draws_nothing(line):
    assert line(seconds=1.9).strip() == ""


def test_a_command_that_nothing_is_known_of_has_only_the_time_that_passed(line):
    assert line(seconds=75).strip() == "1:15 so far"


def test_a_run_of_a_known_kind_has_the_time_that_is_left(line):
    expected = Expectation(what="the reference", took_s=30.0)
    text = line(expected, seconds=10)
    assert text.strip().endswith("0:10 so far, about 0:20 left if it takes as long")
    assert text.count("━") == 20 // 3  # of the bar
    assert len(text.rstrip("\n")) <= 80


def test_a_run_that_takes_longer_is_not_said_to_end_soon(line):
    expected = Expectation(what="the reference", took_s=5.0)
    text = line(expected, seconds=10)
    assert text.strip().endswith("0:10 so far, longer than the reference")
    assert "left" not in text


def test_a_comparison_is_extrapolated_from_its_own_speed(line):
    parts = [(2.0, 100, 1000), (4.0, 300, 1000)]  # then 50 elements a second
    text = line(parts=parts, seconds=6.0)
    assert text.strip().endswith("0:06 so far, about 0:14 left")


def test_one_part_tells_no_speed(line):
    text = line(parts=[(1.0, 100, 1000)], seconds=10.0)
    assert text.strip().endswith("0:10 so far") and "━" in text


def test_a_second_comparison_of_a_stage_begins_anew(line):
    parts = [(1.0, 90, 100), (1.0, 100, 100), (2.0, 10, 200), (2.0, 20, 200)]
    text = line(parts=parts, seconds=6.0)
    assert text.strip().endswith("about 0:36 left")


def test_where_all_is_read_no_end_is_foretold(line):
    text = line(parts=[(1.0, 5, 10), (1.0, 10, 10)], seconds=10.0)
    assert text.strip().endswith("0:10 so far, all is read")


def test_a_run_whose_comparison_began_is_told_by_that(line):
    expected = Expectation(what="the candidate", took_s=3.0)
    text = line(expected, parts=[(3.0, 10, 100), (2.0, 20, 100)], seconds=5.0)
    assert text.strip().endswith("0:05 so far, about 0:16 left")


def test_on_a_terminal_the_line_is_drawn_and_erased(clock, monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(
        module,
        "status_console",
        lambda: Console(
            file=output, force_terminal=True, force_interactive=True, width=80
        ),
    )
    monkeypatch.setattr(module, "announce", lambda words: None)
    with stage_display() as display:
        display.begin("recording", None)
        clock.now += 5
        assert display._live is not None
        display._live.refresh()
        assert "0:05 so far" in output.getvalue()
    assert output.getvalue().endswith("\x1b[2K")  # the line is gone


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock_text(seconds) == text
