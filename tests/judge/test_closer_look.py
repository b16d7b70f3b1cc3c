"""Which tensors are looked at once more."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.errors import UsageError
from ttrace.judge import closer_look
from ttrace.judge.closer_look import CloserLook
from ttrace.launch import defaults
from ttrace.pipeline import compare

NUM_TENSORS = 12
EPSILON = 2.0**-23


def ids(number=NUM_TENSORS):
    return [f"step0/mb0/layers.{n}/output/0" for n in range(number)]


def traces(errors):
    """Two runs whose tensors differ by these factors of a tolerance, about."""
    full = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float64)
    runs = [{}, {}]
    for id_, error in zip(ids(len(errors)), errors, strict=True):
        runs[0][id_] = full
        runs[1][id_] = full * (1 + error)
    return [memory_trace(run) for run in runs]


def looked_at(report):
    return [tensor.id for tensor in report.tensors if tensor.details is not None]


def margins(report):
    return {tensor.id: tensor.margin for tensor in report.tensors}


def test_the_choices_of_the_command_line_are_those_there_are():
    assert defaults.CLOSER_LOOK_CHOICES == tuple(CloserLook)
    assert defaults.CLOSER_LOOK == CloserLook.FAILED


def test_another_choice_is_refused():
    with pytest.raises(UsageError) as caught:
        compare(*traces([0.1]), backend="numpy", closer_look="some")
    assert str(caught.value) == (
        "unknown choice of tensors to look at closer\n"
        "  expected: one of failed, all, none\n"
        "  got:      'some'\n"
        "  to do:    choose one of these with --closer-look (closer_look=)"
    )


def test_failures_and_what_came_near_are_looked_at():
    runs = traces([0.0, 0.0, 0.0])
    tolerance = compare(*runs, backend="numpy").tensors[2].tolerance
    assert tolerance is not None
    runs = traces([tolerance * 0.3, tolerance * 0.8, tolerance * 3, 0.0])
    report = compare(*runs, backend="numpy")
    near = [t.id for t in report.tensors if t.margin is not None and t.margin > 0.5]
    assert 0 < len(near) < 4 and report.tensors[1].status == "passed"
    assert looked_at(report) == near
    assert looked_at(compare(*runs, backend="numpy", closer_look="none")) == []
    everything = compare(*runs, backend="numpy", closer_look="all")
    assert looked_at(everything) == ids(3)  # nothing differs in the last
    assert margins(everything) == margins(report)


def test_the_first_failures_and_the_largest_margins_are_taken(monkeypatch):
    monkeypatch.setattr(closer_look, "MAX_TENSORS", 5)
    monkeypatch.setattr(closer_look, "FIRST_TENSORS", 2)
    errors = [0.1 * n for n in range(1, NUM_TENSORS + 1)]
    report = compare(*traces(errors), backend="numpy")
    names = ids()
    assert looked_at(report) == [*names[:2], *names[-3:]]


def test_what_is_read_is_bounded_but_for_the_first(monkeypatch):
    monkeypatch.setattr(closer_look, "MAX_ELEMENTS", 1)
    report = compare(*traces([0.1, 0.2, 0.3]), backend="numpy")
    assert looked_at(report) == ids(1)
    monkeypatch.setattr(closer_look, "MAX_FIRST_ELEMENTS", 1)
    report = compare(*traces([0.1, 0.2, 0.3]), backend="numpy")
    assert looked_at(report) == []


def test_backends_give_the_same_details():
    pytest.importorskip("jax")
    runs = traces([0.0, 1e-3, 0.5])
    found = [
        [t.details for t in compare(*runs, backend=name).tensors]
        for name in ("numpy", "cpu", "jax")
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][2] is not None


def test_inputs_compared_in_another_form_are_left_out():
    full = np.arange(12, dtype=np.float32)[None]
    wrong = np.repeat(full, 4, axis=0)
    wrong[2, 3] = 0
    id_ = "step0/mb0/layers.0/input/0"
    report = compare(
        memory_trace({id_: full}),
        memory_trace({id_: Tensor(full=wrong)}),
        backend="numpy",
        closer_look="all",
    )
    assert report.tensors[0].status == "failed"
    assert looked_at(report) == []
