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

from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.optax_closures import Update, accumulator_of
from ttrace.frontends.jax_parts.taps.optax_rates import chained_learning_rate
from ttrace.frontends.jax_parts.taps.optax_settings import held_settings, tap_injected
from ttrace.frontends.jax_parts.taps.optax_state import (
    accumulates,
    tap_not_added_up,
    tap_state,
)
from ttrace.frontends.jax_parts.taps.param_taps import tap_params
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
from ttrace.frontends.jax_parts.taps.stated import Stated
from ttrace.frontends.jax_parts.taps.tap import is_tappable
from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.ir.kinds import Kind
from ttrace.ir.optimizer_settings import setting_key, setting_text
from ttrace.ir.tensor_id import ROOT_MODULE

_RATE = "learning_rate"


@contextlib.contextmanager
def optax_taps(stated: Stated | None = None) -> Iterator[list[Missed]]:
    """Taps what optimizers are given and what they make of it, while a step is traced.

    ``main_grad`` is what the outermost ``update`` is given: before clipping, where that
    is a link of the chain. Where ``optax.MultiSteps`` is the optimizer or a part of it,
    it is what its inner optimizer is given, in every mini-step; which of these count is
    found when they are recorded (``record.mini_steps``). After it come
    ``learning_rate``, from the state of ``optax.inject_hyperparams`` or from the last
    links of a chain, and ``optimizer_state``. ``optax.apply_updates``, and that of
    equinox, gives ``updated_param``. ``param``, the parameters before, is tapped at
    whichever of the two sees them first. The ``apply_gradients`` of a ``TrainState``
    and the ``update`` of ``nnx.Optimizer`` call both.

    Args:
        stated: Is told the other settings of the optimizer, as far as they are known.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    taps = _OptaxTaps(Stated() if stated is None else stated)
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
    def __init__(self, stated: Stated):
        self.missed: list[Missed] = []
        self._stated = stated
        self._thread = OneThread()
        self._is_inside = False
        self._is_mini_step = False
        self._accumulator: Any = None  # the MultiSteps whose update runs
        self._added_up: set[tuple[str, str]] = set()  # parameters, within an update
        self._seen: dict[int, Any] = {}  # by id, and kept: an id is not used again
        self._optimizers: dict[int, tuple[int, Any]] = {}  # number by id, kept likewise

    def field(self, original: Any) -> property:
        """The field ``update`` of a named tuple; returns a tapped function."""

        def get(transformation: Any) -> Update:
            return self._around_update(original.__get__(transformation))

        return property(get)

    def method(self, original: Update) -> Update:
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

    def _around_update(self, original: Update) -> Update:
        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            accumulator = accumulator_of(original)
            if not self._thread.is_here():
                around = original
            elif self._is_mini_step and accumulator is not self._accumulator:
                around = self._given_what_is_added_up(original)
            elif self._is_mini_step:
                around = original  # its method, which its field has called
            elif accumulator is not None and self._is_inside:
                around = self._in_mini_steps(original)
            elif not self._is_inside:
                around = self._outermost(original)
            else:
                around = original
            return around(updates, state, params, **extra_args)

        return update

    def _outermost(self, original: Update) -> Update:
        """The update of the whole optimizer."""

        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            run = original
            if accumulator_of(original) is not None:
                run = self._in_mini_steps(original)
            is_accumulating = accumulates(state)
            self._is_inside = True
            self._added_up = set()
            try:
                if not is_accumulating:
                    updates = self._main_grads(updates)
                given, names = updates, updates if params is None else params
                params = self._params(params)
                before = state
                updates, state = run(updates, state, params, **extra_args)
                if is_accumulating:
                    self._tapped(
                        given, lambda tree: tap_not_added_up(tree, self._added_up)
                    )
                state = self._tapped(
                    state,
                    lambda tree: self._tap_settings(tree, original, before),
                )
                number = self._number(original)
                state = self._tapped(
                    state, lambda tree: tap_state(tree, names, optimizer=number)
                )
                return updates, state
            finally:
                self._is_inside = False

        return update

    def _number(self, update: Update) -> int:
        """Of the optimizer: the same one in every iteration of a loop of Python."""
        optimizer = accumulator_of(update) or update
        known = len(self._optimizers), optimizer
        return self._optimizers.setdefault(id(optimizer), known)[0]

    def _in_mini_steps(self, original: Update) -> Update:
        """That of ``optax.MultiSteps``, wherever in the optimizer it is."""

        def update(*args: Any, **kwargs: Any) -> Any:
            before = self._accumulator
            self._is_mini_step, self._accumulator = True, accumulator_of(original)
            try:
                return original(*args, **kwargs)
            finally:
                self._is_mini_step, self._accumulator = False, before

        return update

    def _given_what_is_added_up(self, original: Update) -> Update:
        """That of the optimizer in ``optax.MultiSteps``."""

        def update(updates: Any, *args: Any, **kwargs: Any) -> Any:
            self._is_mini_step = False  # its own links are no further ones
            try:
                updates = self._main_grads(updates)
                self._added_up |= {
                    parameter_name(path_segments(path))
                    for path, _ in jax.tree_util.tree_flatten_with_path(updates)[0]
                }
                return original(updates, *args, **kwargs)
            finally:
                self._is_mini_step = True

        return update

    def _main_grads(self, updates: Any) -> Any:
        return self._tapped(updates, lambda tree: tap_params(Kind.MAIN_GRAD, tree))

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

    def _tap_settings(self, state: Any, update: Update, before: Any) -> Any:
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
        for label, name, value in held_settings(update):
            self._stated.say(setting_key(label, name), setting_text(value))
        tap_injected(state)
        return state


def _learning_rates(state: Any) -> Iterator[Any]:
    """The rates in the states of ``inject_hyperparams``, in the order of the chain."""

    def is_injected(node: Any) -> bool:
        hyperparams = getattr(node, "hyperparams", None)
        return isinstance(hyperparams, Mapping) and _RATE in hyperparams

    for node in jax.tree.leaves(state, is_leaf=is_injected):
        if is_injected(node):
            yield node.hyperparams[_RATE]
            yield from _learning_rates(node.inner_state)
