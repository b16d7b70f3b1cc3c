"""A tiny model's training step on one global batch, in micro-batches of any samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from tests.factories.traces import Tensor, memory_trace
from ttrace.store.memory_trace import MemoryTrace

SAMPLES, LENGTH, WIDTH = 8, 5, 6

Order = Sequence[Sequence[int]]
"""The samples of each micro-batch."""

ONE: Order = [range(SAMPLES)]
FOUR: Order = [[0, 1], [2, 3], [4, 5], [6, 7]]
SHUFFLED: Order = [[5, 2], [7, 0], [1, 6], [3, 4]]


def tokens(seed: int = 0) -> np.ndarray:
    """``[SAMPLES, LENGTH]`` int64."""
    shape = (SAMPLES, LENGTH)
    return np.random.default_rng(seed).integers(0, 1000, shape, dtype=np.int64)


def sample_run(
    order: Order,
    data: np.ndarray | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    dims: str | None = None,
    holders: Sequence[tuple[int, ...]] | None = None,
    wrong: float = 1.0,
    late: bool = False,
    more: Mapping[str, Tensor | np.ndarray] | None = None,
    without: Sequence[str] = (),
    **fields,
) -> MemoryTrace:
    """What a run records of one step.

    Args:
        order: The samples of its micro-batches.
        data: The samples; those of ``tokens()`` if None.
        sizes: Axes of its mesh.
        dims: Dims text of activations, ``[samples, LENGTH, WIDTH]``.
        holders: The ranks that run each micro-batch; all of them if None.
        wrong: A factor on the activations of the second module.
        late: It divides gradients by the number of micro-batches after the backward.
        more: Other tensors, by text of the id.
        without: Kinds to leave out.
        **fields: See ``memory_trace``.
    """
    data = tokens() if data is None else data
    rng = np.random.default_rng(3)
    table, head = rng.normal(size=(1000, WIDTH)), rng.normal(size=WIDTH)
    tensors: dict[str, Tensor | np.ndarray] = {"step0/net/param/weight": head}
    shares = []
    for number, samples in enumerate(order):
        ids = data[list(samples)]
        hidden = table[ids % 1000]
        output = np.tanh(hidden * head) * wrong
        divisor = len(samples) * (1 if late else len(order))
        gradient = (1 - np.tanh(hidden * head) ** 2) / divisor
        shares.append((gradient * hidden).sum((0, 1)))
        here = f"step0/mb{number}"
        of_ranks = None if holders is None else holders[number]
        values = {
            f"{here}/@root/input/0": Tensor(full=ids, holders=of_ranks),
            f"{here}/table/output/0": Tensor(full=hidden, dims=dims, holders=of_ranks),
            f"{here}/net/output/0": Tensor(full=output, dims=dims, holders=of_ranks),
            f"{here}/@root/loss": Tensor(full=output.mean(), holders=of_ranks),
            f"{here}/net/grad_output/0": Tensor(
                full=gradient, dims=dims, holders=of_ranks
            ),
            f"{here}/net/param_grad/weight": Tensor(full=shares[-1], holders=of_ranks),
        }
        tensors |= values
    gradient = np.add.reduce(shares) / (len(order) if late else 1)
    tensors["step0/net/main_grad/weight"] = gradient
    tensors["step0/net/updated_param/weight"] = head - gradient
    tensors |= dict(more or {})
    kept = {i: t for i, t in tensors.items() if i.split("/")[-2] not in without}
    if "loss" in without:
        kept = {i: t for i, t in kept.items() if not i.endswith("/loss")}
    return memory_trace(kept, sizes, **fields)
