"""The table of kinds: whole, in order, and each set of the meaning that it states."""

import pytest

from ttrace.ir.kinds import (
    ACTIVATIONS,
    EXACT_REPLICAS,
    GRADIENT_OF,
    GRADIENTS,
    KINDS,
    NEEDS_AUTOGRAD,
    OF_LAYOUT,
    OPTIONAL,
    PER_MICROBATCH,
    RECORDED_BY_DEFAULT,
    Kind,
    Phase,
    kinds_of_phases,
)


def test_every_kind_has_its_row_in_the_order_of_a_step():
    assert list(KINDS) == list(Kind)
    phases = list(Phase)
    order = [phases.index(traits.phase) for traits in KINDS.values()]
    assert order == sorted(order)


def test_the_phases_part_the_kinds():
    parts = [kinds_of_phases(phase) for phase in Phase]
    assert sum(map(len, parts)) == len(Kind) and all(parts)
    assert kinds_of_phases(*Phase) == set(Kind)
    assert kinds_of_phases() == frozenset()


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (ACTIVATIONS, "input output grad_output grad_input"),
        (GRADIENTS, "grad_output grad_input param_grad main_grad clipped_grad"),
        (
            NEEDS_AUTOGRAD,
            "grad_output grad_input param_grad main_grad grad_norm clipped_grad",
        ),
        (PER_MICROBATCH, "input output loss grad_output grad_input param_grad op"),
        (
            EXACT_REPLICAS,
            "param main_grad clipped_grad optimizer_state updated_param written_param",
        ),
        (OPTIONAL, "buffer clipped_grad written_param updated_buffer"),
        (OF_LAYOUT, "op collective"),
        (set(Kind) - RECORDED_BY_DEFAULT, "op collective"),
        (kinds_of_phases(Phase.BACKWARD), "grad_output grad_input param_grad"),
    ],
)
def test_what_the_sets_hold(kinds, names):
    assert kinds == set(map(Kind, names.split()))


def test_gradients_of_kinds():
    assert GRADIENT_OF == {
        Kind.PARAM: Kind.PARAM_GRAD,
        Kind.INPUT: Kind.GRAD_INPUT,
        Kind.OUTPUT: Kind.GRAD_OUTPUT,
    }
    for kind, gradient in GRADIENT_OF.items():
        assert gradient in GRADIENTS
        assert (kind in ACTIVATIONS) is (gradient in ACTIVATIONS)


def test_no_part_of_the_table_can_be_changed():
    with pytest.raises(TypeError):
        KINDS[Kind.OP] = KINDS[Kind.PARAM]  # pyright: ignore[reportIndexIssue]
