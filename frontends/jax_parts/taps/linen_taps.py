"""Calls of flax linen modules, tapped while a program is traced."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

from ttrace.frontends.jax_parts.taps.compute_dtypes import say_dtypes
from ttrace.frontends.jax_parts.taps.module_calls import tap_state, tapped_call
from ttrace.frontends.jax_parts.taps.patching import (
    Missed,
    exclusively,
    tapped_or_as_it_is,
)
from ttrace.frontends.jax_parts.taps.stated import Stated
from ttrace.ir.tensor_id import ROOT_MODULE

_CALL = "__call__"
_NOT_CALLS = frozenset({"setup", "__init__", "__post_init__"})
_NO_STATE = frozenset({"params", "intermediates", "perturbations"})
"""Collections that are no state of a model: what is sown is tapped where it is made."""


@contextlib.contextmanager
def linen_taps(stated: Stated | None = None) -> Iterator[list[Missed]]:
    """Taps what linen modules are given and return, under their own paths.

    A module's path is that of its parameters, as linen makes it: attributes and fields
    by name (``h_0.attn``), lifted modules by their class (``ScanBlock_0``) unless they
    have a name. What is in an ``nn.scan`` is tapped in every iteration.

    Methods are tapped where they are called from another module: ``__call__`` as the
    module itself, others under their name (``embed/output/attend.0``). Whatever method
    ``apply`` was given is the call of the model. Initialization is not tapped, nor are
    methods whose name begins with ``_``. What a call leaves in mutable collections
    (``batch_stats``) is tapped as an output of the module that has it.

    Args:
        stated: Is told in which dtypes the modules compute, and where their code is.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    calls = _Calls(stated or Stated())
    with exclusively("the taps on linen modules"), nn.intercept_methods(calls):
        yield calls.missed


class _Calls:
    """The interceptor; linen keeps one stack of them per thread."""

    def __init__(self, stated: Stated):
        self.missed: list[Missed] = []
        self._stated = stated
        self._open: list[str] = []  # paths of the modules whose methods run

    def __call__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module, name = context.module, context.method_name
        if name in _NOT_CALLS or module.scope is None or module.is_initializing():
            return call(*args, **kwargs)
        say_dtypes(module, self._stated)
        path = ".".join(module.path)
        is_root = not self._open
        is_own = not is_root and self._open[-1] == path
        is_tapped = name == _CALL or is_root or not (is_own or name.startswith("_"))
        self._open.append(path)
        try:
            if not is_tapped:
                return call(*args, **kwargs)
            self._stated.say_code(path, type(module), name)
            result = tapped_call(
                path,
                call,
                args,
                kwargs,
                is_root=is_root,
                missed=self.missed,
                method="" if is_root or name == _CALL else name,
            )
            tapped_or_as_it_is(
                module,
                lambda module: _tap_variables(module, path),
                what=path or ROOT_MODULE,
                missed=self.missed,
            )
            return result
        finally:
            self._open.pop()


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
