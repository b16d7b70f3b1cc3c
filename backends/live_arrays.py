"""``ttrace.compare_arrays``: two trees of live arrays, compared where they lie."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding

from ttrace.backends.array_comparison import ArrayComparison, LeafComparison
from ttrace.backends.jax_backend import x64_scope
from ttrace.backends.live_statistics import (
    arithmetic_of,
    difference_statistics,
    has_float64,
    is_traced,
    shard_statistics,
)
from ttrace.backends.placement import (
    as_jax_array,
    axes_by_dim,
    constrain,
    key_data,
    place,
    require_dtype,
    shard_map,
    shared_sharding,
)
from ttrace.backends.screen_kernels import REASSOCIATE
from ttrace.errors import UsageError

Tree = Any
"""A pytree of arrays of jax, torch or numpy."""


def compare_arrays(
    reference: Tree, candidate: Tree, *, tolerance: Tree
) -> ArrayComparison:
    """Compares two trees of arrays, leaf by leaf, on the devices that hold them.

    Where both sides of a leaf have one sharding, every device reduces its own shard,
    and only scalars travel. Where they differ, one side is resharded to what they have
    in common; no device ever holds a whole array that was sharded. Leaves of the same
    shape, dtypes and shardings share one jitted function, and all are started before
    one is awaited.

    Also inside of a jitted function, where it is part of that: its result then holds
    scalars of jax, and the function may return it, or act on ``diverged``.

    Args:
        reference: The trusted arrays: a pytree of jax, numpy or torch arrays (the
            latter are shared through DLPack, not copied), or one array.
        candidate: The arrays under test: same paths and shapes; dtypes and shardings
            may differ. A numpy or single-device array goes where the other one is.
        tolerance: Largest ``rel_err`` that is no divergence: a number, or a tree of
            numbers that is a prefix of the reference's. 0 asks for equality.

    Returns:
        One comparison per leaf, in the reference's order.

    Raises:
        UsageError: The trees differ, or are empty; a shape differs; a tolerance is
            none; arrays cannot be brought to the same devices.
        DtypeError: A leaf has a dtype that ttrace does not compare; of random keys the
            numbers are compared.
    """
    paths, sides = _matched_leaves(reference, candidate)
    limits = _tolerances(tolerance, reference, paths)
    if any(is_traced(x) for x in jax.tree.leaves((reference, candidate))):
        pairs = [_traced_pair(*pair) for pair in zip(paths, *sides, strict=True)]
        stats = [_statistics(pair.reference, pair.candidate) for pair in pairs]
        return _comparison(pairs, stats, limits)
    with x64_scope(True), jax.debug_nans(False):
        pairs = [_placed_pair(*pair) for pair in zip(paths, *sides, strict=True)]
        return _comparison(pairs, _run_pairs(pairs), limits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pair:
    """Two arrays of jax, or tracers, of one shape.

    Attributes:
        path: Of the leaf, for people.
        reference: The trusted side.
        candidate: The side under test.
    """

    path: str
    reference: Any
    candidate: Any


def _matched_leaves(
    reference: Tree, candidate: Tree
) -> tuple[list[str], tuple[list[Any], list[Any]]]:
    """Readable paths, and the leaves of both sides in the order of the reference."""
    here, there = (dict(_with_paths(tree)) for tree in (reference, candidate))
    if not here and not there:
        raise UsageError(
            "there are no arrays to compare: both trees are empty",
            remedy="give two pytrees with at least one array",
        )
    for left, right, name, other in (
        (here, there, "candidate", "reference"),
        (there, here, "reference", "candidate"),
    ):
        missing = [path for path in left if path not in right]
        if missing:
            raise UsageError(
                "the trees do not have the same leaves",
                where=_readable(missing[0]),
                expected=f"an array in both; {_leaves(len(left))} in the {other}",
                got=f"none in the {name}, which has {_leaves(len(right))} and lacks "
                f"{len(missing)} of these",
                remedy="give trees of the same structure; select what is to be "
                "compared from both",
            )
    return [_readable(p) for p in here], (
        list(here.values()),
        [there[path] for path in here],
    )


def _leaves(number: int) -> str:
    return f"{number} {'leaf' if number == 1 else 'leaves'}"


def _with_paths(tree: Tree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _readable(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")


def _tolerances(tolerance: Tree, reference: Tree, paths: list[str]) -> list[Any]:
    """The tolerance of each leaf of the reference."""
    try:
        limits = jax.tree.leaves(
            jax.tree.map(
                lambda limit, part: jax.tree.map(lambda _: limit, part),
                tolerance,
                reference,
            )
        )
    except (ValueError, TypeError) as error:
        raise UsageError(
            "the tree of tolerances does not fit the reference",
            expected="a number, or a tree that the reference's begins with",
            got=str(error).splitlines()[0],
            remedy="give a number for every leaf, or for a part of the tree",
        ) from None
    for limit, path in zip(limits, paths, strict=True):
        if is_traced(limit):
            continue
        if isinstance(limit, str | bool) or not _is_tolerance(limit):
            raise UsageError(
                "a tolerance is not a number that rel_err can exceed",
                where=path or "the array",
                expected="a finite number of 0 or more",
                got=repr(limit),
                remedy="give the largest relative error that rounding explains",
            )
    return limits


def _is_tolerance(limit: Any) -> bool:
    try:
        return 0 <= float(limit) < math.inf
    except (TypeError, ValueError):
        return False


def _traced_pair(path: str, reference: Any, candidate: Any) -> _Pair:
    reference, candidate = (
        side if is_traced(side) else jnp.asarray(side)
        for side in map(key_data, (reference, candidate))
    )
    _check_shapes(path, reference, candidate)
    reference, candidate = constrain(reference, candidate)
    return _Pair(path=path, reference=reference, candidate=candidate)


def _placed_pair(path: str, reference: Any, candidate: Any) -> _Pair:
    reference = as_jax_array(reference, path, "reference")
    candidate = as_jax_array(candidate, path, "candidate")
    _check_shapes(path, reference, candidate)
    reference, candidate = place(reference, candidate, path)
    return _Pair(path=path, reference=reference, candidate=candidate)


def _check_shapes(path: str, reference: Any, candidate: Any) -> None:
    for name, side in (("reference", reference), ("candidate", candidate)):
        require_dtype(side, path, name)
    if reference.shape != candidate.shape:
        raise UsageError(
            "two arrays do not have the same shape",
            where=path or "the array",
            expected=f"{list(reference.shape)}, as the reference",
            got=f"{list(candidate.shape)}",
            remedy="reshape or transpose the candidate as its layout asks for",
        )


def _run_pairs(pairs: list[_Pair]) -> list[dict[str, Any]]:
    """Statistics of each pair as Python numbers; all are started before one is awaited.

    Not one program for the whole tree: layers repeat, and what has the same shape,
    dtypes and shardings is compiled once, however many leaves of it there are.
    """
    started = [
        pair_kernel(
            shared_sharding(pair.reference, pair.candidate),
            may_reassociate=not any(
                jnp.issubdtype(side.dtype, jnp.integer)
                for side in (pair.reference, pair.candidate)
            ),
        )(pair.reference, pair.candidate)
        for pair in pairs
    ]
    return [
        {name: value.item() for name, value in stats.items()}
        for stats in jax.device_get(started)
    ]


@functools.lru_cache(maxsize=256)
def pair_kernel(target: Sharding, *, may_reassociate: bool) -> Any:
    """The jitted comparison of two arrays.

    Every device reduces its own shard in one loop; where the sharding is of no mesh,
    that is left to the compiler.

    Args:
        target: The sharding to which both are brought.
        may_reassociate: Whether sums may be reordered, which vectorizes them on CPUs;
            not where integers are split into parts.
    """

    def compare_pair(reference: Any, candidate: Any) -> dict[str, Any]:
        if isinstance(target, SingleDeviceSharding):
            return _statistics(reference, candidate, ())
        reference, candidate = (
            jax.lax.with_sharding_constraint(side, target)
            for side in (reference, candidate)
        )
        if not isinstance(target, NamedSharding):
            return _statistics(reference, candidate)
        axes = tuple(axis for dim in axes_by_dim(target.spec) for axis in dim)
        return shard_map(functools.partial(_statistics, axes=axes), target)(
            reference, candidate
        )

    on_cpu = {device.platform for device in target.device_set} == {"cpu"}
    options = REASSOCIATE if on_cpu and may_reassociate else None
    return jax.jit(compare_pair, compiler_options=options)


def _statistics(
    reference: Any, candidate: Any, axes: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Statistics of two arrays; with ``axes``: of what one device holds of them."""
    wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    arithmetic = arithmetic_of(
        (reference.dtype, candidate.dtype),
        has_float64=wide and has_float64(jax.default_backend()),
    )
    if axes is None:
        return difference_statistics(reference, candidate, arithmetic)
    return shard_statistics(reference, candidate, arithmetic, axes)


