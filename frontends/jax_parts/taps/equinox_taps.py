"""Calls of equinox modules, tapped while a program is traced."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import equinox
import jax

from ttrace.frontends.jax_parts.taps.class_calls import ClassCalls
from ttrace.frontends.jax_parts.taps.patching import Missed, exclusively
from ttrace.frontends.jax_parts.taps.stated import Stated
from ttrace.frontends.jax_parts.taps.tree_names import path_segments


@contextlib.contextmanager
def equinox_taps(stated: Stated | None = None) -> Iterator[list[Missed]]:
    """Taps what equinox modules are given and return, under their paths in the model.

    The model is the module that is called in no other one's call; a module's path is
    that of its fields and positions (``blocks.0.attn``), the first one where it is
    shared. Methods other than ``__call__`` are tapped under their own names where they
    are called from another module (``decoder/output/sample.0``). Both are under
    ``jax.vmap``, too. A module that is taken apart and put together again within its
    model, as by ``equinox.filter_checkpoint`` or in a scan over stacked layers, is
    another object without a path: it is missed.

    Args:
        stated: Is told in which dtypes the modules compute, and where their code is.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    calls = _EquinoxCalls(equinox.Module, stated or Stated())
    with exclusively("the taps on equinox modules"), calls.switched_on():
        yield calls.missed


class _EquinoxCalls(ClassCalls):
    def __init__(self, base: type, stated: Stated):
        super().__init__(base, stated)
        self._paths: dict[int, str] = {}

    def is_module(self, class_: type) -> bool:
        """Not what equinox makes of functions: those it has jitted, or bound."""
        package = class_.__module__
        return package.startswith("equinox.nn.") or not package.startswith("equinox.")

    @contextlib.contextmanager
    def with_paths(self, model: equinox.Module) -> Iterator[None]:
        modules = list(_modules(model, ()))  # kept, for they are known by identity
        for path, module in modules:
            self.add_class_of(module)
            self._paths.setdefault(id(module), ".".join(path_segments(path)))
        try:
            yield
        finally:
            self._paths.clear()

    def path_of(self, module: equinox.Module) -> str | None:
        return self._paths.get(id(module))


def _modules(
    module: equinox.Module, path: Sequence[Any]
) -> Iterator[tuple[Sequence[Any], equinox.Module]]:
    """The modules of a model with their paths, parents first."""
    yield path, module
    inner, _ = jax.tree_util.tree_flatten_with_path(
        module,
        is_leaf=lambda part: isinstance(part, equinox.Module) and part is not module,
    )
    for below, part in inner:
        if isinstance(part, equinox.Module):
            yield from _modules(part, (*path, *below))
