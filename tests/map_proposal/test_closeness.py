"""Transforms between arrays that agree but for rounding."""

import numpy as np
import pytest

from ttrace.map_proposal.closeness import close_transform

X = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        (X, X, "a b c d -> a b c d"),
        (X, X.reshape(2, 5, 12), "a b c d -> a b (c d)"),
        (X.reshape(10, 12), X, "(a b) (c d) -> a b c d"),
        (X.transpose(1, 0, 2, 3), X, "b a c d -> a b c d"),
        (X.transpose(0, 2, 1, 3), X.reshape(2, 5, 12), "a c b d -> a b (c d)"),
        (X[:1], X[0], "1 a b c -> a b c"),
        (X[0], X[:1], "a b c -> 1 a b c"),
    ],
)
def test_close_arrays(candidate, reference, expected):
    noisy = (candidate * (1 + 1e-6)).astype(np.float32)
    assert str(close_transform(noisy, reference, 1e-4)) == expected
    assert close_transform(noisy + 0.1, reference, 1e-4) is None
    assert close_transform(noisy[:, :1], reference, 1e-4) is None


def test_a_shape_that_is_no_regrouping_of_dims():
    values = X.reshape(-1)[:36]
    assert close_transform(values.reshape(6, 6), values.reshape(4, 9), 1e-4) is None
    assert close_transform(np.zeros((2,) * 6), np.zeros(64), 1e-4) is None


def test_scalars():
    one = np.ones((), np.float32)
    found = close_transform(one, one, 1e-4)
    assert found is not None and found.is_identity
