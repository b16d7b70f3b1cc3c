"""Stages of a job: who is told of what, and what tells how long a run may take."""

import pytest

from ttrace.launch import stages
from ttrace.launch.stages import Expectation, Stages


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    return clock


class Told:
    """A ``StageObserver`` that keeps what it is told."""

    def __init__(self):
        self.begun = []
        self.num_ended = 0

    def begin(self, words, expected):
        self.begun.append((words, expected))

    def end(self):
        self.num_ended += 1


def test_a_function_is_told_what_begins():
    words = []
    told = Stages(words.append)
    told.say("taking tolerances")
    with told.run("recording", name="the reference"):
        pass
    with told.stage("comparing", like=("the reference",)):
        pass
    assert words == ["taking tolerances", "recording", "comparing"]


def test_a_run_is_expected_to_take_as_long_as_the_first_alike_that_ran(clock):
    observer = Told()
    told = Stages(observer)
    for words, name, took_s in (
        ("reference", "reference", 7.0),
        ("noise 1", "noise", 5.0),
        ("noise 2", "noise", 3.0),
        ("noise 3", "noise", 1.0),
    ):
        with told.run(words, name=name, like=("noise", "reference")):
            clock.now += took_s
    with told.stage("comparing"):
        clock.now += 100
    assert observer.begun == [
        ("reference", None),  # nothing of its kind ran
        ("noise 1", Expectation(what="reference", took_s=7.0)),
        ("noise 2", Expectation(what="noise", took_s=5.0)),
        ("noise 3", Expectation(what="noise", took_s=3.0)),
        ("comparing", None),
    ]
    assert observer.num_ended == 5


def test_a_run_that_failed_tells_nothing_of_others(clock):
    observer = Told()
    told = Stages(observer)
    with pytest.raises(ValueError), told.run("reference", name="reference"):
        clock.now += 1
        raise ValueError
    with told.stage("candidate", like=("reference",)):
        pass
    assert observer.begun[-1] == ("candidate", None)
    assert observer.num_ended == 1
