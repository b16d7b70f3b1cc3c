import pytest

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.store.order import merge_orders


def ids(text, step=0):
    return [TensorId(step=step, module=m, kind=Kind.OUTPUT) for m in text.split()]


@pytest.mark.parametrize(
    ("orders", "merged"),
    [
        ([], ""),
        (["a b c"], "a b c"),
        (["a b c", "a b c"], "a b c"),
        (["a b", ""], "a b"),
        (["a c", "a b c"], "a b c"),
        (["a d", "a b c d"], "a b c d"),
        (["a b", "x y"], "a b x y"),
        (["a norm", "x y norm"], "a x y norm"),
        (["a norm", "x norm", "y norm"], "a x y norm"),
        (["a b", "b x"], "a b x"),
        (["a b", "b a x"], "a x b"),
        (["a b c", "c y b x"], "a b x c y"),
    ],
    ids=lambda value: "|".join(value) if isinstance(value, list) else value,
)
def test_later_ranks_are_fitted_in(orders, merged):
    assert merge_orders(map(ids, orders)) == ids(merged)


def test_steps_follow_each_other():
    first_stage = ids("a norm", 0) + ids("a norm", 1)
    second_stage = ids("x norm", 0) + ids("x norm", 1)
    assert merge_orders([first_stage, second_stage]) == (
        ids("a x norm", 0) + ids("a x norm", 1)
    )


def test_steps_are_in_order_even_where_the_first_rank_lacks_one():
    assert merge_orders([ids("a", 1), ids("b", 0)]) == ids("b", 0) + ids("a", 1)


def test_cost_is_linear():
    """A quadratic merge of these takes minutes."""
    common = ids("a z")
    orders = [
        [common[0], *ids(" ".join(f"r{rank}.{i}" for i in range(50))), common[1]]
        for rank in range(400)
    ]
    merged = merge_orders(orders)
    assert len(merged) == 400 * 50 + 2
    assert (merged[0], merged[-1]) == tuple(common)
