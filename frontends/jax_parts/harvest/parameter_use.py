"""The arrays that were the parameters of one step, over all of its programs."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ttrace.frontends.jax_parts.harvest.parameter_flow import (
    Mapped,
    Name,
    ProgramParams,
)
from ttrace.ir.trace import PRODUCT_DTYPE

Shape = tuple[int, ...]


class ParameterUse:
    """Fills while the programs of a step run.

    Arrays are known by identity, and kept for as long: an id is not used again. Their
    values are never read.

    Attributes:
        has_optimizer: A main gradient was tapped.
    """

    def __init__(self):
        self.has_optimizer = False
        self._carried: dict[int, Any] = {}
        self._keys: dict[int, Any] = {}
        self._scanned: dict[int, tuple[Any, set[Shape]]] = {}
        self._scanned_forms: dict[tuple[Shape, str], set[Shape]] = {}
        self._mapped: dict[int, tuple[Any, list[Mapped]]] = {}
        self._mapped_forms: dict[tuple[Shape, str], list[Mapped]] = {}
        self._arrays: dict[Name, dict[int, Any]] = {}
        self._made_of: dict[int, tuple[Any, list[Any]]] = {}
        self._forward: dict[int, Any] = {}
        self._computed_with: dict[int, Any] = {}
        self._handed_on: dict[int, tuple[Any, Any, bool]] = {}
        self._read: dict[Name, None] = {}
        self._product_dtypes: collections.Counter[str] = collections.Counter()
        self._kept: dict[int, tuple[Any, Any]] = {}

    def keep(self, args: Sequence[Any], indices: Iterable[int]) -> None:
        """Copies arguments of a program that it is about to take (donation).

        Args:
            args: Its flat arguments.
            indices: Those that may be asked for when they are gone.
        """
        for index in indices:
            array = args[index]
            if isinstance(array, jax.Array) and not array.is_deleted():
                self._kept[id(array)] = (array, jnp.copy(array))

    def kept(self, array: Any) -> Any:
        """The copy of an array that a program took; the array itself where none did."""
        return self._kept.get(id(array), (array, array))[1]

    def add(
        self, program: ProgramParams, args: Sequence[Any], results: Sequence[Any]
    ) -> None:
        """Takes note of one program that ran.

        Args:
            program: What is known of it.
            args: Its flat arguments.
            results: Its flat results.
        """
        self.has_optimizer |= program.has_optimizer
        for name, index in program.arguments.items():
            arrays = self._arrays.setdefault(name, {})
            if index is not None:
                arrays[id(args[index])] = args[index]
        for index in program.keys:
            self._keys[id(args[index])] = args[index]
        for index, shape in program.scanned.items():
            array = args[index]
            self._scanned.setdefault(id(array), (array, set()))[1].add(shape)
            if not isinstance(array, jax.Array):
                form = (tuple(array.shape), str(array.dtype))
                self._scanned_forms.setdefault(form, set()).add(shape)
        for index, mapped in program.mapped.items():
            array = args[index]
            self._mapped.setdefault(id(array), (array, []))[1].append(mapped)
            if not isinstance(array, jax.Array):
                form = (tuple(array.shape), str(array.dtype))
                self._mapped_forms.setdefault(form, []).append(mapped)
        for result, indices in zip(results, program.direct, strict=True):
            alike = [args[i] for i in indices if _is_like(args[i], result)]
            self._carried |= {id(arg): arg for arg in alike}
        self._product_dtypes.update(program.product_dtypes)
        self._read |= dict.fromkeys(program.read)
        self._forward |= {id(results[i]): results[i] for i in program.forward}
        self._computed_with |= {
            id(args[index]): args[index] for index in program.computed_with
        }
        self._handed_on |= {
            id(results[i]): (results[i], args[index], index in program.computed_with)
            for i, index in program.handed_on.items()
        }
        if program.is_differentiated:
            for result, indices in zip(results, program.direct, strict=True):
                self._made_of[id(result)] = (result, [args[i] for i in indices])

    def arrays(self) -> Mapping[Name, Any]:
        """The array that was each parameter; None where it was none, or several."""
        return {
            name: next(iter(arrays.values())) if len(arrays) == 1 else None
            for name, arrays in self._arrays.items()
        }

    def is_state(self, array: Any) -> bool:
        """Whether an array was a parameter, or a result of its form is made of it.

        Of it, and not only of what is differentiated: as new moments are of old ones.
        """
        return id(array) in self._carried or any(
            id(array) in arrays for arrays in self._arrays.values()
        )

    def read(self) -> list[Name]:
        """Differentiated parameters, in the order in which they are first used."""
        return list(self._read)

    def stated(self) -> dict[str, str]:
        """Settings of the run that its programs show.

        The dtype of most of the products that it differentiates: in plain JAX nothing
        else says in which precision it computes.
        """
        most = self._product_dtypes.most_common(1)
        return {PRODUCT_DTYPE: most[0][0]} if most else {}

    def is_forward(self, result: Any) -> bool:
        """Whether a differentiated function computed a result, and no gradient."""
        return id(result) in self._forward

    def is_computed_with(self, array: Any) -> bool:
        """Whether what is differentiated computes with an array."""
        return id(array) in self._computed_with

    def is_still(self, before: Any, after: Any) -> bool:
        """Whether the differentiated function is given an array, and nobody changes it.

        Parameters are none of these.

        Args:
            before: What the step was given.
            after: What it returns in its place.
        """
        return self._is_handed_on(before, after, is_used=True)

    def is_idle(self, before: Any, after: Any) -> bool:
        """Whether no differentiated function is given an array, and nobody changes it.

        Args:
            before: What the step was given.
            after: What it returns in its place.
        """
        return self._is_handed_on(before, after, is_used=False)

    def _is_handed_on(self, before: Any, after: Any, *, is_used: bool) -> bool:
        """Whether an array that is no parameter comes back as it was.

        Args:
            before: What the step was given.
            after: What it returns in its place.
            is_used: Whether what is differentiated computes with it, where it is
                handed on.
        """
        _, source, was_used = self._handed_on.get(id(after), (None, None, is_used))
        return (
            source is before
            and was_used == is_used
            and not any(id(before) in arrays for arrays in self._arrays.values())
        )

    def is_key(self, array: Any) -> bool:
        """Whether an array was a random key, as ``jax.random.PRNGKey`` makes it.

        What is evaluated operation by operation does not tell; the form does.
        """
        return id(array) in self._keys or (
            array.shape == (2,) and array.dtype == jnp.uint32
        )

    def scanned_shape(self, array: Any) -> Shape | None:
        """The shape in which a scan took an array apart; None where none did.

        It may be another one than its own: then the array was reshaped before. JAX
        makes copies of numpy arrays: they are known by shape and dtype.
        """
        if isinstance(array, jax.Array):
            _, shapes = self._scanned.get(id(array), (None, set()))
        else:
            dtype = str(jax.dtypes.canonicalize_dtype(array.dtype))
            shapes = self._scanned_forms.get((tuple(array.shape), dtype), set())
        return next(iter(shapes)) if len(shapes) == 1 else None

    def mapped(self, array: Any) -> Mapped | None:
        """How the devices of a ``jax.pmap`` divide an array; None where none does.

        Numpy arrays are known by shape and dtype, as in ``scanned_shape``.
        """
        if isinstance(array, jax.Array):
            _, found = self._mapped.get(id(array), (None, []))
        else:
            dtype = str(jax.dtypes.canonicalize_dtype(array.dtype))
            found = self._mapped_forms.get((tuple(array.shape), dtype), [])
        return found[0] if len(set(found)) == 1 else None

    def may_update(self, param: Any, result: Any) -> bool:
        """Whether an array can be what the step made of a parameter.

        A gradient of it is not: a program made that of the parameter only through what
        is differentiated. Of what was computed outside of such programs nothing is
        known; it may be.
        """
        if result is param or id(result) not in self._made_of:
            return True
        _, sources = self._made_of[id(result)]
        return any(source is param for source in sources)


def _is_like(first: Any, second: Any) -> bool:
    """Whether two values are arrays of one shape and dtype."""
    return (
        isinstance(first, jax.Array)
        and isinstance(second, jax.Array)
        and first.dtype == second.dtype
        and first.shape == second.shape
    )
