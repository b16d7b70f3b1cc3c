"""Calls of flax linen modules, tapped while a program is traced."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

from ttrace.frontends.jax_parts.taps.module_calls import tap_state, tapped_call
from ttrace.frontends.jax_parts.taps.patching import (
    Missed,
    exclusively,
    tapped_or_as_it_is,
)
from ttrace.ir.tensor_id import ROOT_MODULE

_CALL = "__call__"
_NOT_CALLS = frozenset({"setup", "__init__", "__post_init__"})
_NO_STATE = frozenset({"params", "intermediates", "perturbations"})
"""Collections that are no state of a model: what is sown is tapped where it is made."""


@contextlib.contextmanager
def linen_taps() -> Iterator[list[Missed]]:
    """Taps what linen modules are given and return, under their own paths.

    A module's path is that of its parameters, as linen makes it: attributes and fields
    by name (``h_0.attn``), lifted modules by their class (``ScanBlock_0``) unless they
    have a name. What is in an ``nn.scan`` is tapped in every iteration.

    Of the methods only ``__call__`` is tapped, and whatever method ``apply`` was given,
    as the call of the model. Initialization is not. What a call leaves in mutable
    collections (``batch_stats``) is tapped as an output of the module that has it.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    calls = _Calls()
    with exclusively("the taps on linen modules"), nn.intercept_methods(calls):
        yield calls.missed


class _Calls:
    """The interceptor; linen keeps one stack of them per thread."""

    def __init__(self):
        self.missed: list[Missed] = []
        self._depth = 0

    def __call__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module, name = context.module, context.method_name
        is_call = name == _CALL or (self._depth == 0 and name not in _NOT_CALLS)
        if not is_call or module.scope is None or module.is_initializing():
            return call(*args, **kwargs)
        self._depth += 1
        try:
            path = ".".join(module.path)
            result = tapped_call(
                path,
                call,
                args,
                kwargs,
                is_root=self._depth == 1,
                missed=self.missed,
            )
            tapped_or_as_it_is(
                module,
                lambda module: _tap_variables(module, path),
                what=path or ROOT_MODULE,
                missed=self.missed,
            )
            return result
        finally:
            self._depth -= 1


def _tap_variables(module: nn.Module, path: str) -> None:
    """Taps what a module has in collections that the call may change."""
    scope = module.scope
    if scope is None or scope.mutable is False:
        return
    for collection, variables in module.variables.items():
        if collection in _NO_STATE or not module.is_mutable_collection(collection):
            continue
        for name, value in variables.items():
            tapped = tap_state(path, collection, name, value)
            if tapped is not value:
                module.put_variable(collection, name, tapped)
