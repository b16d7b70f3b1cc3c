"""Transforms of tensors whose values come many times."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.ports import make_port
from tests.factories.traces import memory_trace
from ttrace.map_proposal.arrangement import apply_arrangement
from ttrace.map_proposal.contents import read_content
from ttrace.map_proposal.hypotheses import guess_arrangement
from ttrace.map_proposal.parameters import ParameterMatcher

FEW = np.random.default_rng(0).integers(0, 100, (8, 36)).astype(np.float32)
Q, K, V = FEW.reshape(8, 3, 4, 3).transpose(1, 0, 2, 3)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([FEW], "a b -> a b"),
        ([FEW.T], "b a -> a b"),
        ([FEW.reshape(8, 4, 9)], "a b c -> a (b c)"),
        ([Q, K, V], "a c d -> a (part c d)"),
        ([x.reshape(8, 12).T for x in (Q, K, V)], "c a -> a (part c)"),
        ([FEW[:, :24], FEW[:, 24:30], FEW[:, 30:]], "a part -> a part"),
        ([FEW[:, :24].T, FEW[:, 24:].T], "part a -> a part"),
    ],
)
def test_usual_arrangements(parts, expected):
    found = guess_arrangement(parts, FEW)
    assert found is not None
    assert f"{found.part} -> {found.whole}" == expected
    np.testing.assert_array_equal(apply_arrangement(found, parts), FEW)


@pytest.mark.parametrize("parts", [[FEW[::-1]], [K, Q, V], [FEW[:4]]])
def test_others(parts):
    assert guess_arrangement(parts, FEW) is None


def test_a_port_in_bfloat16():
    port = make_port(activations=False)
    sides = []
    for tensors in (port.reference, port.candidate):
        narrow = {
            name: array.astype(ml_dtypes.bfloat16)
            for name, array in tensors.items()
            if "/param/" in name
        }
        trace = memory_trace(narrow)
        read = (read_content(trace, record) for record in trace.info.tensors.values())
        sides.append([content for content in read if content is not None])
    matcher = ParameterMatcher(*sides)
    matcher.match()
    found = {p.reference[0]: p for p in matcher.pairings}
    assert len(found) == 10
    assert found["model.h.1.attn.c_attn/{kind}/weight"].candidate == tuple(
        f"blocks.1.attn.{x}/{{kind}}/kernel" for x in ("query", "key", "value")
    )
