"""Functions that are called in this process: copies of arguments, noise, tolerances."""

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ttrace.errors import UnrepeatableError, UsageError
from ttrace.generate import hash_key
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.judge.tolerances.precision import CoarserCompute
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.launch.defaults import NUM_NOISE_RUNS

Tree = Any


def own_copies(tree: Tree) -> Tree:
    """The same tree, with a copy of every array that could be changed in place."""
    return _mapped(_copy, tree)


def detached(tree: Tree) -> Tree:
    """The same tree, with tensors of torch that need no gradient."""
    return _mapped(lambda leaf: leaf.detach() if _is_torch(leaf) else leaf, tree)


def estimated_tolerances(
    reference: Callable[..., Tree],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    expected: Tree,
    found: Tree,
) -> Tree:
    """Measures what noise of one unit in the last place of the arguments does.

    Args:
        reference: The trusted function.
        args: Its arguments; pytrees of arrays.
        kwargs: Likewise, by name.
        expected: What it returned.
        found: What the function under test returned, for its dtypes.

    Returns:
        A tolerance for each leaf, as ``compare_arrays`` takes them.

    Raises:
        UsageError: No argument is a floating-point array.
        UnrepeatableError: The reference returns other values without noise.
    """
    live_arrays = importlib.import_module("ttrace.backends.live_arrays")
    expected, found = detached(expected), detached(found)

    def against(tree: Tree) -> Any:
        return live_arrays.compare_arrays(expected, detached(tree), tolerance=0)

    again = against(reference(*own_copies(args), **own_copies(kwargs)))
    changed = [leaf.name for leaf in again if leaf.num_unequal]
    if changed:
        raise UnrepeatableError(
            "the reference returns other values every time it is called",
            where=changed[0],
            expected="equal values, of two calls with the same arguments",
            got=f"{len(changed)} of {len(again.leaves)} arrays that differ",
            remedy="seed what it draws inside of the function, or give tolerance=",
        )
    runs = []
    for seed in range(1, NUM_NOISE_RUNS + 1):
        noise = _Noise(seed)
        given = noise.stepped((own_copies(args), own_copies(kwargs)))
        if not noise.num_stepped:
            raise UsageError(
                "no tolerance can be measured: no argument is a floating-point array",
                expected="an array that noise can be added to",
                got=f"{len(args) + len(kwargs)} arguments",
                remedy="pass the arrays as arguments, or give tolerance=",
            )
        runs.append(against(reference(*given[0], **given[1])))
    limits = [
        _tolerance(
            number,
            [run.leaves[number] for run in runs],
            (leaf.reference_dtype, leaf.candidate_dtype),
        )
        for number, leaf in enumerate(against(found))
    ]
    jax = importlib.import_module("jax")
    return jax.tree.unflatten(jax.tree.structure(expected), limits)


def _tolerance(number: int, draws: Sequence[Any], dtypes: tuple[str, str]) -> float:
    """What one leaf is tolerated, by the policy of every comparison."""
    norm = float(draws[0].reference_norm)
    finer, coarser = (dtype_named(name).epsilon or 0.0 for name in dtypes)
    tolerance = ToleranceTable().tolerance_for(
        TensorId(step=0, module=ROOT_MODULE, kind=Kind.OUTPUT, slot=str(number)),
        num_elements=math.prod(draws[0].shape),
        reference_norm=norm,
        storage_dtypes=dtypes,
        compute_epsilon=0.0,
        depth=0,
        coarser=CoarserCompute(reference=dtypes[0], candidate=dtypes[1])
        if coarser > finer > 0
        else None,
        noise=NoiseEstimate(
            draws=tuple(float(draw.difference_norm) for draw in draws),
            reference_norm=norm,
        ),
    )
    return min(tolerance.relative_to(norm), sys.float_info.max)


class _Noise:
    """Noise of one seed, another one for each array."""

    def __init__(self, seed: int):
        self._seed = seed
        self.num_stepped = 0

    def stepped(self, tree: Tree) -> Tree:
        """The tree, every floating-point array moved by one unit in the last place."""
        return _mapped(self._step, tree)

    def _step(self, leaf: Any) -> Any:
        if _is_torch(leaf):
            if not leaf.is_floating_point():
                return leaf
            noise = importlib.import_module("ttrace.frontends.torch_parts.noise")
            point = noise.NoisePoint(
                id=TensorId(
                    step=0,
                    module=ROOT_MODULE,
                    kind=Kind.INPUT,
                    slot=str(self.num_stepped),
                ),
                noise_seed=self._seed,
                layout=None,
            )
            self.num_stepped += 1
            return point.stepped(leaf).requires_grad_(leaf.requires_grad)
        if not _is_floating_array(leaf):
            return leaf
        noise = importlib.import_module("ttrace.frontends.jax_parts.harvest.noise")
        jax = importlib.import_module("jax")
        backend = importlib.import_module("ttrace.backends.jax_backend")
        key = hash_key(f"argument/{self.num_stepped}", self._seed)
        self.num_stepped += 1
        with backend.x64_scope(True):
            moved = noise.stepped(jax.numpy.asarray(leaf), key, np.uint32(0))
        return np.asarray(moved) if isinstance(leaf, np.ndarray) else moved


def _mapped(change: Callable[[Any], Any], tree: Tree) -> Tree:
    jax = importlib.import_module("jax")
    return jax.tree.map(change, tree)


def _copy(leaf: Any) -> Any:
    if _is_torch(leaf):
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _is_torch(leaf: Any) -> bool:
    torch = sys.modules.get("torch")  # what is of torch has imported it
    return torch is not None and isinstance(leaf, torch.Tensor)


def _is_floating_array(leaf: Any) -> bool:
    """Of numpy or jax, in a dtype that noise can step."""
    steppable = ("float64", "float32", "float16", "bfloat16")
    return hasattr(leaf, "shape") and str(getattr(leaf, "dtype", "")) in steppable
