"""The optimizer's side of a step, tapped at the boundary of optax.

Outside of optax nothing is known of what an optimizer is given and keeps. What the step
returns as parameters is found without these taps (``record.step_params``), and stands
for the ``updated_param`` that is tapped here.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax

from ttrace.frontends.jax_parts.taps.mini_steps import APPLY_EVERY, MINI_STEP
from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.optax_rates import chained_learning_rate
from ttrace.frontends.jax_parts.taps.param_taps import param_site, tap_params
from ttrace.frontends.jax_parts.taps.patching import (
    Missed,
    OneThread,
    everywhere,
    exclusively,
    note,
    replaced,
    tapped_or_as_it_is,
)
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.frontends.jax_parts.taps.state_names import state_names
from ttrace.frontends.jax_parts.taps.tap import is_tappable
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE

_RATE = "learning_rate"


@contextlib.contextmanager
def optax_taps() -> Iterator[list[Missed]]:
    """Taps what optimizers are given and what they make of it, while a step is traced.

    ``main_grad`` is what the outermost ``update`` is given: before clipping, where that
    is a link of the chain. Of ``optax.MultiSteps`` it is what its inner optimizer is
    given, in every mini-step; which of these count is found when they are recorded
    (``record.mini_steps``). After it come
    ``learning_rate``, from the state of ``optax.inject_hyperparams`` or from the last
    links of a chain, and ``optimizer_state``. ``optax.apply_updates``, and that of
    equinox, gives ``updated_param``. ``param``, the parameters before, is tapped at
    whichever of the two sees them first. The ``apply_gradients`` of a ``TrainState``
    and the ``update`` of ``nnx.Optimizer`` call both.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    taps = _OptaxTaps()
    transformation = optax.GradientTransformation
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusively("the taps on optimizers"))
        for owner, name, value in (
            (transformation, "update", taps.field(vars(transformation)["update"])),
            (optax.MultiSteps, "update", taps.method(optax.MultiSteps.update)),
        ):
            stack.enter_context(replaced(owner, name, value))
        for package in (optax, sys.modules.get("equinox")):
            if (apply := getattr(package, "apply_updates", None)) is not None:
                stack.enter_context(everywhere(apply, taps.around_apply(apply)))
        yield taps.missed


