"""What a step is given and returns: parameters that it updates, state, and a batch."""

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.harvest.parameter_flow import Name
from ttrace.frontends.jax_parts.harvest.parameter_use import ParameterUse
from ttrace.frontends.jax_parts.record.given_batch import (
    batch_captures,
    batch_of,
)
from ttrace.frontends.jax_parts.record.kept_by_modules import (
    StepArrays,
    kept_by_modules,
)
from ttrace.frontends.jax_parts.record.model_state import (
    beside_state,
    model_state,
    state_captures,
)
from ttrace.frontends.jax_parts.record.returned import Leaf, Path, returned_leaves
from ttrace.frontends.jax_parts.taps.param_taps import param_site
from ttrace.frontends.jax_parts.taps.tap import is_tappable
from ttrace.frontends.jax_parts.taps.tree_names import path_segments
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass

NO_OPTIMIZER = (
    "no update of optax was seen in the step; what one written by hand is given and "
    "keeps is recorded where ttrace.tap names it"
)
NOT_RETURNED = (
    "what the step makes of this parameter is not known: give it to the step as a "
    "jax.Array in an argument, and return it at the same place"
)


class Returned:
    """The arrays that a step has returned, as long as somebody has them.

    Args:
        result: What it returned.
    """

    def __init__(self, result: Any):
        self._arrays = {
            id(array): weakref.ref(array) for array in _arrays_of(result).values()
        }

    def __contains__(self, array: Any) -> bool:
        """Whether it is one of them."""
        known = self._arrays.get(id(array))
        return known is not None and known() is array


