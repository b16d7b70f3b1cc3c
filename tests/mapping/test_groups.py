"""Names of a map applied to traces: groups, states, and what filters explain."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.errors import MapError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.mapping.groups import Position, StateNames, find_groups
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.rules import MapFile

ONE = np.ones(2, np.float32)
PATH = Path("map.toml")
STACKED = """
[[tensor]]
reference = "h.{i}.e{j}/{kind}/w"
candidate = ["q{j}/{kind}/w", "k{j}/{kind}/w"]
transform = "i d -> (p d)"
join = "p"
"""


def info(*names: str, **fields):
    return memory_trace({f"step0/{name}": ONE for name in names}, **fields).info


def test_parts_and_keys():
    reference = info("h.0.e7/param/w", "h.1.e7/param/w", "h.0.e8/param/w", "x/param/w")
    candidate = info("q7/param/w", "k7/param/w")
    first, second = find_groups(parse_map(STACKED, PATH), reference, candidate)
    assert first.key.values == (("j", "7"),) and second.key.values == (("j", "8"),)
    assert {str(i) for i in first.reference.values()} == {
        "step0/h.0.e7/param/w",
        "step0/h.1.e7/param/w",
    }
    assert set(first.reference) == {
        Position(member=0, indices=(0,)),
        Position(member=0, indices=(1,)),
    }
    assert set(first.candidate) == {
        Position(member=0, indices=()),
        Position(member=1, indices=()),
    }
    assert second.candidate == {}
    made = first.reference_id(Position(member=0, indices=(5,)))
    assert str(made) == "step0/h.5.e7/param/w"
    assert str(second.candidate_id(Position(member=1, indices=()), None)) == (
        "step0/k8/param/w"
    )


def test_stacked_names_are_numbers():
    reference = info("h.x.e7/param/w", "h.0.e7/param/w")
    candidate = info("q7/param/w", "k7/param/w")
    (group,) = find_groups(parse_map(STACKED, PATH), reference, candidate)
    assert len(group.reference) == 1


@pytest.mark.parametrize(
    ("known", "name", "expected"),
    [
        (("exp_avg",), "mu", "exp_avg"),
        (("mu",), "mu", "mu"),
        (("mu",), "exp_avg", "mu"),
        (("exp_avg",), "nu", "nu"),
        (("exp_avg", "exp_avg_sq"), "nu", "exp_avg_sq"),
        (("momentum_buffer",), "trace", "momentum_buffer"),
        (("exp_avg",), "own", "exp_avg"),
        (("exp_avg",), "other", "other"),
    ],
)
def test_names_of_states(known, name, expected):
    reference = info(*(f"a/optimizer_state/w.{state}" for state in known))
    map_file = MapFile(path=PATH, states={"exp_avg": "own"})
    states = StateNames(map_file, reference)
    assert states.in_reference(name) == expected


def test_states_back():
    states = StateNames(MapFile(path=PATH), info("a/param/w"))
    assert states.in_candidate("exp_avg") == ("exp_avg", "mu")
    assert states.in_candidate("other") == ("other",)


RULE = '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'


@pytest.mark.parametrize(
    ("capture", "is_error"),
    [
        ({}, True),
        ({"steps": "0"}, True),
        ({"modules": "c"}, False),
        ({"kinds": "input"}, False),
        ({"ranks": "0"}, False),
    ],
)
def test_a_filter_explains_that_nothing_matches(capture, is_error):
    reference, candidate = info("d/param/w"), info("c/param/w", capture=capture)
    map_file = parse_map(RULE, PATH)
    if is_error:
        with pytest.raises(MapError, match="matches nothing in either run"):
            find_groups(map_file, reference, candidate)
    else:
        assert find_groups(map_file, reference, candidate) == []


@pytest.mark.parametrize(
    "names", [("a/param/w", "c/param/w"), ("c/param/w", "b/param/w")]
)
def test_a_rule_may_match_in_one_run_only(names):
    reference, candidate = map(info, names)
    (group,) = find_groups(parse_map(RULE, PATH), reference, candidate)
    assert bool(group.reference) != bool(group.candidate)


def test_states_of_parameters_that_no_rule_names():
    states = StateNames(
        MapFile(path=PATH), info("a/optimizer_state/w.exp_avg", "b/param/w")
    )
    own = parse_tensor_id("step0/a/optimizer_state/w.mu")
    assert str(states.id_in_reference(own)) == "step0/a/optimizer_state/w.exp_avg"
    back = states.ids_in_candidate(parse_tensor_id("step0/a/optimizer_state/w.exp_avg"))
    assert own in back and len(back) == 2
    for other in ("step0/b/param/mu", "step0/a/optimizer_state/count"):
        tensor_id = parse_tensor_id(other)
        assert states.id_in_reference(tensor_id) == tensor_id
        assert states.ids_in_candidate(tensor_id) == (tensor_id,)


def test_kinds_limit_a_rule():
    reference = info("a/param/w", "a/input/w")
    candidate = info("b/param/w", "b/input/w")
    map_file = parse_map(f'{RULE}kinds = ["param"]\n', PATH)
    (group,) = find_groups(map_file, reference, candidate)
    assert [str(i) for i in group.candidate.values()] == ["step0/b/param/w"]
    assert len(find_groups(parse_map(RULE, PATH), reference, candidate)) == 2


@pytest.mark.parametrize("is_swapped", [False, True])
def test_the_pattern_that_says_most_of_a_name_counts(is_swapped):
    """Stages of one run in a flat list of the other, and a norm beside layers."""
    pairs = [("l1.{i}", "s_{i}"), ("l2.0", "s_2"), ("norm", "s_norm")]
    text = "".join(
        f'[[tensor]]\nreference = "{own}/{{kind}}/w"\n'
        f'candidate = "{other}/{{kind}}/w"\n'
        for own, other in (pair[::-1] if is_swapped else pair for pair in pairs)
    )
    one = info("l1.0/param/w", "l1.1/param/w", "l2.0/param/w", "norm/param/w")
    two = info("s_0/param/w", "s_1/param/w", "s_2/param/w", "s_norm/param/w")
    runs = (two, one) if is_swapped else (one, two)
    groups = find_groups(parse_map(text, PATH), *runs)
    assert len(groups) == 4
    assert all(group.reference and group.candidate for group in groups)
