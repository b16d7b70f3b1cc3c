"""Which modules are named of JAX models: linen, NNX, scans, ``shard_map``, ports."""

import pytest

from tests.factories.isolated_jax import (
    MAP_OF_LINEN,
    MAP_OF_SCANNED,
    Bugs,
    Train,
    linen,
    scanned,
    shard_mapped,
    torch_model,
)
from tests.factories.isolated_runs import Runs
from ttrace.report.isolation import Isolation
from ttrace.report.model import Outcome

REFERENCES: dict[str, Train] = {
    "linen": linen(),
    "shard_mapped": shard_mapped(),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def names(isolation: Isolation) -> list[str]:
    assert isolation.obstacle == "" and not isolation.notes and not isolation.left_out
    return sorted(place.module for place in isolation.isolated)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("linen", linen(dp=2, tp=4, is_recomputed=True)),
        ("shard_mapped", shard_mapped(dp=2, tp=2)),
    ],
)
def test_a_right_candidate_has_no_such_place(runs, reference, candidate):
    report, isolation = runs.isolated(REFERENCES[reference], candidate)
    assert report.verdict is Outcome.PASS
    assert names(isolation) == []
    assert isolation.num_overwritten > 5


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        (
            "linen",
            linen(Bugs(between=("block1",), loss=True), tp=2, is_recomputed=True),
            ["@root", "block1"],
        ),
        (
            "shard_mapped",
            shard_mapped(Bugs(forward=("down",), between=("@root",)), dp=2, tp=2),
            ["@root", "down"],
        ),
    ],
)
def test_exactly_the_wrong_modules_are_named(runs, reference, candidate, expected):
    _, isolation = runs.isolated(REFERENCES[reference], candidate)
    assert names(isolation) == expected


@pytest.mark.parametrize(
    ("candidate", "map_text", "expected"),
    [
        (
            linen(Bugs(forward=("block0.up",), backward=("head",)), dp=4, tp=2),
            MAP_OF_LINEN,
            ["block0.up", "head"],
        ),
        (scanned(), MAP_OF_SCANNED, []),
        (
            scanned(Bugs(between=("blocks",), backward=("head",))),
            MAP_OF_SCANNED,
            ["block0", "block1", "head"],
        ),
    ],
)
def test_a_port_is_given_the_values_of_torch(runs, candidate, map_text, expected):
    report, isolation = runs.isolated(torch_model, candidate, map_text=map_text)
    assert (report.verdict is Outcome.PASS) == (not expected)
    assert names(isolation) == expected
    assert isolation.num_overwritten > 10
