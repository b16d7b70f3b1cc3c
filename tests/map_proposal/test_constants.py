"""State of one run alone that no step changes."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.ir.frozen_parameters import frozen_setting
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.constants import find_constants

TABLE = "step0/positions/param/weight"
LIKE = "step0/pos/param/table"


def constants(*, frozen: bool, like: int = 0) -> set[str]:
    """What is constant of a run that alone keeps a table.

    Args:
        frozen: The run says that no step changes it.
        like: Elements of a parameter that only the other run has; 0 for none.
    """
    settings = frozen_setting([("positions", "weight")] if frozen else [])
    traces = {
        Side.REFERENCE: memory_trace(
            {TABLE: np.ones((4, 2), np.float32)}, settings=settings
        ),
        Side.CANDIDATE: memory_trace({LIKE: np.ones(like or 1, np.float32)}),
    }
    one_sided = [(Side.REFERENCE, parse_tensor_id(TABLE))]
    if like:
        one_sided.append((Side.CANDIDATE, parse_tensor_id(LIKE)))
    return {str(id_) for _, id_ in find_constants(one_sided, traces)}


@pytest.mark.parametrize("like", [0, 7])
def test_a_frozen_table_that_the_other_run_computes(like):
    assert constants(frozen=True, like=like) == {TABLE}


def test_a_parameter_that_is_trained_is_none():
    assert constants(frozen=False) == set()


def test_a_frozen_parameter_may_be_the_other_one_under_another_name():
    assert constants(frozen=True, like=8) == set()
