"""The loss and the parameters of a differentiated function, tapped."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.param_taps import tap_params
from ttrace.frontends.jax_parts.taps.patching import (
    Missed,
    OneThread,
    exclusively,
    tapped_or_as_it_is,
)
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.ir.kinds import Kind

Differentiated = Callable[..., Any]
"""A function of its differentiated arguments alone."""

_NNX_STATES = {"NodeStates": 2, "TreeState": 1}
"""What NNX makes of a model to differentiate it: keys before a parameter's path."""


@contextlib.contextmanager
def grad_taps(
    change: Callable[[Differentiated], Differentiated] | None = None,
) -> Iterator[list[Missed]]:
    """Taps the functions that reverse mode differentiates, while a step is traced.

    ``loss`` is the scalar that is differentiated (not what a function returns beside
    it), ``param_grad`` the gradient of the parameters: of arguments that are trees; an
    array alone may be anything. Where differentiated functions are nested, the
    outermost is meant. All ways lead here: ``jax.grad`` and ``jax.value_and_grad``,
    however long ago they were called, and those of NNX and equinox.

    Args:
        change: Applied to each such function before it is differentiated.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    taps = _GradTaps(change)
    with exclusively("the taps on gradients"), private_jax.differentiating(taps.around):
        yield taps.missed


class _GradTaps:
    def __init__(self, change: Callable[[Differentiated], Differentiated] | None):
        self.missed: list[Missed] = []
        self._change = change
        self._thread = OneThread()
        self._is_inside = False

    def around(self, function: Differentiated, has_aux: bool) -> Differentiated:
        """The function, tapped if it is the outermost."""

        def tapped(*primals: Any) -> Any:
            if self._is_inside or not self._thread.is_here():
                return function(*primals)
            self._is_inside = True
            try:
                inner = function if self._change is None else self._change(function)
                result = inner(*self._tapped(primals, _tap_arguments))
                if not has_aux:
                    return self._tapped(result, _tap_loss)
                loss, aux = result
                return self._tapped(loss, _tap_loss), aux
            finally:
                self._is_inside = False

        return tapped

    def _tapped(self, value: Any, tap: Callable[[Any], Any]) -> Any:
        what = "the function that is differentiated"
        return tapped_or_as_it_is(value, tap, what=what, missed=self.missed)


def _tap_arguments(primals: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(primals) == 1:
        return tuple(map(_tap_argument, primals))
    # As optax sees the gradients of several arguments: a tuple.
    return tuple(
        _tap_argument(primal, jax.tree_util.SequenceKey(index))
        for index, primal in enumerate(primals)
    )


def _tap_argument(primal: Any, *position: Any) -> Any:
    if jax.tree_util.all_leaves([primal]):
        return primal
    skipped = 0
    if type(primal).__module__.startswith("flax.nnx"):
        skipped = _NNX_STATES.get(type(primal).__name__, 0)

    def own_path(path: Sequence[Any]) -> Sequence[Any]:
        return (*position, *path[skipped:])

    return tap_params(Kind.PARAM, primal, own_path=own_path, with_gradient=True)


def _tap_loss(loss: Any) -> Any:
    is_scalar = isinstance(loss, jax.Array) and loss.shape == ()
    if is_scalar and jnp.issubdtype(loss.dtype, jnp.floating):
        return tap_in_program(value_site("", Kind.LOSS, None), loss)
    return loss
