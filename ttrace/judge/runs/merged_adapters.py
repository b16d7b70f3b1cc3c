"""Weights of one run that are those of the other with its adapters merged into them.

A merged model computes the same function of other parameters: W + s B A in place of W,
A and B. The recorded initial values prove that; ``merge_and_unload`` of PEFT does it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

KINDS = "input,output,loss"
"""What two such runs have in common, for ``--kinds``."""

_ROUNDINGS = 8
"""Of each weight and of each sum of products, as many as a merge may take."""

_FIRST = re.compile(r"(?:^|\.)(lora_(?:\w+_)?A|lora_(?:\w+_)?a|lora[_.]down)(?=\.|$)")
"""Where the path of a parameter says that it is the first factor of an adapter."""

_SECOND = {"A": "B", "a": "b", "down": "up"}
"""How the path of the second factor ends there, by how that of the first one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Two parameters below a module, the product of which changes its weight.

    Attributes:
        first: The factor that is applied first, ``[rank, inputs]``.
        second: The other one, ``[outputs, rank]``.
    """

    first: TensorId
    second: TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAdapters:
    """Weights that differ, of modules that have adapters in one run only.

    Attributes:
        side: The run with the adapters.
        weights: The initial weights that differ, in order of capture.
        adapters: Of the first of them.
        factors: By which the products of these are multiplied; empty where the weight
            of the other run is not the merge.
        num_merged: Weights that are the merge, as the values prove.
    """

    side: Side
    weights: tuple[TensorId, ...]
    adapters: tuple[Adapter, ...]
    factors: tuple[float, ...]
    num_merged: int

    @property
    def is_proven(self) -> bool:
        """Whether all of the weights are the merge."""
        return self.num_merged == len(self.weights)


def find_merged_adapters(
    verdicts: Sequence[TensorVerdict],
    parameters: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> MergedAdapters | None:
    """Looks for weights that differ as a merge would make them.

    Reads the weights that differ and their adapters, one module after the other.

    Args:
        verdicts: On all tensors.
        parameters: Those on initial parameters that only one run has.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.

    Returns:
        None unless all initial parameters that differ are of modules that have adapters
        in the one run, and none in the other.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    apart = [
        verdict.id
        for verdict in verdicts
        if verdict.id.kind is Kind.PARAM and verdict.status is Status.FAILED
    ]
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    for side in Side if apart else ():
        of_side = [v.id for v in parameters if v.present is side]
        below = _by_module(of_side, runs[side])
        adapters = [below.get(id_.module, ()) for id_ in apart]
        if not all(adapters):
            continue
        other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
        found = [
            _factors(id_, of_it, runs[side], runs[other])
            for id_, of_it in zip(apart, adapters, strict=True)
        ]
        return MergedAdapters(
            side=side,
            weights=tuple(apart),
            adapters=tuple(adapters[0]),
            factors=found[0],
            num_merged=sum(map(bool, found)),
        )
    return None


def merged_sentence(merged: MergedAdapters) -> str:
    """What to say of them in place of whether the parameters were loaded."""
    other = Side.CANDIDATE if merged.side is Side.REFERENCE else Side.REFERENCE
    first = merged.weights[0]
    name = f"{first.module}/{first.slot}"
    num = len(merged.weights)
    compare = f"--kinds {KINDS} compares what both have"
    if merged.is_proven:
        terms = " + ".join(
            f"{factor:.4g} x {_short(a.second, first)} @ {_short(a.first, first)}"
            for a, factor in zip(merged.adapters, merged.factors, strict=True)
        )
        plural = "s" if num > 2 else ""
        more = f", and {num - 1} more weight{plural} like it" if num > 1 else ""
        return (
            f"The {other} has the adapters of the {merged.side} merged into its "
            f"weights: {name} of the {other} is, to rounding, that of the "
            f"{merged.side} + {terms}{more}. The two compute the same function of "
            "other parameters, so that neither parameters nor gradients can be "
            f"compared: {compare}"
        )
    names = ", ".join(
        f"{_short(a.first, first)}, {_short(a.second, first)}" for a in merged.adapters
    )
    of_all = (
        "The values show it of none"
        if not merged.num_merged
        else f"The values show it of {merged.num_merged} only"
    )
    weights = "weights differ" if num > 1 else "weight differs"
    return (
        f"{num} {weights}, of modules that have adapters in the {merged.side} only "
        f"({first.module}: {names}): were they merged into the weights of the "
        f"{other}? {of_all}. If they are to be, merge all of them, unchanged, and "
        f"{compare}; else build both models with the same adapters and start both from "
        "the same parameters"
    )


