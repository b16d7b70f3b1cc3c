"""What modules take and give, lined up."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.ports import Pair, make_nested
from tests.factories.traces import memory_trace
from ttrace.map_proposal.activations import ActivationMatcher
from ttrace.map_proposal.proposing import propose_map


def rules(pair: Pair) -> dict[str, str]:
    """The candidate's patterns by those of the reference."""
    reference, candidate = memory_trace(pair.reference), memory_trace(pair.candidate)
    map_file = propose_map(reference, candidate, Path("m.toml")).map_file
    return {str(r.reference[0]): str(r.candidate[0]) for r in map_file.rules}


@pytest.mark.parametrize(
    ("change", "expected"), [(0.0, True), (1e-6, True), (0.1, False), (None, None)]
)
def test_whether_outputs_agree(change, expected):
    pair = make_nested()
    name = "step0/mb0/body.up/output/0"
    if change is None:
        del pair.candidate[name]
    else:
        pair.candidate[name] = (pair.candidate[name] * (1 + change)).astype(np.float32)
    matcher = ActivationMatcher(
        memory_trace(pair.reference), memory_trace(pair.candidate)
    )
    assert matcher.outputs_agree("top.block.fc", "body.up") is expected


def test_a_slot_of_the_same_name_comes_first():
    """Of several equal inputs any would agree."""
    pair = make_nested()
    same = pair.values(2, 5, 8)
    for slot in ("x", "y", "z"):
        pair.add(f"mb0/top.block/input/{slot}", f"mb0/body/input/{slot}", same)
    found = rules(pair)
    assert {found[f"top.block/{{kind}}/{s}"] for s in "xyz"} == {
        f"body/{{kind}}/{s}" for s in "xyz"
    }
    assert found["top.block/{kind}/y"] == "body/{kind}/y"
