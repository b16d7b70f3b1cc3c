"""Learning rates of groups that hold the same parameters under other numbers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import MemoryTrace, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.parameter_groups import parameters_key, parameters_text
from ttrace.mapping.map_file import parse_map
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report


def run(
    rates: Mapping[int, float],
    held: Mapping[int, str] | None = None,
    framework: str = "torch",
    letters: str = "abcd",
) -> MemoryTrace:
    """A step with these rates, by group; the parameters of each, by a letter."""
    tensors = {
        f"step0/@root/learning_rate/group{group}": np.array([rate])
        for group, rate in rates.items()
    }
    settings = {
        parameters_key(group): parameters_text(f"{letter}/weight" for letter in letters)
        for group, letters in (held or {}).items()
    }
    weights = {f"step0/{x}/updated_param/weight": np.ones(4) for x in letters}
    return memory_trace({**tensors, **weights}, settings=settings, framework=framework)


def report_on(reference: MemoryTrace, candidate: MemoryTrace) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


ONE = run({0: 1e-2})
TWO = run({0: 1e-2, 1: 3e-2}, {0: "ab", 1: "cd"})


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (ONE, run({1: 1e-2}, {0: "", 1: "abcd"})),  # an empty group first
        (ONE, run({0: 1e-2}, {0: "abcd", 1: ""})),  # and last
        (ONE, run({0: 1e-2, 1: 1e-2}, {0: "ab", 1: "cd"})),  # one in two
        (run({0: 1e-2, 1: 1e-2}, {0: "ab", 1: "cd"}), ONE),  # two in one
        (TWO, run({0: 3e-2, 1: 1e-2}, {0: "dc", 1: "ab"})),  # in another order
        (TWO, run({0: 1e-2, 1: 1e-2, 2: 3e-2}, {0: "a", 1: "b", 2: "cd"})),
        # An empty group that was recorded, as by an older version.
        (ONE, run({0: 4e-2, 1: 1e-2}, {0: "", 1: "abcd"})),
        # Of another framework is not known what its only group holds.
        (run({0: 1e-2}, framework="jax"), run({1: 1e-2}, {0: "", 1: "abcd"})),
    ],
)
def test_equal_rates_of_each_parameter_pass(reference, candidate):
    report = report_on(reference, candidate)
    rates = [t for t in report.tensors if t.kind == "learning_rate"]
    assert [t for t in rates if t.status == "failed"] == []
    assert any(t.status == "passed" for t in rates)
    if len(rates) == 1 or report.counts.unmatched == 0:
        assert report.verdict is Outcome.PASS, report.summary


@pytest.mark.parametrize(
    ("reference", "candidate", "failed", "clause"),
    [
        (
            TWO,
            run({0: 3e-2, 1: 2e-2}, {0: "dc", 1: "ab"}),
            "step0/@root/learning_rate/group0",
            "that of group 1 (a.weight and 1 more) is 0.02, and 0.01 in the reference",
        ),
        (
            ONE,
            run({0: 1e-2, 1: 2e-2}, {0: "ab", 1: "cd"}),
            "step0/@root/learning_rate/group0",
            "that of group 1 (c.weight and 1 more) is 0.02, and 0.01 in the reference",
        ),
        (
            # The same two rates, on the other parameters.
            TWO,
            run({0: 3e-2, 1: 1e-2}, {0: "ab", 1: "cd"}),
            "step0/@root/learning_rate/group0",
            "that of group 0 (a.weight and 1 more) is 0.03, and 0.01 in the reference; "
            "that of group 1 (c.weight and 1 more) is 0.01, and 0.03 in the reference",
        ),
        (
            # One group for two that have a rate each.
            TWO,
            run({0: 1e-2}, {0: "abcd"}),
            "step0/@root/learning_rate/group1",
            "that of group 0 (a.weight and 3 more) is 0.01, and 0.03 in the reference",
        ),
    ],
)
def test_another_rate_is_found_and_named_with_a_parameter(
    reference, candidate, failed, clause
):
    report = report_on(reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    assert failed in [tensor.id for tensor in report.failed()]
    (found,) = [d for d in report.diagnosis if d.code == "group_rates"]
    assert clause in found.sentence


def test_a_group_whose_parameters_the_reference_does_not_train_is_told():
    report = report_on(
        run({0: 1e-2, 1: 1e-2}, {0: "a", 1: "b"}),
        run({0: 9e-2, 1: 1e-2, 2: 1e-2}, {0: "cd", 1: "a", 2: "b"}),
    )
    unmatched = [t.id for t in report.tensors if t.status == "unmatched"]
    assert unmatched == ["step0/@root/learning_rate/candidate.group0"]
    assert not list(report.failed())


def test_groups_that_ranks_number_otherwise_are_compared_by_number():
    report = report_on(TWO, run({0: 1e-2, 1: 3e-2}, {0: "abc", 1: "cd"}))
    assert report.verdict is Outcome.PASS, report.summary


def test_groups_of_which_one_does_not_say_what_it_holds_are_compared_by_number():
    report = report_on(TWO, run({0: 1e-2, 1: 3e-2}, {1: "ab"}))
    assert report.verdict is Outcome.PASS, report.summary


def test_groups_of_a_mapped_run_are_compared_by_number_unless_there_is_one():
    text = "".join(
        f'[[tensor]]\nreference = "{theirs}/{{kind}}/weight"\n'
        f'candidate = "{ours}/{{kind}}/weight"\n'
        for theirs, ours in zip("abcd", "xyzw", strict=True)
    )
    map_file = parse_map(text, Path("map.toml"))
    one = run({1: 1e-2}, {0: "", 1: "xyzw"}, letters="wxyz")
    two = run({0: 1e-2, 1: 3e-2}, {0: "xy", 1: "zw"}, letters="wxyz")
    for reference, candidate in ((ONE, one), (TWO, two)):
        report = compare_traces(
            reference, candidate, load_backend("numpy"), map_file=map_file
        )
        assert report.verdict is Outcome.PASS, report.summary