def _comparison(
    pairs: list[_Pair], stats: list[dict[str, Any]], limits: list[Any]
) -> ArrayComparison:
    return ArrayComparison(
        leaves=tuple(
            _judge(pair, of_pair, limit)
            for pair, of_pair, limit in zip(pairs, stats, limits, strict=True)
        )
    )


def _judge(pair: _Pair, stats: dict[str, Any], limit: Any) -> LeafComparison:
    difference, norm = stats["difference_norm"], stats["reference_norm"]
    unequal = stats["num_unequal"] > 0
    nonfinite = (
        stats["num_nonfinite_reference"] + stats["num_nonfinite_candidate"]
    ) > 0
    if is_traced(difference):
        rel_err = jnp.where(
            difference == 0, 0.0, difference / jnp.where(norm > 0, norm, 1)
        )
        rel_err = jnp.where((difference > 0) & (norm == 0), jnp.inf, rel_err)
        limit = jnp.asarray(limit, rel_err.dtype)
        diverged = (rel_err > limit) | ((limit == 0) & unequal) | nonfinite
    else:
        limit = float(limit)
        rel_err = difference / norm if norm else (math.inf if difference else 0.0)
        diverged = bool(rel_err > limit or (limit == 0 and unequal) or nonfinite)
    return LeafComparison(
        path=pair.path,
        shape=tuple(pair.reference.shape),
        reference_dtype=pair.reference.dtype.name,
        candidate_dtype=pair.candidate.dtype.name,
        tolerance=limit,
        rel_err=rel_err,
        diverged=diverged,
        **stats,
    )