class GivenArrays:
    """The arrays that a step is given, by the way to each; to make before it runs.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        before: What the step before has returned; None for the first one.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        before: "Returned | None" = None,
    ):
        self._trees = {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
        self._given = _arrays_of(self._trees)
        # Donated arrays are deleted meanwhile: what is asked of them is asked now.
        self._leaves = list(map(_leaf, self._given, self._given.values()))
        self._indices: dict[int, int] = {}
        for index, array in enumerate(self._given.values()):
            self._indices.setdefault(id(array), index)
        self._carried = {
            path
            for path, array in self._given.items()
            if before is not None and array in before
        }

    def batch_and_state(
        self,
        use: ParameterUse,
        result: Any,
        *,
        names: Mapping[str, str],
        microbatches: int,
    ) -> list[Capture]:
        """What is no state of the step, as inputs of its model, and what that keeps.

        State is what was a parameter, what is carried on in the result or in a changed
        argument, and what lies in an argument with any of these. Random keys are no
        batch either. What the model keeps is the part of it that the differentiated
        function computes, or is given and the step returns as it was.

        Args:
            use: As for ``updated``.
            result: What the step returned.
            names: Of the arguments, from ``given_batch.argument_names``.
            microbatches: Of the step.
        """
        everything = _arrays_of(self._trees, (jax.Array, np.ndarray)) | self._given
        # JAX makes copies of numpy arrays: by them it does not know what it updates.
        copied = {p: a for p, a in everything.items() if isinstance(a, np.ndarray)}
        given = [*self._given.items(), *copied.items()]
        leaves = [*self._leaves, *map(_leaf, copied, copied.values())]
        state = {path for path, array in self._given.items() if use.is_state(array)}
        returned = _arrays_of(result)
        results = list(returned.values())
        places = returned_leaves(
            range(len(given)), leaves, list(map(_leaf, returned, results))
        )
        computed: dict[Path, Any] = {}
        still: dict[Path, Any] = {}
        idle: dict[Path, Any] = {}
        for index, place in places.items():
            path, before = given[index]
            if use.is_still(before, results[place]) and not use.is_key(before):
                still[path] = results[place]
            elif use.is_idle(before, results[place]) and not use.is_key(before):
                idle[path] = results[place]
            if path not in state and use.is_forward(results[place]):
                computed[path] = results[place]
            elif path in copied or use.may_update(before, results[place]):
                state.add(path)
        for path, after in _arrays_of(self._trees).items():
            if after is not self._given.get(path, after):
                state.add(path)
        keys = {path for path, array in everything.items() if use.is_key(array)}
        of_model = model_state(everything, state, computed, self._carried) | set(still)
        beside = beside_state(everything, of_model, idle)
        still |= {path: idle[path] for path in beside}
        of_model |= beside
        batch = batch_of(everything, state | of_model, keys)
        shapes = {path: use.scanned_shape(array) for path, array in batch.items()}
        scanned = {path: shape for path, shape in shapes.items() if shape is not None}
        ways = {path: use.mapped(array) for path, array in everything.items()}
        mapped = {path: how for path, how in ways.items() if how is not None}
        inputs = batch_captures(
            {path: use.kept(array) for path, array in batch.items()},
            names,
            scanned,
            mapped,
            microbatches=microbatches,
        )
        return inputs + state_captures(
            # What nobody changes, a donated array leaves in the result alone.
            {p: still.get(p, use.kept(everything[p])) for p in sorted(of_model)},
            {p: still.get(p, computed.get(p)) for p in sorted(of_model)},
            names,
            mapped,
        )

    def kept_by_modules(
        self, use: ParameterUse, result: Any, captures: Sequence[Capture]
    ) -> list[Capture]:
        """What modules keep (``batch_stats``), as the step is given and returns it.

        Args:
            use: As for ``updated``.
            result: What the step returned.
            captures: Of the step.
        """
        returned = _arrays_of(result)
        arrays = StepArrays(
            given=self._given,
            leaves=self._leaves,
            changed=_arrays_of(self._trees),
            returned=returned,
            returned_leaves=list(map(_leaf, returned, returned.values())),
        )
        return kept_by_modules(captures, arrays, use)

    def updated(self, use: ParameterUse, result: Any) -> dict[Name, jax.Array | None]:
        """What has become of each parameter.

        Args:
            use: The arrays that were the parameters.
            result: What the step returned.

        Returns:
            By name, the array that the step returned for it, or that lies in its place
            in an argument that the step changed; None where neither is known.
        """
        indices = {
            name: self._indices[id(array)]
            for name, array in use.arrays().items()
            if id(array) in self._indices
        }
        returned = _arrays_of(result)
        places = returned_leaves(
            indices.values(),
            self._leaves,
            list(map(_leaf, returned, returned.values())),
        )
        changed = _arrays_of(self._trees)
        given, results = list(self._given.items()), list(returned.values())
        found: dict[Name, jax.Array | None] = dict.fromkeys(use.arrays())
        for name, index in indices.items():
            path, before = given[index]
            after = changed.get(path)
            candidates = [results[places[index]]] if index in places else []
            if after is not None and after is not before:
                candidates.append(after)
            for candidate in candidates:
                if use.may_update(before, candidate):
                    found[name] = candidate
                    break
        return found


def with_returned(
    captures: Sequence[Capture],
    updated: Mapping[Name, jax.Array | None],
    *,
    has_optimizer: bool,
) -> list[Capture]:
    """Captures in which updated parameters are what the step returned.

    Args:
        captures: Of the step.
        updated: What has become of each parameter; where it is None, what an optimizer
            made of it stays, and without one it is skipped.
        has_optimizer: Whether one was seen; otherwise what it would have been given and
            kept is skipped.
    """
    result = list(captures)
    found: dict[tuple[Kind, Name], list[int]] = {}
    for index, capture in enumerate(captures):
        if capture.pass_ is not Pass.FORWARD:
            continue
        name = (capture.site.module, capture.site.slot)
        found.setdefault((capture.kind, name), []).append(index)
    order = max((capture.order for capture in captures), default=-1) + 1
    dropped: set[int] = set()
    if not has_optimizer and updated:
        lacking = _without_optimizer(updated, order)
        result += [
            each
            for each in lacking
            if (each.kind, (each.site.module, each.site.slot)) not in found
        ]
    for name, array in updated.items():
        tapped = found.get((Kind.UPDATED_PARAM, name), [])
        if array is None:
            if not tapped:
                result.append(_skipped(Kind.UPDATED_PARAM, name, order, NOT_RETURNED))
            continue
        value = Part(array=array, index=())
        if tapped:
            last = captures[tapped[-1]]
            result[tapped[-1]] = dataclasses.replace(
                last, value=value, taken=None, skip=None, iterations=()
            )
        else:
            capture = _capture(Kind.UPDATED_PARAM, name, order)
            result.append(dataclasses.replace(capture, value=value))
        params = found.get((Kind.PARAM, name), [])
        own = next((i for i in params if _is_like(captures[i], array)), None)
        if own is not None:
            dropped |= {i for i in params if i != own}
            result[own] = dataclasses.replace(captures[own], call=0)
    return [capture for i, capture in enumerate(result) if i not in dropped]


def _without_optimizer(
    updated: Mapping[Name, jax.Array | None], order: int
) -> list[Capture]:
    # Its state has no names without one: an entry stands for all of it.
    names = [
        *((Kind.MAIN_GRAD, name) for name in updated),
        (Kind.LEARNING_RATE, (ROOT_MODULE, "group0")),
        (Kind.OPTIMIZER_STATE, (ROOT_MODULE, "state")),
    ]
    return [_skipped(kind, name, order, NO_OPTIMIZER) for kind, name in names]


def _skipped(kind: Kind, name: Name, order: int, reason: str) -> Capture:
    return dataclasses.replace(_capture(kind, name, order), skip=reason)


def _capture(kind: Kind, name: Name, order: int) -> Capture:
    module, slot = name
    return Capture(
        site=param_site(kind, module, slot or "_"),
        kind=kind,
        pass_=Pass.FORWARD,
        call=0,
        order=order,
    )


def _is_like(capture: Capture, array: jax.Array) -> bool:
    """Whether a value has the shape and dtype of an array: it is no cast copy."""
    if capture.value is None or capture.value.axes:
        return False
    value, index = capture.value.array, capture.value.index
    return value.shape[len(index) :] == array.shape and value.dtype == array.dtype


def _arrays_of(
    tree: Any, kinds: type | tuple[type, ...] = jax.Array
) -> dict[Path, Any]:
    """The arrays in a tree by the way to each; empty where JAX cannot walk it."""
    try:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    except (TypeError, ValueError):  # keys that have no order, for example
        return {}
    return {
        path_segments(path): leaf
        for path, leaf in leaves
        if isinstance(leaf, kinds)
        and (is_tappable(leaf) or isinstance(leaf, np.ndarray))
    }


def _leaf(path: Path, array: jax.Array | np.ndarray) -> Leaf:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    return Leaf(path=path, shape=tuple(array.shape), dtype=dtype.name)
