"""Whether a tensor has changed since it was read, without a copy of it.

Version counters and addresses do not tell: what a script writes by way of ``.data``
changes neither.
"""

import torch

from ttrace.frontends.torch_parts.arrays import is_storable, unobserved

_WORD = 8
"""Bytes that are summed up as one integer."""

_NUM_COLUMNS = 1021
"""A prime: rows of a matrix that change places come into other columns."""

Fingerprint = tuple[tuple[int, ...], torch.dtype, int, bytes]
"""Shape, dtype, a weighted sum of all bits, and the last bytes."""


def fingerprint_of(tensor: torch.Tensor) -> Fingerprint | None:
    """What tells a tensor from any other that is likely to take its place.

    One pass over it, where it lies: a few bytes are copied from its device.

    Args:
        tensor: A plain one.

    Returns:
        None for a tensor that a trace cannot hold.
    """
    if not is_storable(tensor):
        return None
    with unobserved():
        values = tensor.detach().resolve_neg().contiguous().reshape(-1)
        if values.storage_offset() * values.element_size() % _WORD:
            values = values.clone()  # words must not begin within one
        octets = values.view(torch.uint8)
        stride = _WORD * _NUM_COLUMNS
        end = octets.numel() // stride * stride
        total = 0
        if end:
            words = octets[:end].view(torch.int64).view(-1, _NUM_COLUMNS)
            weights = torch.arange(1, 2 * _NUM_COLUMNS, 2, device=words.device)
            total = int((words.sum(0) * weights).sum())
        rest = octets[end:].cpu().numpy().tobytes()
    return tuple(tensor.shape), tensor.dtype, total, rest
