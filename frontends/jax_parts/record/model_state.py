"""What a model keeps between steps, in plain JAX: given to the step, and returned.

Such as the moving averages of a BatchNorm of haiku: the differentiated function returns
them beside the loss. What modules of flax keep is recorded as their output.
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.harvest.parameter_flow import Mapped
from ttrace.frontends.jax_parts.record.given_batch import (
    DELETED,
    GIVEN,
    depth_of_arguments,
    part_of_devices,
)
from ttrace.frontends.jax_parts.record.returned import Path
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass

RETURNED = sys.maxsize
"""``Capture.order`` of what comes after all that the step computes."""


def model_state(
    given: Collection[Path],
    state: Collection[Path],
    computed: Collection[Path],
    carried: Collection[Path],
) -> set[Path]:
    """Which arrays, of those that a differentiated function computes anew, are state.

    One at the place of a batch may be made of it, as an autoencoder makes its input
    again. It is no batch where it lies in one argument with state, where it was a
    result of the step before, or where its argument is a container all of which comes
    back so.

    Args:
        given: The ways to all arrays that the step was given.
        state: Those that are known to be its state.
        computed: Those at whose place it returns what the function computes.
        carried: Those that the step before has returned.
    """
    depth = depth_of_arguments(given)
    of_state = {path[:depth] for path in (*state, *carried)}
    whole = {path[:depth] for path in computed if len(path) > depth}
    whole -= {
        path[:depth] for path in given if path not in computed and path not in state
    }
    return {path for path in computed if path[:depth] in of_state | whole}


def beside_state(
    given: Collection[Path], of_model: Collection[Path], idle: Collection[Path]
) -> set[Path]:
    """Which arrays that nothing is computed with, and that come back, are state.

    Such as the old average of a moving average, which is only computed anew: where a
    step returns all of it as it was, nothing else tells that it is kept. It is state
    where all that lies beside it in its container is, or is as idle.

    Args:
        given: The ways to all arrays that the step was given.
        of_model: Those to what the model keeps.
        idle: Those to arrays that no differentiated function is given, and that the
            step returns as they were.
    """
    kept = {path[:-1] for path in of_model}
    kept -= {path[:-1] for path in given if path not in of_model and path not in idle}
    return {path for path in idle if len(path) > 1 and path[:-1] in kept}


def state_captures(
    before: Mapping[Path, Any],
    after: Mapping[Path, Any],
    names: Mapping[str, str],
    mapped: Mapping[Path, Mapped],
) -> list[Capture]:
    """What the model keeps, as the step was given it and as it returns it.

    Args:
        before: Arrays by the way to each.
        after: What the step made of each.
        names: Of the arguments, from ``given_batch.argument_names``.
        mapped: How a ``jax.pmap`` gave some of them to devices.
    """
    return [
        *_captures(Kind.BUFFER, before, names, mapped, GIVEN),
        *_captures(Kind.UPDATED_BUFFER, after, names, mapped, RETURNED),
    ]


def _captures(
    kind: Kind,
    arrays: Mapping[Path, Any],
    names: Mapping[str, str],
    mapped: Mapping[Path, Mapped],
    order: int,
) -> Iterable[Capture]:
    for path, array in arrays.items():
        is_gone = array.is_deleted()
        yield Capture(
            site=value_site(ROOT_MODULE, kind, ".".join((names[path[0]], *path[1:]))),
            kind=kind,
            pass_=Pass.FORWARD,
            call=0,
            order=order,
            value=None if is_gone else _part(array, mapped.get(path)),
            skip=DELETED if is_gone else None,
        )


def _part(array: Any, mapped: Mapped | None) -> Part:
    if mapped is None:
        return Part(array=array, index=())
    return part_of_devices(array, mapped)
