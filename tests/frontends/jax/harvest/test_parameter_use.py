import jax.numpy as jnp

from ttrace.frontends.jax_parts.harvest.parameter_flow import ProgramParams
from ttrace.frontends.jax_parts.harvest.parameter_use import ParameterUse

W, B = ("layer", "w"), ("layer", "b")


def program(
    arguments,
    *,
    has_optimizer=False,
    is_differentiated=True,
    direct=(frozenset(),),
    forward=frozenset(),
):
    return ProgramParams(
        arguments=arguments,
        has_optimizer=has_optimizer,
        is_differentiated=is_differentiated,
        direct=direct,
        forward=forward,
    )


def test_parameters_are_known_over_all_programs():
    w, x = jnp.ones(2), jnp.ones(2)
    use = ParameterUse()
    use.add(program({W: 0, B: None}), [w, x], [x])
    use.add(program({W: 1}, has_optimizer=True), [x, w], [x])
    arrays = use.arrays()
    assert arrays[W] is w and arrays[B] is None
    assert use.has_optimizer


def test_two_arrays_of_one_name_are_not_known():
    use = ParameterUse()
    for array in (jnp.ones(2), jnp.ones(2)):
        use.add(program({W: 0}), [array], [array])
    assert use.arrays() == {W: None}


def test_a_result_of_a_program_must_be_made_of_the_parameter_directly():
    w, gradient, updated, other = (jnp.ones(2) for _ in range(4))
    use = ParameterUse()
    direct = (frozenset(), frozenset({0}))
    use.add(program({W: 0}, direct=direct), [w], [gradient, updated])
    assert not use.may_update(w, gradient)
    assert use.may_update(w, updated)
    assert not use.may_update(other, updated)
    assert use.may_update(w, other)  # computed elsewhere


def test_a_parameter_that_comes_back_as_it_is_was_not_lost():
    w = jnp.ones(2)
    use = ParameterUse()
    use.add(program({W: 0}), [w], [w])
    assert use.may_update(w, w)


def test_programs_without_gradients_say_nothing_of_their_results():
    w, result = jnp.ones(2), jnp.ones(2)
    use = ParameterUse()
    use.add(program({W: 0}, is_differentiated=False), [w], [result])
    assert use.may_update(w, result)


def test_what_a_program_takes_is_kept_before():
    x, other = jnp.ones(2), jnp.zeros(2)
    use = ParameterUse()
    use.keep([other, x, 1.0], [1, 2])
    x.delete()
    assert use.kept(x).tolist() == [1, 1] and use.kept(other) is other


def test_what_a_differentiated_function_computes_is_told_from_gradients():
    x, state, gradient = (jnp.ones(2) for _ in range(3))
    use = ParameterUse()
    both = program({W: 0}, direct=(frozenset(), frozenset()), forward=frozenset({0}))
    use.add(both, [x], [state, gradient])
    assert use.is_forward(state) and not use.is_forward(gradient)
