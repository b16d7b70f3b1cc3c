"""The batch of a step in plain JAX: what it is given and does not carry on.

Where modules are traced, the inputs of the outermost one are the batch. Plain JAX has
none: there, the arrays that the step is given beside its state are recorded as the
inputs of the model, by the names of its arguments.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.harvest.parameter_flow import Mapped
from ttrace.frontends.jax_parts.record.returned import Path
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass

CUT_INSIDE = (
    "how the step cuts this argument into {number} micro-batches is not known: give it "
    "with a dim of {number} in front, scan over that, or name what the model is given: "
    'x = ttrace.tap("@root/input/x", x)'
)
DELETED = "the step was given this array to keep (donate_argnums): it is gone"

GIVEN = -1
"""``Capture.order`` of what comes before all that the step computes."""


def argument_names(
    step: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """The names that a step has for its arguments.

    Args:
        step: A function, jitted or not.
        args: Positional arguments of a call.
        kwargs: Keyword arguments of it.

    Returns:
        By position as text, or by keyword. Where the function does not tell, and for
        ``*args``, a position stands for itself.
    """
    names = {str(index): str(index) for index in range(len(args))}
    names |= {name: name for name in kwargs}
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):  # an object that says nothing of its call
        return names
    for index, parameter in enumerate(parameters):
        is_named = parameter.kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        if not is_named:
            break
        if index < len(args):
            names[str(index)] = parameter.name
    return names


def batch_of(
    given: Mapping[Path, Any], state: Iterable[Path], keys: Collection[Path]
) -> dict[Path, Any]:
    """The arrays that are no part of a step's state.

    What lies in one argument with a part of the state belongs to it: a frozen layer, a
    table. Where all that the step is given is one argument, that is looked into.

    Args:
        given: All arrays that the step was given, by the way to each.
        state: The ways to those that are known to be its state.
        keys: The ways to random keys.
    """
    depth = depth_of_arguments(given)
    roots = {path[:depth] for path in state}
    return {
        path: array
        for path, array in given.items()
        if path[:depth] not in roots and path not in keys
    }


def depth_of_arguments(given: Collection[Path]) -> int:
    """How many keys lead to an argument: one, or what a single one is looked into."""
    depth = 1
    while len({path[:depth] for path in given}) == 1 and any(
        len(path) > depth for path in given
    ):
        depth += 1
    return depth


def has_model_input(captures: Iterable[Capture]) -> bool:
    """Whether something in the step says what the model is given."""
    return any(
        capture.site.module == ROOT_MODULE and capture.kind is Kind.INPUT
        for capture in captures
    )


def batch_captures(
    batch: Mapping[Path, Any],
    names: Mapping[str, str],
    scanned: Mapping[Path, tuple[int, ...]],
    mapped: Mapping[Path, Mapped],
    *,
    microbatches: int,
) -> list[Capture]:
    """The inputs of the model.

    Args:
        batch: Arrays by the way to each.
        names: From ``argument_names``.
        scanned: The shapes in which a scan took some of them apart; of what is mapped,
            one device's part of it.
        mapped: How a ``jax.pmap`` gave some of them to devices: these are recorded
            device by device.
        microbatches: Of the step: an array is as many inputs where a scan takes it
            apart into as many, or where its first dim has that length.
    """
    found = []
    for path, array in batch.items():
        slot = ".".join((names[path[0]], *path[1:]))
        found += [
            Capture(
                site=value_site(ROOT_MODULE, Kind.INPUT, slot),
                kind=Kind.INPUT,
                pass_=Pass.FORWARD,
                call=call,
                order=GIVEN,
                value=None if isinstance(part, str) else part,
                skip=part if isinstance(part, str) else None,
            )
            for call, part in enumerate(
                _parts(array, scanned.get(path), mapped.get(path), microbatches)
            )
        ]
    return found


def part_of_devices(array: jax.Array, mapped: Mapped) -> Part:
    """An array that a ``jax.pmap`` takes apart: one value for each place on its axis.

    Args:
        array: The array, with the dim that counts the devices.
        mapped: How they divide it.
    """
    sharding = NamedSharding(mapped.mesh, PartitionSpec(mapped.axis))
    # [places, *what a device has]
    array = jax.device_put(jnp.moveaxis(array, mapped.dim, 0), sharding)
    return Part(array=array, index=(slice(None),), axes=(mapped.axis,))


def _parts(
    array: Any,
    scanned: tuple[int, ...] | None,
    mapped: Mapped | None,
    microbatches: int,
) -> list[Part | str]:
    """The array, or its part in each micro-batch, or why that is not known."""
    if isinstance(array, np.ndarray):
        array = jnp.asarray(array)  # as the step has seen it
    assert isinstance(array, jax.Array)
    if array.is_deleted():
        return [DELETED]
    axes, before = (), ()
    if mapped is not None:
        part = part_of_devices(array, mapped)
        array, axes, before = part.array, part.axes, part.index
    local = array.shape[len(axes) :]
    if microbatches == 1 or not local:
        return [Part(array=array, index=before, axes=axes)]
    if scanned is not None and scanned[0] == microbatches:
        array = jnp.reshape(array, (*array.shape[: len(axes)], *scanned))
    elif local[0] % microbatches:
        return [Part(array=array, index=before, axes=axes)]
    elif local[0] != microbatches:
        return [CUT_INSIDE.format(number=microbatches)]
    return [
        Part(array=array, index=(*before, index), axes=axes)
        for index in range(microbatches)
    ]
