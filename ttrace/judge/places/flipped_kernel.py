"""A transposed convolution whose kernel runs the other way."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.own_parameters import own_parameters
from ttrace.judge.reading.values import values_of

_MAX_PRODUCTS = 1 << 31
"""Multiplications that are made to find out, of one sample, at most."""

_MAX_CROPS = 64
"""Ways to cut off the borders that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlippedKernel:
    """An output that the same kernel gives, flipped along its spatial dims.

    Attributes:
        id: The output.
        kernel: The parameter.
        dims: Its spatial dims.
    """

    id: TensorId
    kernel: TensorId
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layout:
    """A kernel and an input as ``[*spatial, in, out]`` and ``[*spatial, in]``.

    Attributes:
        kernel: The kernel.
        given: One sample.
        made: The reference's output of it, ``[*spatial, out]``.
        ours: The candidate's.
        dims: The spatial dims of the kernel, as it was recorded.
    """

    kernel: np.ndarray
    given: np.ndarray
    made: np.ndarray
    ours: np.ndarray
    dims: tuple[int, ...]


def find_flipped_kernel(
    values: DivergedValues | None, reference: TraceSource
) -> FlippedKernel | None:
    """Looks whether a flip of the kernel explains the error of an output.

    The reference's output must be what its kernel makes of its input, in one of the two
    directions, and the candidate's what it makes in the other. Of one sample.

    Args:
        values: Of the first divergence, an output.
        reference: The trusted run.
    """
    if values is None or values.id.kind is not Kind.OUTPUT:
        return None
    records = own_parameters(values.id, reference.info).values()
    num_dims = values.theirs.ndim
    kernels = [r for r in records if len(r.global_shape) == num_dims > 2]
    given = (
        values_of(replace(values.id, kind=Kind.INPUT, slot="0"), reference)
        if kernels
        else None
    )
    if given is None or given.ndim != num_dims:
        return None
    for record in kernels:
        kernel = values_of(record.id, reference)
        if kernel is None:
            continue
        for layout in _layouts(kernel, given, values):
            if _is_flipped(layout, values):
                return FlippedKernel(id=values.id, kernel=record.id, dims=layout.dims)
    return None


def _layouts(
    kernel: np.ndarray, given: np.ndarray, values: DivergedValues
) -> Iterator[_Layout]:
    """How torch, ``[in, out, *spatial]``, and flax, ``[*spatial, in, out]``, lie."""
    num_spatial = kernel.ndim - 2
    spatial = tuple(range(2, kernel.ndim))
    first = _Layout(
        kernel=kernel.transpose(*spatial, 0, 1),
        given=np.moveaxis(given[0], 0, -1),
        made=np.moveaxis(values.theirs[0], 0, -1),
        ours=np.moveaxis(values.ours[0], 0, -1),
        dims=spatial,
    )
    last = _Layout(
        kernel=kernel,
        given=given[0],
        made=values.theirs[0],
        ours=values.ours[0],
        dims=tuple(range(num_spatial)),
    )
    for layout in (first, last):
        channels = (layout.given.shape[-1], layout.made.shape[-1])
        if layout.kernel.shape[-2:] == channels:
            yield layout


def _is_flipped(layout: _Layout, values: DivergedValues) -> bool:
    lengths = layout.kernel.shape[:-2]
    dims = tuple(range(len(lengths)))
    if math.prod(layout.given.shape) * math.prod(layout.kernel.shape) // max(
        layout.given.shape[-1], 1
    ) > _MAX_PRODUCTS or all(length == 1 for length in lengths):
        return False
    of_sample = replace(values, ours=layout.ours, theirs=layout.made)
    for strides in _strides(layout):
        full, turned = (
            _spread(layout.given, kernel, strides)
            for kernel in (layout.kernel, np.flip(layout.kernel, dims))
        )
        for start in _starts(full, layout.made):
            own = _explained(full, start, layout.made)
            other = _explained(turned, start, layout.made)
            for straight, flipped in ((own, other), (other, own)):
                # What is added, a bias of each channel, is the same in both.
                bias = (layout.made - straight).mean(dims)
                if of_sample.is_reference(straight + bias) and (
                    of_sample.is_explained(flipped + bias)
                ):
                    return True
    return False


def _strides(layout: _Layout) -> Iterator[tuple[int, ...]]:
    """Strides by which outputs of this length come, the least first."""
    options = []
    for given, made, length in zip(
        layout.given.shape[:-1],
        layout.made.shape[:-1],
        layout.kernel.shape[:-2],
        strict=True,
    ):
        options.append(
            [
                stride
                for stride in range(1, max(made // max(given, 1), 1) + 2)
                if 0 <= (given - 1) * stride + length - made <= 2 * (length - 1)
            ]
        )
    yield from itertools.product(*options)


def _spread(
    given: np.ndarray, kernel: np.ndarray, strides: tuple[int, ...]
) -> np.ndarray:
    """Each element times the kernel, added up ``strides`` apart; nothing cut off.

    Args:
        given: ``[*spatial, in]``.
        kernel: ``[*spatial, in, out]``.
        strides: Of each spatial dim.
    """
    lengths = kernel.shape[:-2]
    shape = [
        (size - 1) * stride + length
        for size, stride, length in zip(given.shape, strides, lengths, strict=False)
    ]
    full = np.zeros((*shape, kernel.shape[-1]))
    for index in itertools.product(*map(range, lengths)):
        where = tuple(
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(index, given.shape, strides, strict=False)
        )
        full[where] += given @ kernel[index]
    return full


def _starts(full: np.ndarray, made: np.ndarray) -> list[tuple[int, ...]]:
    """Where the output may begin in what was spread: in the middle first."""
    options = [
        sorted(
            range(longer - length + 1), key=lambda n, m=longer - length: abs(2 * n - m)
        )
        for longer, length in zip(full.shape[:-1], made.shape[:-1], strict=True)
    ]
    return list(itertools.islice(itertools.product(*options), _MAX_CROPS))


def _explained(
    full: np.ndarray, start: tuple[int, ...], made: np.ndarray
) -> np.ndarray:
    return full[
        tuple(
            slice(begin, begin + length)
            for begin, length in zip(start, made.shape[:-1], strict=True)
        )
    ]
