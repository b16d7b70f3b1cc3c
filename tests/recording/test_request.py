"""The variable between the CLI and a frontend: both ways, absent, and by hand."""

import json
from pathlib import Path

import pytest

from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.recording.request import (
    RECORD_VARIABLE,
    RecordRequest,
    request_from_environment,
)


@pytest.mark.parametrize("rewrite", [None, Path("/values")])
@pytest.mark.parametrize("noise_seed", [None, 0, 3])
def test_round_trip(noise_seed, rewrite):
    request = RecordRequest(
        out=Path("/a b/trace"),
        capture=CaptureFilter(modules=("x.*",), steps=frozenset({0, 4})),
        noise_seed=noise_seed,
        rewrite=rewrite,
    )
    assert request_from_environment(request.to_environment()) == request


def test_runs_are_told_apart():
    assert RecordRequest(out=Path("a")).run_id != RecordRequest(out=Path("a")).run_id


@pytest.mark.parametrize("environment", [{}, {RECORD_VARIABLE: ""}])
def test_plain_run(environment):
    assert request_from_environment(environment) is None


def text_with(**changes):
    (text,) = RecordRequest(out=Path("a"), run_id="0a").to_environment().values()
    value = json.loads(text)
    value.update(changes)
    return json.dumps({key: item for key, item in value.items() if item != "absent"})


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "yes",
        "[]",
        text_with(out=None),
        text_with(out="absent"),
        text_with(run_id="absent"),
        text_with(perturbation="absent"),
        text_with(capture="steps"),
        text_with(capture={"steps": "x"}),
        text_with(capture={"kinds": "x"}),
    ],
)
def test_set_by_hand(text):
    with pytest.raises(UsageError, match=RECORD_VARIABLE) as caught:
        request_from_environment({RECORD_VARIABLE: text})
    assert "start the command through 'ttrace record'" in str(caught.value)
    assert text in str(caught.value)


def test_the_bad_texts_come_from_a_good_one():
    assert request_from_environment({RECORD_VARIABLE: text_with()}) is not None
