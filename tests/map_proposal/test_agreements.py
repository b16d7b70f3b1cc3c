"""Which activations of two runs agree, and how they lie."""

import numpy as np
import pytest

from tests.factories.traces import MemoryTrace, memory_trace
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.recorded_activations import Activations

OWN, OTHER = "step0/mb0/a/output/0", "step0/mb0/x/output/0"
IDS = parse_tensor_id(OWN), parse_tensor_id(OTHER)
X = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)


def agreements(other: np.ndarray) -> tuple[Agreements, MemoryTrace]:
    candidate = memory_trace({OTHER: other})
    sides = {
        Side.REFERENCE: Activations(memory_trace({OWN: X})),
        Side.CANDIDATE: Activations(candidate),
    }
    return Agreements(sides), candidate


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (X, "a b c -> a b c"),
        (X.swapaxes(0, 1) * np.float32(1 + 1e-6), "b a c -> a b c"),
        (X.reshape(2, 30), "a (b c) -> a b c"),
        (X * np.float32(1.1), None),
        (-X, None),
        (X[:1], None),
    ],
)
def test_values_in_another_order(other, expected):
    found = agreements(other.copy())[0].transform(*IDS)
    assert (None if found is None else str(found)) == expected


def test_each_pair_is_compared_once():
    found, candidate = agreements(X.copy())
    assert found.transform(*IDS) is not None
    for array in candidate.arrays.values():
        array += 1
    assert found.transform(*IDS) is not None


def test_the_coarser_dtype_says_what_agrees():
    found, _ = agreements(X.astype(np.float16))
    assert found.tolerance(*IDS) > 1e-2
    assert found.transform(*IDS) is not None
