"""PartitionSpecs of parameters, optimizer states and batches, by path and layout."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ttrace.examples.jax_port import linen_gpt2, linen_llama, nnx_gpt2, nnx_llama
from ttrace.examples.jax_port.config import Architecture, ModelConfig
from ttrace.examples.jax_port.layout import Flavor, Layout
from ttrace.examples.jax_port.parallel import Parallel

_TABLES = {
    (Flavor.LINEN, Architecture.GPT2): linen_gpt2.TENSOR_PARALLEL,
    (Flavor.LINEN, Architecture.LLAMA): linen_llama.TENSOR_PARALLEL,
    (Flavor.NNX, Architecture.GPT2): nnx_gpt2.TENSOR_PARALLEL,
    (Flavor.NNX, Architecture.LLAMA): nnx_llama.TENSOR_PARALLEL,
}


def partition_specs(
    tree: Any,
    config: ModelConfig,
    flavor: Flavor,
    layout: Layout,
    parallel: Parallel,
) -> Any:
    """A spec per array of a tree of parameters, or of states that look like them.

    Args:
        tree: A pytree of arrays, or of their shapes.
        config: Of the model.
        flavor: Which port.
        layout: How it lies on the mesh.
        parallel: The mesh.

    Returns:
        The same tree with a ``PartitionSpec`` in place of each array.
    """
    table = _TABLES[flavor, config.architecture]

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        if layout is Layout.FSDP:
            return _fsdp_spec(leaf.shape, parallel)
        return _tensor_parallel_spec(path_name(path), leaf.ndim, table, layout)

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(specs: Any, parallel: Parallel) -> Any:
    """The same tree with a ``NamedSharding`` in place of each spec."""
    assert parallel.mesh is not None
    mesh = parallel.mesh
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def batch_spec(parallel: Parallel) -> P:
    """How ``[b, s]`` arrays lie: each device has the whole of some samples."""
    return P(parallel.batch)


def path_name(path: tuple[Any, ...]) -> str:
    """The path of an array in its tree, as in ``h_0/attn/c_attn/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def _tensor_parallel_spec(
    path: str,
    num_dims: int,
    table: Mapping[str, tuple[str | None, ...]],
    layout: Layout,
) -> P:
    for pattern, dims in table.items():
        # An optimizer's state has the parameter's path behind its own.
        if not fnmatch.fnmatchcase(path, f"*{pattern}") or num_dims < len(dims):
            continue
        if layout is Layout.SHARD_MAP and _is_vocabulary(pattern):
            return P()
        stacked = (None,) * (num_dims - len(dims))
        return P(*stacked, *("tp" if dim else None for dim in dims))
    return P()


def _fsdp_spec(shape: tuple[int, ...], parallel: Parallel) -> P:
    assert parallel.mesh is not None
    axis = parallel.batch[-1]
    size = parallel.mesh.shape[axis]
    # The largest dim; the last of equal ones.
    for dim in sorted(range(len(shape)), key=lambda d: (shape[d], d), reverse=True):
        if shape[dim] % size == 0:
            return P(*(axis if d == dim else None for d in range(len(shape))))
    return P()


def _is_vocabulary(path: str) -> bool:
    return path.endswith("embedding") or path.startswith("lm_head")