def _short(id_: TensorId, weight: TensorId) -> str:
    """The path of a parameter below the module of a weight."""
    return f"{id_.module}.{id_.slot}".removeprefix(f"{weight.module}.").removesuffix(
        ".weight"
    )


def _by_module(
    parameters: Sequence[TensorId], run: TraceSource
) -> Mapping[str, list[Adapter]]:
    """The adapters of each module: pairs of names of which shapes can be multiplied."""
    by_path = {f"{id_.module}.{id_.slot}": id_ for id_ in parameters}
    found: dict[str, list[Adapter]] = {}
    for path, first in by_path.items():
        named = _FIRST.search(path)
        if named is None:
            continue
        (end,) = (end for end in _SECOND if named[1].endswith(end))
        there = named.end()
        other = f"{path[: there - len(end)]}{_SECOND[end]}{path[there:]}"
        second = by_path.get(other)
        if second is not None and _chain(first, second, run):
            pair = Adapter(first=first, second=second)
            found.setdefault(path[: named.start()], []).append(pair)
    return found


def _chain(first: TensorId, second: TensorId, run: TraceSource) -> bool:
    shapes = [run.info.tensors[id_].global_shape for id_ in (first, second)]
    return all(len(shape) == 2 for shape in shapes) and shapes[1][1] == shapes[0][0]


def _factors(
    weight: TensorId,
    adapters: Sequence[Adapter],
    with_adapters: TraceSource,
    merged: TraceSource,
) -> tuple[float, ...]:
    """Those by which the products make up the difference; empty where none do."""
    base = _values(weight, with_adapters)
    result = _values(weight, merged)
    if base is None or result is None or base.shape != result.shape:
        return ()
    difference = result - base
    terms, sizes = [], []
    for adapter in adapters:
        first = _values(adapter.first, with_adapters)
        second = _values(adapter.second, with_adapters)
        if first is None or second is None:
            return ()
        product = second @ first
        if product.shape != difference.shape:
            product = product.T  # Conv1D and embeddings keep their weight transposed
        if product.shape != difference.shape:
            return ()
        terms.append(product.ravel())
        sizes.append(np.linalg.norm(first) * np.linalg.norm(second))
    columns = np.stack(terms, axis=1)
    solution, *_ = np.linalg.lstsq(columns, difference.ravel(), rcond=None)
    left = float(np.linalg.norm(difference.ravel() - columns @ solution))
    rounded = np.linalg.norm(result) + np.abs(solution) @ sizes
    epsilon = max(_epsilon(weight, run) for run in (with_adapters, merged))
    limit = _ROUNDINGS * epsilon * float(rounded)
    if not left <= limit < float(np.linalg.norm(difference)):
        return ()
    factors = tuple(float(factor) for factor in solution)
    return factors if all(map(math.isfinite, factors)) else ()


def _values(id_: TensorId, run: TraceSource) -> np.ndarray | None:
    """float64: the logical tensor; None where it is not all there."""
    record = run.info.tensors.get(id_)
    values = None if record is None else assembled(record, run)
    return None if values is None else values.astype(np.float64)


def _epsilon(id_: TensorId, run: TraceSource) -> float:
    return dtype_named(run.info.tensors[id_].shards[0].dtype).epsilon or 0.0
