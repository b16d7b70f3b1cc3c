"""Calls of instances of classes, tapped by wrapping the classes' methods."""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from ttrace.frontends.jax_parts.taps.compute_dtypes import say_dtypes
from ttrace.frontends.jax_parts.taps.module_calls import tapped_call
from ttrace.frontends.jax_parts.taps.patching import (
    Missed,
    OneThread,
    note,
    replaced,
    tapped_or_as_it_is,
)
from ttrace.frontends.jax_parts.taps.stated import Stated

_CALL = "__call__"
_NO_PATH = "it is called by a model that does not hold it, so it has no path"


class ClassCalls:
    """Taps the calls of all instances of a class and of those that inherit from it.

    The model is the instance that is called in no other one's call. A subclass says
    what the paths in it are. ``__call__`` is the module itself; another method is
    tapped under its name where it is called from another module or from outside of all,
    unless its name begins with ``_``.

    Args:
        base: The class of all modules.
        stated: Is told in which dtypes the modules compute, and where their code is.

    Attributes:
        missed: Instances that have no path.
    """

    def __init__(self, base: type, stated: Stated):
        self._stated = stated
        self.missed: list[Missed] = []
        self._base = base
        self._stack = contextlib.ExitStack()
        self._thread = OneThread()
        self._classes: set[type] = set()
        self._open: list[tuple[Any, str]] = []  # modules, and which method runs

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[None]:
        """Wraps the classes, and makes them what they were in the end."""
        with self._stack:
            self._add_below(self._base)
            yield

    def is_module(self, class_: type) -> bool:
        """Whether instances of a class below the base are modules."""
        return True

    @contextlib.contextmanager
    def with_paths(self, model: Any) -> Iterator[None]:
        """Knows the paths of a model's modules while the model is being called."""
        raise NotImplementedError

    def path_of(self, module: Any) -> str | None:
        """The path of a module in the model, empty for the model; None for others."""
        raise NotImplementedError

    def why_no_path(self, module: Any) -> str:
        """Why a module that is called has none; a sentence for the report."""
        return _NO_PATH

    def with_state(self, module: Any, path: str) -> contextlib.AbstractContextManager:
        """Taps what a call changes in the module itself; modules change in NNX only."""
        return contextlib.nullcontext()

    def add_class_of(self, module: Any) -> None:
        """Taps the class of a module, should it have been made since the start."""
        for class_ in type(module).__mro__:
            if issubclass(class_, self._base):
                self._add(class_)

    def _add_below(self, class_: type) -> None:
        self._add(class_)
        for derived in class_.__subclasses__():
            self._add_below(derived)

    def _add(self, class_: type) -> None:
        if class_ in self._classes or not self.is_module(class_):
            return
        self._classes.add(class_)
        for name, original in list(vars(class_).items()):
            if name == _CALL or (
                class_ is not self._base and _is_method(name, original)
            ):
                if not getattr(original, "__isabstractmethod__", False):
                    around = self._around(original, name)
                    self._stack.enter_context(replaced(class_, name, around))

    def _around(self, original: Any, name: str) -> Callable[..., Any]:
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            bound = original.__get__(module, type(module))
            if self._is_own(module, name) or not self._thread.is_here():
                return bound(*args, **kwargs)
            return self._call(module, name, bound, args, kwargs)

        if callable(original):
            functools.update_wrapper(call, original)
        return call

    def _is_own(self, module: Any, name: str) -> bool:
        """Whether the module itself makes the call."""
        if not self._open:
            return False
        caller, running = self._open[-1]
        if name == _CALL:  # what a class inherits is called by its own method
            return caller is module and running == name
        # A transform of NNX gives a method a copy of its module.
        return caller is module or (
            type(caller) is type(module)
            and self.path_of(module) is not None
            and self.path_of(caller) == self.path_of(module)
        )

    def _call(
        self,
        module: Any,
        name: str,
        bound: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        say_dtypes(module, self._stated)
        is_root = not self._open
        self._open.append((module, name))
        try:
            with contextlib.ExitStack() as stack:
                if is_root:
                    self._enter(stack, self.with_paths(module), module)
                path = self.path_of(module)
                if path is None:
                    if name == _CALL:
                        self._miss(module)
                    return bound(*args, **kwargs)
                self._stated.say_code(path, type(module), name)
                self._enter(stack, self.with_state(module, path), module)
                return tapped_call(
                    path,
                    bound,
                    args,
                    kwargs,
                    is_root=is_root,
                    missed=self.missed,
                    method="" if name == _CALL else name,
                )
        finally:
            self._open.pop()

    def _enter(
        self,
        stack: contextlib.ExitStack,
        context: contextlib.AbstractContextManager[Any],
        module: Any,
    ) -> None:
        """Where that fails, the module is called all the same."""
        tapped_or_as_it_is(
            context,
            stack.enter_context,
            what=type(module).__qualname__,
            missed=self.missed,
        )

    def _miss(self, module: Any) -> None:
        reason = self.why_no_path(module)
        note(self.missed, Missed(what=type(module).__qualname__, reason=reason))


def _is_method(name: str, member: Any) -> bool:
    """Whether a member of a class is a method that others may call."""
    return isinstance(member, types.FunctionType) and not name.startswith("_")