class _OptaxTaps:
    def __init__(self):
        self.missed: list[Missed] = []
        self._thread = OneThread()
        self._is_inside = False
        self._is_mini_step = False
        self._seen: dict[int, Any] = {}  # by id, and kept: an id is not used again

    def field(self, original: Any) -> property:
        """The field ``update`` of a named tuple; returns a tapped function."""

        def get(transformation: Any) -> Callable[..., Any]:
            return self._around_update(original.__get__(transformation))

        return property(get)

    def method(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A method ``update``, tapped."""

        @functools.wraps(original)
        def update(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            bound = original.__get__(optimizer)
            return self._around_update(bound)(*args, **kwargs)

        return update

    def around_apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """``apply_updates``, tapped."""

        @functools.wraps(original)
        def apply_updates(params: Any, updates: Any) -> Any:
            if self._is_inside or not self._thread.is_here():
                return original(params, updates)
            updated = original(self._params(params), updates)
            return self._tapped(
                updated, lambda tree: tap_params(Kind.UPDATED_PARAM, tree)
            )

        return apply_updates

    def _around_update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(getattr(original, "__self__", None), optax.MultiSteps):
            return self._around_mini_step(original)

        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            if self._is_inside or not self._thread.is_here():
                return original(updates, state, params, **extra_args)
            self._is_inside = True
            try:
                updates = self._tapped(
                    updates, lambda tree: tap_params(Kind.MAIN_GRAD, tree)
                )
                names = updates if params is None else params
                if not self._is_mini_step:
                    params = self._params(params)
                before = state
                updates, state = original(updates, state, params, **extra_args)
                state = self._tapped(
                    state,
                    lambda tree: self._tap_learning_rates(tree, original, before),
                )
                if not self._is_mini_step:
                    state = self._tapped(state, lambda tree: _tap_state(tree, names))
                return updates, state
            finally:
                self._is_inside = False

        return update

    def _around_mini_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """That of ``optax.MultiSteps``; its inner optimizer is tapped as any other."""

        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            is_nested = self._is_inside or self._is_mini_step
            if is_nested or not self._thread.is_here():
                return original(updates, state, params, **extra_args)
            names = updates if params is None else params
            params = self._params(params)
            self._is_mini_step = True
            try:
                updates, state = original(updates, state, params, **extra_args)
            finally:
                self._is_mini_step = False
            return updates, self._tapped(
                state, lambda tree: _tap_mini_step(tree, names)
            )

        return update

    def _tapped(self, tree: Any, tap: Callable[[Any], Any]) -> Any:
        return tapped_or_as_it_is(tree, tap, what="optimizer", missed=self.missed)

    def _params(self, params: Any) -> Any:
        """The parameters, tapped unless they have been."""
        return self._tapped(params, self._tap_params)

    def _tap_params(self, params: Any) -> Any:
        leaves = [leaf for leaf in jax.tree.leaves(params) if is_tappable(leaf)]
        if all(id(leaf) in self._seen for leaf in leaves):
            return params
        tapped = tap_params(Kind.PARAM, params)
        self._seen |= {id(leaf): leaf for leaf in (*leaves, *jax.tree.leaves(tapped))}
        return tapped

    def _tap_learning_rates(
        self, state: Any, update: Callable[..., Any], before: Any
    ) -> Any:
        rates = list(_learning_rates(state))
        if not rates:
            chained = chained_learning_rate(update, before)
            rates = [] if chained is None else [chained]
        for index, rate in enumerate(rates):
            tap_in_program(
                value_site(ROOT_MODULE, Kind.LEARNING_RATE, f"group{index}"), rate
            )
        if not rates:
            reason = (
                "the optimizer keeps its learning rate to itself: its chain does not "
                "end in it; make it with optax.inject_hyperparams"
            )
            rate = Missed(what="optimizer", kind=Kind.LEARNING_RATE, reason=reason)
            note(self.missed, rate)
        return state


def _tap_mini_step(state: optax.MultiStepsState, params: Any) -> Any:
    """What the inner optimizer keeps, and how far the mini-steps are."""
    inner = _tap_state(state.inner_opt_state, params)
    count = tap_in_program(MINI_STEP, state.mini_step)
    return state._replace(inner_opt_state=inner, mini_step=count)


def _tap_state(state: Any, params: Any) -> Any:
    """What ``optax.apply_every`` keeps is no optimizer's, but how far it is counts."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        state, is_leaf=_is_apply_every
    )
    names = iter(
        state_names(
            (path for path, leaf in leaves if not _is_apply_every(leaf)), params
        )
    )
    return jax.tree.unflatten(
        structure,
        [
            leaf._replace(count=tap_in_program(APPLY_EVERY, leaf.count))
            if _is_apply_every(leaf)
            else tap_in_program(param_site(Kind.OPTIMIZER_STATE, *next(names)), leaf)
            for _, leaf in leaves
        ],
    )


def _is_apply_every(node: Any) -> bool:
    return isinstance(node, optax.ApplyEvery)


def _learning_rates(state: Any) -> Iterator[Any]:
    """The rates in the states of ``inject_hyperparams``, in the order of the chain."""

    def is_injected(node: Any) -> bool:
        hyperparams = getattr(node, "hyperparams", None)
        return isinstance(hyperparams, Mapping) and _RATE in hyperparams

    for node in jax.tree.leaves(state, is_leaf=is_injected):
        if is_injected(node):
            yield node.hyperparams[_RATE]
            yield from _learning_rates(node.inner_state)
