"""Random models: a proposal finds what belongs together, and never raises."""

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, example, given, settings

from tests.factories.random_ports import MODELS, Layer, Model, make
from tests.factories.traces import memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.map_proposal.proposing import propose_map
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.map_writer import map_text
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

PATH = Path("map.toml")

LSTM = Model(
    layers=(
        Layer(
            kind="lstm",
            sizes=(6, 3),
            heads=1,
            fused=False,
            transposed=True,
            bias="",
        ),
    ),
    repeats=1,
    stacked=False,
    positional=False,
    sequence_first=False,
    seed=0,
)
"""Of the whole matrix's module one output has the length of a gate's."""


NUMBERED = Model(
    layers=(
        Layer(
            kind="attention",
            sizes=(2, 2),
            heads=1,
            fused=True,
            transposed=False,
            bias="",
        ),
        Layer(
            kind="linear", sizes=(2, 2), heads=1, fused=False, transposed=False, bias=""
        ),
    ),
    repeats=1,
    stacked=False,
    positional=True,
    sequence_first=False,
    seed=0,
)
"""Query, key and value are 0, 1 and 2 of a list, which looks like three layers."""


def report_of(pair) -> Report:
    reference, candidate = memory_trace(pair.reference), memory_trace(pair.candidate)
    proposal = propose_map(reference, candidate, PATH)
    assert proposal.underived == ()
    map_file = parse_map(map_text(proposal.map_file), PATH)
    return compare_traces(reference, candidate, NumpyBackend(), map_file=map_file)


def is_told_by_content(model: Model) -> bool:
    """Whether no parameter is alike in all its values."""
    return all(layer.bias != "zeros" for layer in model.layers)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MODELS)
@example(LSTM)
@example(NUMBERED)
def test_a_right_port_passes(model):
    report = report_of(make(model))
    wrong = [t.id for t in report.tensors if t.status == "failed"]
    assert wrong == []
    if is_told_by_content(model):
        assert report.verdict is Outcome.PASS, report.summary
        unmatched = [t.id for t in report.tensors if t.status == "unmatched"]
        assert unmatched == []
        of_params = [t for t in report.tensors if "/param/" in t.id]
        assert {t.status for t in of_params} == {"passed"}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MODELS)
@example(LSTM)
def test_a_wrong_port_is_found(model):
    """All that its last block gives differs, and so does the loss."""
    pair = make(model)
    last = model.repeats - 1
    for name, array in pair.candidate.items():
        is_last = f"blocks_{last}." in name or name.endswith(f"/call{last}")
        if "/loss" in name or ("/mb0/" in name and is_last):
            pair.candidate[name] = np.asarray(array * 1.5 + 1, np.float32)
    report = report_of(pair)
    assert report.verdict is Outcome.DIVERGED
    params = [t for t in report.tensors if "/param/" in t.id and t.status == "failed"]
    assert params == []
