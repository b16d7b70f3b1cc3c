"""What a run's tensors are, one by one: read once, so that rules need no array."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

Progress = Callable[[int, int], None]
"""Called with elements done and in total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one tensor, of all its shards together.

    Attributes:
        content: Equal for equal values; no two tensors differ in values alone and are
            equal in this.
        count: Elements.
        num_nan: NaNs among them.
        num_inf: Infinities.
        largest: The largest absolute value that is finite.
        is_constant: All elements are equal.
        is_float: They are no integers and no booleans.
        epsilon: Of the dtype that they are stored in; None of integers.
        num_dims: Of the logical tensor.
    """

    content: bytes
    count: int
    num_nan: int
    num_inf: int
    largest: float
    is_constant: bool
    is_float: bool
    epsilon: float | None
    num_dims: int

    @property
    def is_zero(self) -> bool:
        """Whether it holds nothing but zeros; False of no elements."""
        is_finite = not self.num_nan + self.num_inf
        return bool(self.count) and is_finite and self.largest == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Of a run.

    Attributes:
        trace: The run.
        tensors: Facts by id, in order of capture.
    """

    trace: TraceSource
    tensors: Mapping[TensorId, Facts] = field(default_factory=dict)


def read_facts(trace: TraceSource, progress: Progress | None = None) -> RunFacts:
    """Reads every tensor once.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    records = [r for r in trace.info.tensors.values() if not r.id.is_index]
    sizes = [
        sum(int(np.prod(shard.layout.local_shape)) for shard in record.shards)
        for record in records
    ]
    tensors, done = {}, 0
    for record, size in zip(records, sizes, strict=True):
        tensors[record.id] = _facts(record, trace)
        done += size
        if progress is not None:
            progress(done, sum(sizes))
    return RunFacts(trace=trace, tensors=tensors)


def _facts(record: TensorRecord, trace: TraceSource) -> Facts:
    digest = hashlib.blake2b(digest_size=16)
    count = num_nan = num_inf = 0
    largest, values = 0.0, set()
    epsilon = dtype_named(record.shards[0].dtype).epsilon
    for shard in record.shards:
        array = np.ascontiguousarray(trace.load(shard))
        digest.update(str(array.shape).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        count += array.size
        if not array.size:
            continue
        if epsilon is not None:
            array = array.astype(np.float64)
            num_nan += int(np.isnan(array).sum())
            num_inf += int(np.isinf(array).sum())
        finite = array[np.isfinite(array)] if num_nan + num_inf else array
        if finite.size:
            low, high = float(finite.min()), float(finite.max())
            largest = max(largest, abs(low), abs(high))
            values |= {low, high}
    return Facts(
        content=digest.digest(),
        count=count,
        num_nan=num_nan,
        num_inf=num_inf,
        largest=largest,
        is_constant=len(values) < 2,
        is_float=epsilon is not None,
        epsilon=epsilon,
        num_dims=len(record.global_shape),
    )
