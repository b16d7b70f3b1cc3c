"""What a norm may normalise over, as functions of what it is given."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_WEIGHTS = frozenset({"weight", "scale", "gamma", "kernel", "w", "g"})
_BIASES = frozenset({"bias", "beta", "b", "offset"})

_MOST_ELEMENTS = 1 << 22
"""Elements of which groups are tried: their number is not known."""

_NEAR = 0.5
"""Of a sample, that a norm over the right groups makes at least, whatever its
epsilon."""

EPSILONS = (1e-12, 1e-7, 2.0**-23, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""What is in use; 2^-23 is that of float32, torch's own for RMSNorm."""

LAST_DIM = "LayerNorm"
UNCENTRED = "RMSNorm"
BATCH = "BatchNorm"

Affine = tuple[np.ndarray | float, np.ndarray | float]
"""What the norm multiplies by and adds, one value for each channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormForm:
    """A norm: over which elements, and along which dim its parameters lie.

    LayerNorm (arXiv:1607.06450) and RMSNorm (arXiv:1910.07467) over the last dim,
    BatchNorm (arXiv:1502.03167) by the statistics of what it is given, GroupNorm
    (arXiv:1803.08494) and InstanceNorm (arXiv:1607.08022), which has a group for every
    channel.

    Attributes:
        name: ``LayerNorm``, ``GroupNorm of 4 groups``.
        channel_dim: The dim that its parameters lie along.
        num_groups: Groups of channels of one sample; None where it has none.
    """

    name: str
    channel_dim: int
    num_groups: int | None = None

    def normalize(
        self, given: np.ndarray, epsilon: float, affine: Affine
    ) -> np.ndarray:
        """What it makes of what it is given, float64 of the same shape."""
        centered, squares = self.statistics(given)
        return self.finish(centered, squares, epsilon, affine)

    def statistics(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is divided, and the mean square of it, that broadcasts against it."""
        axes: tuple[int, ...] = (-1,)
        values = given
        if self.num_groups is not None:
            values = np.moveaxis(given, self.channel_dim, 1)
            shape = values.shape
            values = values.reshape(shape[0], self.num_groups, -1, *shape[2:])
            axes = tuple(range(2, values.ndim))
        elif self.name == BATCH:
            axes = tuple(dim for dim in range(given.ndim) if dim != self.channel_dim)
        if self.name != UNCENTRED:
            values = values - values.mean(axes, keepdims=True)
        squares = np.square(values).mean(axes, keepdims=True)
        if self.num_groups is None:
            return values, squares
        squares = np.broadcast_to(squares, values.shape)
        moved = np.moveaxis(given, self.channel_dim, 1).shape
        return (
            np.moveaxis(values.reshape(moved), 1, self.channel_dim),
            np.moveaxis(squares.reshape(moved), 1, self.channel_dim),
        )

    def finish(
        self,
        centered: np.ndarray,
        squares: np.ndarray,
        epsilon: float,
        affine: Affine,
    ) -> np.ndarray:
        """The output, of its statistics."""
        weight, bias = (self._along_channels(part, centered.ndim) for part in affine)
        return centered / np.sqrt(squares + epsilon) * weight + bias

    def _along_channels(
        self, values: np.ndarray | float, num_dims: int
    ) -> np.ndarray | float:
        if not isinstance(values, np.ndarray):
            return values
        shape = [1] * num_dims
        shape[self.channel_dim] = values.size
        return values.reshape(shape)


def forms_of(
    given: np.ndarray, output: np.ndarray, parameters: Mapping[str, np.ndarray | None]
) -> Iterator[tuple[NormForm, Affine]]:
    """Norms that an output may come from, with what they multiply by and add.

    Args:
        given: What the module was given, float64.
        output: What it returned, of the same shape.
        parameters: Its own, by slot: one value for each channel.
    """
    widths = {None if v is None else v.shape for v in parameters.values()}
    last = given.ndim - 1
    if not widths or widths == {(given.shape[-1],)}:
        for name in (LAST_DIM, UNCENTRED):
            form = NormForm(name=name, channel_dim=last)
            for affine in _affine(parameters, adds_one=True):
                yield form, affine
    if not 1 < given.ndim or given.size > _MOST_ELEMENTS:
        return
    for dim in dict.fromkeys((1, last)):
        width = given.shape[dim]
        if not widths or widths == {(width,)}:
            for affine in _affine(parameters):
                yield NormForm(name=BATCH, channel_dim=dim), affine
                if given.ndim > 2:
                    yield from _groups(given, output, dim, affine)


def _groups(
    given: np.ndarray, output: np.ndarray, dim: int, affine: Affine
) -> Iterator[tuple[NormForm, Affine]]:
    """Numbers of groups that make about the first sample."""
    width = given.shape[dim]
    for number in range(1, width + 1):
        if width % number:
            continue
        name = f"GroupNorm of {number} group" + ("s" if number > 1 else "")
        if number == width:
            name = "InstanceNorm"
        form = NormForm(name=name, channel_dim=dim, num_groups=number)
        least = min(
            np.linalg.norm(output[:1] - form.normalize(given[:1], epsilon, affine))
            for epsilon in EPSILONS
        )
        if least <= _NEAR * np.linalg.norm(output[:1]):
            yield form, affine


def _affine(
    parameters: Mapping[str, np.ndarray | None], *, adds_one: bool = False
) -> Iterator[Affine]:
    """What the norm may multiply by and add; Gemma's adds one to its weight."""
    weight: np.ndarray | None = None
    bias: np.ndarray | float = 0.0
    for slot, values in parameters.items():
        last = slot.rpartition(".")[2]
        if last in _WEIGHTS:
            weight = values
        elif last in _BIASES and values is not None:
            bias = values
    if weight is None:
        yield 1.0, bias
        return
    yield weight, bias
    if adds_one:
        yield 1 + weight, bias
