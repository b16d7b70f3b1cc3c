"""Initial parameters that do not depend on how a model is laid out."""

from collections.abc import Callable

import torch

from ttrace.errors import LayoutError
from ttrace.frontends.torch_parts.description import ModelDescription, NamedParameter
from ttrace.frontends.torch_parts.local_tensor import LocalTensor
from ttrace.generate import Distribution, generate_shard
from ttrace.ir.kinds import Kind


@torch.no_grad()
def initialize_parameters(
    description: ModelDescription,
    distribution_for: Callable[[NamedParameter], Distribution],
    *,
    seed: int = 0,
) -> None:
    """Overwrites every parameter with values of its canonical name and global indices.

    Runs of any two layouts start from equal bits, without communication. Call it before
    an optimizer copies the parameters. Padding becomes zero.

    Args:
        description: Names and layouts of the model.
        distribution_for: What the elements of a parameter look like.
        seed: Another seed gives unrelated parameters.

    Raises:
        LayoutError: The layout of a parameter is not known.
    """
    for named in description.parameters():
        name = f"{named.module}.{named.slot}"
        answer = description.parameter(named, Kind.PARAM, named.parameter)
        if not isinstance(answer, LocalTensor):
            raise LayoutError(
                "a parameter of unknown layout cannot be initialized",
                where=name,
                got=getattr(answer, "reason", "it is recorded elsewhere"),
                remedy="initialize the model from a checkpoint instead",
            )
        values = generate_shard(name, distribution_for(named), answer.layout, seed=seed)
        answer.values.copy_(torch.from_numpy(values))
