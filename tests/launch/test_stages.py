"""Observers of the stages of a job."""

import pytest

from ttrace.launch.stages import stage


class Observer:
    def __init__(self):
        self.told: list[str] = []

    def __call__(self, words: str, /) -> None:
        self.told.append(words)

    def end(self) -> None:
        self.told.append("end")


def test_a_stage_ends_where_nothing_was_raised():
    observer = Observer()
    with stage(observer, "comparing"):
        observer.told.append("at it")
    assert observer.told == ["comparing", "at it", "end"]
    with pytest.raises(ValueError), stage(observer, "again"):
        raise ValueError
    assert observer.told[3:] == ["again"]


def test_a_plain_function_is_told_what_begins():
    told: list[str] = []
    with stage(told.append, "comparing"):
        pass
    assert told == ["comparing"]
