"""Calls of flax NNX modules, tapped while a program is traced."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from ttrace.frontends.jax_parts.module_calls import tapped_call
from ttrace.frontends.jax_parts.patching import (
    Missed,
    OneThread,
    exclusively,
    replaced,
)

_CALL = "__call__"
_MARK = "_ttrace_path"
"""Static attribute that says where a module is while its model is being called.

NNX and JAX copy modules wherever they are transformed: into a scan, out of a split. The
mark goes with the copy, and keeps a function that was traced for one module from being
taken for another. No module has it outside of a call.
"""


@contextlib.contextmanager
def nnx_taps() -> Iterator[list[Missed]]:
    """Taps what NNX modules are given and return, under their paths in the model.

    The model is the module that is called in no other one's call; a module's path is
    that of its attributes and positions (``blocks.0.attn``), the first one where it is
    shared. Only ``__call__`` is tapped. What is in an ``nnx.scan`` is tapped in every
    iteration, under the path of the stacked layers.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusively("the taps on NNX modules"))
        taps = _NnxTaps(stack)
        taps.add_classes_below(nnx.Module)
        yield taps.missed


class _NnxTaps:
    """Wraps the methods ``__call__`` of classes.

    Args:
        stack: Takes back what was changed.
    """

    def __init__(self, stack: contextlib.ExitStack):
        self.missed: list[Missed] = []
        self._stack = stack
        self._thread = OneThread()
        self._classes: set[type] = set()
        self._open: list[nnx.Module] = []

    def add_classes_below(self, base: type) -> None:
        """Taps the modules of a class and of all that inherit from it."""
        self._add_class(base)
        for derived in base.__subclasses__():
            self.add_classes_below(derived)

    def _add_class(self, module: type) -> None:
        if module not in self._classes:
            self._classes.add(module)
            if (call := vars(module).get(_CALL)) is not None:
                self._stack.enter_context(replaced(module, _CALL, self._around(call)))

    def _around(self, original: Any) -> Callable[..., Any]:
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            bound = original.__get__(module, type(module))
            # What a class inherits is called by its own method.
            is_inner = bool(self._open) and self._open[-1] is module
            if is_inner or not self._thread.is_here():
                return bound(*args, **kwargs)
            return self._call(module, bound, args, kwargs)

        if callable(original):
            functools.update_wrapper(call, original)
        return call

    def _call(
        self,
        module: nnx.Module,
        bound: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        is_root = not self._open
        self._open.append(module)
        marked = self._mark(module) if is_root else []
        try:
            path = vars(module).get(_MARK)
            if path is None:
                self._miss(module)
                return bound(*args, **kwargs)
            return tapped_call(path, bound, args, kwargs, is_root=is_root)
        finally:
            self._open.pop()
            if is_root:
                _unmark(marked)
                _unmark(_modules(module).values())

    def _mark(self, root: nnx.Module) -> list[nnx.Module]:
        modules = _modules(root)
        for path, module in modules.items():
            for base in type(module).__mro__:  # classes made since the taps went on
                if issubclass(base, nnx.Module):
                    self._add_class(base)
            vars(module)[_MARK] = path
        return list(modules.values())

    def _miss(self, module: nnx.Module) -> None:
        reason = "it is called by a model that does not hold it, so it has no path"
        missed = Missed(what=type(module).__qualname__, reason=reason)
        if missed not in self.missed:
            self.missed.append(missed)


def _modules(root: nnx.Module) -> dict[str, nnx.Module]:
    """The modules of a model by path; each once, the model itself under ``""``."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(root, graph=True)
        if isinstance(node, nnx.Module)
    }


def _unmark(modules: Any) -> None:
    for module in modules:
        if _MARK in vars(module):
            delattr(module, _MARK)  # NNX forgets its own notes on it, too
