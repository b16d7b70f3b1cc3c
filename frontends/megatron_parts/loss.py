"""What Megatron's loss function returns, as losses of a trace."""

from dataclasses import dataclass
from typing import Any

import torch

from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.layout import Mesh, ShardLayout, whole


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossTensor:
    """One number about the loss of a micro-batch.

    Attributes:
        slot: Sets several of them apart; None for a single one.
        value: The number, a copy.
        layout: Whether the ranks along ``cp`` hold shares of it.
        scale: Known factor over the mathematical value.
    """

    slot: str | None
    value: torch.Tensor
    layout: ShardLayout | NoLayout
    scale: float = 1.0


def loss_tensors(
    outputs: tuple[Any, ...], mesh: Mesh, *, is_per_token: bool
) -> list[LossTensor]:
    """Reads the outputs of the loss function of one micro-batch.

    Of three outputs the first is a sum over tokens and the second their number, both
    of this rank's part of the sequence. Megatron divides them per micro-batch and rank,
    and averages over the ranks: that mean is recorded. With a loss per token it divides
    only the sums over all ranks and micro-batches: then both sums are recorded.

    Args:
        outputs: Loss and report, or sum of losses, number of tokens and report.
        mesh: The mesh ``dense``.
        is_per_token: Megatron's ``calculate_per_token_loss``.
    """
    cp = mesh.sizes["cp"]
    share = whole((), mesh.name, partial_axes=("cp",) if cp > 1 else ())
    loss = outputs[0].detach().clone()
    if len(outputs) != 3:
        layout: ShardLayout | NoLayout = share
        if cp > 1:
            layout = NoLayout(
                reason="the loss function does not return the number of tokens, so "
                "whether its loss is that of this rank's part of the sequence or of "
                "all of it is not known"
            )
        return [LossTensor(slot=None, value=loss, layout=layout)]
    num_tokens = outputs[1].detach().clone()
    if is_per_token:
        return [
            LossTensor(slot="sum", value=loss, layout=share),
            LossTensor(slot="num_tokens", value=num_tokens, layout=share),
        ]
    mean = loss / torch.clamp(num_tokens, min=1)
    return [LossTensor(slot=None, value=mean, layout=share, scale=float(cp))]
