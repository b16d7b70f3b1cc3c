"""Brings two arrays to one set of devices, and to shardings that fit each other."""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from ttrace.errors import DtypeError, UsageError
from ttrace.ir.dtypes import DTYPES

Dims = tuple[tuple[str, ...], ...]
"""For each dim of an array, the axes of the mesh that it is sharded over."""


def as_jax_array(value: Any, path: str, side: str) -> Any:
    """An array of jax as it is, one of torch by sharing its memory, others by numpy.

    Arrays of numpy stay what they are until it is known where they are to go.

    Raises:
        UsageError: The value is no array that can be taken.
        DtypeError: ttrace does not compare its dtype.
    """
    value = key_data(value)
    if isinstance(value, jax.Array | np.ndarray):
        require_dtype(value, path, side)
        return value
    if type(value).__module__.partition(".")[0] == "torch":
        return _from_torch(value, path, side)
    array = np.asarray(value)
    require_dtype(array, path, side)
    return array


def key_data(value: Any) -> Any:
    """The numbers of an array of random keys of jax; anything else as it is."""
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )
    return jax.random.key_data(value) if is_key else value


def require_dtype(array: Any, path: str, side: str) -> None:
    """Refuses an array whose values are no numbers that are compared.

    Raises:
        DtypeError: It is such an array.
    """
    if array.dtype.name not in DTYPES:
        raise DtypeError(
            "arrays of this dtype are not compared",
            where=f"{path or 'the array'} of the {side}",
            expected=f"one of {', '.join(DTYPES)}",
            got=array.dtype.name,
            remedy="cast it, or leave it out of both trees",
        )


def _from_torch(tensor: Any, path: str, side: str) -> Any:
    dense = tensor.detach()
    try:
        return jax.dlpack.from_dlpack(dense.contiguous())
    except Exception as error:  # of torch, of jax, of XLA: each has its own
        raise UsageError(
            "jax cannot share the memory of a torch tensor",
            where=f"{path or 'the array'} of the {side}",
            expected="a dense tensor on a device that this jax sees: "
            f"{', '.join(sorted({d.platform for d in jax.devices()}))}",
            got=f"{tensor.dtype} on {tensor.device}: {str(error).splitlines()[0]}",
            remedy="bring it to one of these devices, for example with .cpu()",
        ) from error


def place(reference: Any, candidate: Any, path: str) -> tuple[Any, Any]:
    """Puts both sides on the same devices, in the same order.

    What is sharded over more devices stays; what is on one, or in numpy, goes to it,
    each device taking its own part.

    Raises:
        UsageError: That cannot be done: processes do not see each other's devices.
    """
    if isinstance(reference, np.ndarray) and isinstance(candidate, np.ndarray):
        return jax.device_put(reference), jax.device_put(candidate)
    sides = [_with_plain_mesh(side) for side in (reference, candidate)]
    shardings = [
        side.sharding if isinstance(side, jax.Array) else None for side in sides
    ]
    first, second = shardings
    if first is not None and second is not None:
        if _devices(first) == _devices(second):
            return sides[0], sides[1]
        stays = 0 if len(first.device_set) >= len(second.device_set) else 1
    else:
        stays = 0 if second is None else 1
    target, moved = shardings[stays], sides[1 - stays]
    try:
        sides[1 - stays] = jax.device_put(moved, target)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            "two arrays are not on the same devices, and cannot be brought there",
            where=path or "the array",
            expected=f"both on {_described(target)}",
            got=f"{_described(shardings[1 - stays])}: {str(error).splitlines()[0]}",
            remedy="put both on the same devices with jax.device_put",
        ) from error
    return sides[0], sides[1]


def _with_plain_mesh(side: Any) -> Any:
    """The same array without the sharding types of its mesh; nothing is moved."""
    if not isinstance(side, jax.Array) or not isinstance(side.sharding, NamedSharding):
        return side
    mesh: Any = side.sharding.mesh
    plain = Mesh(mesh.devices, mesh.axis_names)
    if plain == mesh:
        return side
    sharding = NamedSharding(
        plain, side.sharding.spec, memory_kind=side.sharding.memory_kind
    )
    return jax.device_put(side, sharding)


def _devices(sharding: Sharding) -> tuple[Any, ...]:
    if isinstance(sharding, NamedSharding):
        mesh: Any = sharding.mesh
        return tuple(mesh.devices.flat)
    return tuple(sharding._device_assignment)


def _described(sharding: Sharding | None) -> str:
    if sharding is None:
        return "the host"
    devices = sorted(sharding.device_set, key=lambda device: device.id)
    return ", ".join(str(device) for device in devices[:8]) + (
        "" if len(devices) <= 8 else f" and {len(devices) - 8} more"
    )


def shared_sharding(reference: Any, candidate: Any) -> Sharding:
    """What both sides are brought to before they are subtracted.

    What is sharded by both wherever that is possible, so that neither side has to be
    gathered: a replica or a coarser part is cut further where it lies.
    """
    left, right = reference.sharding, candidate.sharding
    if left.is_equivalent_to(right, reference.ndim):
        return left
    if (
        isinstance(left, NamedSharding)
        and isinstance(right, NamedSharding)
        and left.mesh == right.mesh
    ):
        dims = common_refinement(
            *(axes_by_dim(s.spec, reference.ndim) for s in (left, right))
        )
        if dims is not None:
            refined = NamedSharding(left.mesh, PartitionSpec(*dims))
            if _divides(refined, reference.shape):
                return refined
    sizes = [math.prod(s.shard_shape(reference.shape)) for s in (left, right)]
    return left if sizes[0] <= sizes[1] else right


def common_refinement(left: Dims, right: Dims) -> Dims | None:
    """What shards each dim as finely as either; None if an axis is wanted twice."""
    dims = []
    for ours, theirs in zip(left, right, strict=True):
        longer, shorter = sorted((ours, theirs), key=len, reverse=True)
        if longer[: len(shorter)] != shorter:
            return None
        dims.append(longer)
    axes = [axis for dim in dims for axis in dim]
    return tuple(dims) if len(axes) == len(set(axes)) else None


def axes_by_dim(spec: PartitionSpec, ndim: int | None = None) -> Dims:
    """The axes that shard each dim; of those that the spec names if not of ``ndim``."""
    entries = list(spec)
    entries += [None] * ((ndim or 0) - len(entries))
    return tuple(
        () if entry is None else entry if isinstance(entry, tuple) else (entry,)
        for entry in entries
    )


def shard_map(function: Any, sharding: NamedSharding) -> Any:
    """Maps a function over the shards of its arguments; its results are replicas."""
    if hasattr(jax, "shard_map"):
        mapped, unchecked = jax.shard_map, "check_vma"
    else:  # before jax 0.7
        module = importlib.import_module("jax.experimental.shard_map")
        mapped, unchecked = module.shard_map, "check_rep"
    options: dict[str, Any] = {"mesh": sharding.mesh, unchecked: False}
    return mapped(
        function, in_specs=sharding.spec, out_specs=PartitionSpec(), **options
    )


def _divides(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True


def constrain(reference: Any, candidate: Any) -> tuple[Any, Any]:
    """Brings traced arrays to one sharding where their types say that they differ.

    Elsewhere the compiler decides, as for every other operation of the function.
    """
    left, right = (jax.typeof(side).sharding for side in (reference, candidate))
    if left == right or AxisType.Explicit not in left.mesh.axis_types:
        return reference, candidate
    return reference, jax.sharding.reshard(candidate, left)
