"""Which modules were not compared before a tensor that fails."""

import pytest

from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.frontier.uncompared import Seen, uncompared_before

LOSS = "step0/mb0/@root/loss"


def seen(text: str, status: str = "passed", reason: str = "no rule; add one") -> Seen:
    return parse_tensor_id(f"step0/{text}/output/0"), status, reason


@pytest.mark.parametrize(
    ("failed", "within", "tensors", "expected"),
    [
        (LOSS, "@root", [seen("mb0/a"), seen("mb0/b", "skipped")], ("b",)),
        # Of another micro-batch, or behind what failed.
        (LOSS, "@root", [seen("mb1/b", "skipped")], None),
        # The module around the failed one has not returned.
        ("step0/mb0/a.b/input/0", "a", [seen("mb0/a", "skipped")], None),
        (
            *("step0/mb0/a.c/input/0", "a"),
            [seen("mb0/x", "skipped"), seen("mb0/a.b", "skipped")],
            ("a.b",),
        ),
        # One that another output of was compared.
        (
            *(LOSS, "@root"),
            [seen("mb0/b", "skipped"), seen("mb0/b")],
            None,
        ),
    ],
)
def test_modules_that_may_hold_the_error(failed, within, tensors, expected):
    id_ = parse_tensor_id(failed)
    behind = [(id_, "failed", ""), seen("mb0/late", "skipped")]
    found = uncompared_before(id_, within, [*tensors, *behind])
    assert (found and found.modules) == expected


def test_many_are_counted():
    tensors = [seen(f"mb0/{letter}", "skipped") for letter in "abcde"]
    found = uncompared_before(parse_tensor_id(LOSS), "@root", tensors)
    assert found is not None
    assert found.sentence == (
        "nothing that a, b, c and 2 more modules return was compared (no rule)"
    )
