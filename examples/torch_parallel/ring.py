"""Ring attention: every rank keeps its queries, keys and values go round.

Liu et al., "Ring Attention with Blockwise Transformers", arXiv:2310.01889. Outputs of
the chunks are merged by their log-sum-exp (Milakov and Gimelshein, arXiv:1805.02867).
All tensors are ``[b, s, heads, head_size]``; rank r has the rth part of the sequence.
"""

import math
from typing import Any

import torch
import torch.distributed as dist

from ttrace.examples.torch_parallel.model import Gpt
from ttrace.examples.torch_parallel.place import Place


def parallelize(model: Gpt, place: Place) -> None:
    """Lets a model work on a part of every sample."""
    for block in model.layers():
        block.attention.core = RingAttention(place)


class RingAttention(torch.nn.Module):
    """Causal attention of this rank's queries to the whole sequence."""

    def __init__(self, place: Place):
        super().__init__()
        self._place = place

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        return _Ring.apply(query, key, value, self._place)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        place: Place,
    ) -> torch.Tensor:
        out = torch.zeros_like(query)
        b, s, a, _ = query.shape
        lse = query.new_full((b, a, s), -math.inf)
        held = torch.stack((key, value))
        for turn in range(place.size):
            source = (place.rank - turn) % place.size
            if source <= place.rank:  # what comes later is not seen
                mask = hidden_keys(query, place.rank, source)
                chunk = attend(query, held[0], held[1], mask)
                out, lse = merge(out, lse, *chunk)
            if turn < place.size - 1:
                held = rotate(held, place)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.place = place
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple:
        query, key, value, out, lse = ctx.saved_tensors
        place: Place = ctx.place
        (gradient,) = grad_outputs
        delta = torch.einsum("bqad,bqad->baq", gradient, out)
        grad_query = torch.zeros_like(query)
        held = torch.stack((key, value))
        grad_held = torch.zeros_like(held)  # goes round with what it belongs to
        for turn in range(place.size):
            source = (place.rank - turn) % place.size
            if source <= place.rank:
                mask = hidden_keys(query, place.rank, source)
                scores = scaled_scores(query, held[0], mask)
                weights = torch.exp(scores - lse[..., None])
                grad_weights = torch.einsum("bqad,bkad->baqk", gradient, held[1])
                grad_scores = weights * (grad_weights - delta[..., None])
                grad_scores /= math.sqrt(query.shape[-1])
                grad_query += torch.einsum("baqk,bkad->bqad", grad_scores, held[0])
                grad_held[0] += torch.einsum("baqk,bqad->bkad", grad_scores, query)
                grad_held[1] += torch.einsum("baqk,bqad->bkad", weights, gradient)
            if turn < place.size - 1:
                held = rotate(held, place)
                grad_held = rotate(grad_held, place)
        grad_held = send_home(grad_held, place)
        return grad_query, grad_held[0], grad_held[1], None


def hidden_keys(query: torch.Tensor, rank: int, source: int) -> torch.Tensor:
    """``[s, s]``, true where a key of ``source`` comes after a query of ``rank``."""
    places = torch.arange(query.shape[1], device=query.device)
    offset = query.shape[1] * (source - rank)
    return places[:, None] < places + offset


def scaled_scores(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """``[b, heads, queries, keys]``, minus infinity where masked."""
    scores = torch.einsum("bqad,bkad->baqk", query, key) / math.sqrt(query.shape[-1])
    return scores.masked_fill(mask, -math.inf)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to one chunk.

    Returns:
        The output as if there were no other chunk, and the log-sum-exp of the scores,
        ``[b, heads, queries]``.
    """
    scores = scaled_scores(query, key, mask)
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse[..., None])
    return torch.einsum("baqk,bkad->bqad", weights, value), lse


def merge(
    out: torch.Tensor,
    lse: torch.Tensor,
    chunk_out: torch.Tensor,
    chunk_lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention to two sets of keys together, from that to either."""
    total = torch.logaddexp(lse, chunk_lse)
    return (
        out * _per_query(torch.exp(lse - total))
        + chunk_out * _per_query(torch.exp(chunk_lse - total)),
        total,
    )


def _per_query(weights: torch.Tensor) -> torch.Tensor:
    """``[b, heads, s]`` to ``[b, s, heads, 1]``."""
    return weights.transpose(1, 2)[..., None]


def send_home(gradients: torch.Tensor, place: Place) -> torch.Tensor:
    """The last turn: gradients return to the rank that has the keys and values."""
    return rotate(gradients, place)


def rotate(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """Hands a tensor to the next rank; returns that of the one before."""
    received = torch.empty_like(tensor)
    after, before = (place.rank + 1) % place.size, (place.rank - 1) % place.size
    operations = [
        dist.P2POp(dist.isend, tensor.contiguous(), after),
        dist.P2POp(dist.irecv, received, before),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received
