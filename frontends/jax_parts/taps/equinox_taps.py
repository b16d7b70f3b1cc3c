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

_SEVERAL = (
    "it is taken apart and put together again, as by equinox.combine or "
    "equinox.filter_checkpoint, and several modules of the model are made as it is, so "
    "that it has no path: name what it returns with ttrace.tap"
)


@contextlib.contextmanager
def equinox_taps(stated: Stated | None = None) -> Iterator[list[Missed]]:
    """Taps what equinox modules are given and return, under their paths in the model.

    The model is the module that is called in no other one's call; a module's path is
    that of its fields and positions (``blocks.0.attn``), the first one where it is
    shared. Methods other than ``__call__`` are tapped under their own names where they
    are called from another module (``decoder/output/sample.0``). Both are under
    ``jax.vmap``, too. A module that is taken apart and put together again within its
    model, as in a scan over stacked layers, is another object: it is known by what it
    is made of, where one module of the model alone is made so, and else it is missed.

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
        self._held: list[tuple[str, equinox.Module]] = []
        self._others: list[equinox.Module] = []

    def is_module(self, class_: type) -> bool:
        """Not what equinox makes of functions: those it has jitted, or bound."""
        package = class_.__module__
        return package.startswith("equinox.nn.") or not package.startswith("equinox.")

    @contextlib.contextmanager
    def with_paths(self, model: equinox.Module) -> Iterator[None]:
        # Kept, for they are known by identity.
        self._held = [
            (".".join(path_segments(path)), module)
            for path, module in _modules(model, ())
        ]
        for path, module in self._held:
            self.add_class_of(module)
            self._paths.setdefault(id(module), path)
        try:
            yield
        finally:
            self._paths.clear()
            self._held.clear()
            self._others.clear()

    def path_of(self, module: equinox.Module) -> str | None:
        path = self._paths.get(id(module))
        return self._path_of_rebuilt(module) if path is None else path

    def why_no_path(self, module: equinox.Module) -> str:
        return _SEVERAL if self._alike(module) else super().why_no_path(module)

    def _path_of_rebuilt(self, module: equinox.Module) -> str | None:
        """Of one that is held under another identity; those in it have their place."""
        paths = self._alike(module)
        if len(paths) != 1:
            return None
        (path,) = paths
        for below, part in _modules(module, ()):
            inner = ".".join(filter(None, (path, *path_segments(below))))
            self._paths.setdefault(id(part), inner)
            self._others.append(part)
        return path

    def _alike(self, module: equinox.Module) -> list[str]:
        """The modules of the model that one may be, or a layer of."""
        held = {id(each): (path, each) for path, each in reversed(self._held)}
        return [path for path, each in held.values() if _is_rebuilt(module, each)]


def _is_rebuilt(module: equinox.Module, held: equinox.Module) -> bool:
    """Whether a module may be another one put together again, or one layer of it.

    Then both have the same fields, and its arrays the same dims, or all but the first
    ones. Modules without arrays say too little.
    """
    if type(module) is not type(held):
        return False
    leaves, structure = jax.tree.flatten(module)
    of_held, structure_of_held = jax.tree.flatten(held)
    try:
        if structure != structure_of_held:
            return False
    except ValueError:  # arrays among the fields that are no leaves
        return False
    shapes = [
        (_shape(own), _shape(its)) for own, its in zip(leaves, of_held, strict=True)
    ]
    return any(own is not None for own, _ in shapes) and all(
        own == its
        if own is None or its is None
        else its[max(len(its) - len(own), 0) :] == own
        for own, its in shapes
    )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if equinox.is_array(leaf) else None


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
