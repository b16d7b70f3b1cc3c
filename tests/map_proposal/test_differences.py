"""Why the same modules give unlike values, where that is known."""

import numpy as np
import pytest

from ttrace.ir.side import Side
from ttrace.map_proposal.differences import known_difference

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)
BIAS = RANDOM.normal(size=6).astype(np.float32)
APART = "the bias is given apart, and the {} has added it"


def both(reference: dict, candidate: dict) -> dict:
    return {Side.REFERENCE: reference, Side.CANDIDATE: candidate}


@pytest.mark.parametrize("apart", Side)
def test_a_bias_that_is_given_apart(apart):
    other = Side.CANDIDATE if apart is Side.REFERENCE else Side.REFERENCE
    outputs = {
        apart: {"0": X.transpose(1, 0, 2), "1": BIAS},
        other: {"0": X + BIAS * np.float32(1 + 1e-6)},
    }
    found = known_difference("0", "0", outputs, 1e-4)
    assert found is not None and str(found.transform) == "b a c -> a b c"
    reason = APART.format(other)
    assert found.reasons[apart] == {"0": reason, "1": reason}
    assert found.reasons[other] == {
        "0": f"with its bias, which the {apart} gives apart"
    }


@pytest.mark.parametrize("dim", [0, 1])
def test_values_repeated_for_every_sample(dim):
    one = X[0]
    many = np.stack([one] * 3, dim)
    found = known_difference("0", "x", both({"0": many}, {"x": one}), 1e-4)
    assert found is not None and found.transform is None
    assert found.reasons == {
        Side.REFERENCE: {"0": "the candidate has it once, not repeated"},
        Side.CANDIDATE: {"x": "the reference has it repeated"},
    }
    found = known_difference("x", "0", both({"x": one}, {"0": many}), 1e-4)
    assert found is not None
    assert found.reasons[Side.REFERENCE] == {"x": "the candidate has it repeated"}


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ({"0": X, "1": BIAS}, {"0": X + 2 * BIAS}),  # another bias
        ({"0": X, "1": BIAS[:5]}, {"0": X + BIAS}),  # of another length
        ({"0": X}, {"0": X + BIAS}),  # given nowhere
        ({"0": np.stack([X[0], X[1]])}, {"0": X[0]}),  # not the same each time
        ({"0": X}, {"0": 1.1 * X}),
        ({"0": X}, {"0": X, "mean": 1e-6 * BIAS}),  # a small statistic
    ],
)
def test_what_is_not_known(reference, candidate):
    assert known_difference("0", "0", both(reference, candidate), 1e-4) is None
