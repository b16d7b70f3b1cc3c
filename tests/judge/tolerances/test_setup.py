"""What two runs were given: settings, versions, first parameters and inputs."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.setup import (
    compare_settings,
    differing_settings,
    first_step,
    is_given,
)

A = {"step2/mb0/a/output/0": np.ones(3, np.float32)}


def test_settings_that_differ():
    assert differing_settings({"tp": 1, "seed": 3, "old": 0}, {"tp": 2, "seed": 3}) == {
        "tp": (1, 2),
        "old": (0, None),
    }


def test_versions_and_settings_of_two_runs():
    sides = [
        memory_trace(A, versions={"torch": version}, settings=settings).info
        for version, settings in (
            ("2.6", {"num_layers": 2, "tp": 1, "hidden_size": 8}),
            ("2.7", {"num_layers": 3, "tp": 2}),
        )
    ]
    found = compare_settings(*sides)
    assert found.all == {
        "torch": ("2.6", "2.7"),
        "num_layers": (2, 3),
        "tp": (1, 2),
    }  # one of them knows no hidden_size
    assert found.model == ("num_layers",)


def test_what_another_framework_does_not_state_is_no_difference():
    sides = [
        memory_trace(A, framework=framework, versions=versions, settings=settings).info
        for framework, versions, settings in (
            ("torch", {"torch": "2.6", "numpy": "1"}, {"allow_tf32": False, "x": 1}),
            ("jax", {"jax": "0.10", "numpy": "2"}, {"jax_enable_x64": False, "x": 2}),
        )
    ]
    assert compare_settings(*sides).all == {"numpy": ("1", "2"), "x": (1, 2)}


def test_the_first_step_is_that_of_what_is_judged():
    info = memory_trace(A).info
    assert first_step(info.tensors, info, info) == 2
    assert first_step([], info) == 0


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("step2/a/param/w", True),
        ("step3/a/param/w", False),
        ("step3/mb0/@root/input/0", True),
        ("step3/mb0/@root/input/0/recompute", False),
        ("step2/mb0/a/input/0", False),
    ],
)
def test_what_a_run_is_given(text, given):
    assert is_given(parse_tensor_id(text), 2) is given
    assert not is_given(parse_tensor_id("step2/a/param/w"), None)  # of a checkpoint
