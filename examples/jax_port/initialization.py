"""The parameters that a port starts from: those of its original, whichever that is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttrace.examples.jax_port.config import ModelConfig
from ttrace.examples.jax_port.layout import Flavor
from ttrace.examples.jax_port.parameters import initial_parameters
from ttrace.examples.jax_port.weights import convert_parameters
from ttrace.examples.megatron_gpt.initial_values import initial_distribution
from ttrace.frontends.jax_generate import generate_tree
from ttrace.frontends.jax_parts.map_origins import origins_of_map
from ttrace.frontends.jax_parts.origins import Origin
from ttrace.generate import Distribution
from ttrace.mapping.map_file import read_map


def starting_parameters(
    config: ModelConfig, flavor: Flavor, *, initial_map: Path | None, seed: int
) -> Any:
    """The port's parameters as nested dicts, float32.

    Args:
        config: Of the model.
        flavor: Which port.
        initial_map: A map whose reference is the Megatron example: they are its
            parameters then. Those of transformers if None.
        seed: Of the generator.

    Raises:
        TtraceError: The map cannot be read, or does not say where a parameter lies.
    """
    converted = convert_parameters(
        initial_parameters(config, seed=seed), config, flavor
    )
    if initial_map is None:
        return converted
    origin_for = origins_of_map(read_map(initial_map))
    return generate_tree(  # in the shapes of what was converted
        converted, _distribution_of(origin_for), origin_for=origin_for, seed=seed
    )


def _distribution_of(
    origin_for: Callable[[str], Origin],
) -> Callable[[str], Distribution]:
    """What Megatron's example makes of the parameters that these are parts of."""

    def distribution_for(name: str) -> Distribution:
        origin = origin_for(name)
        members = next(iter(origin.members.values()), (origin.name,))
        module, _, slot = str(members[0]).rpartition(".")
        return initial_distribution(module, slot)

    return distribution_for
