"""What parameters of the Megatron example look like at the start."""

import pytest

from ttrace.examples.megatron_gpt.initial_values import initial_distribution
from ttrace.generate import Bell


@pytest.mark.parametrize(
    ("module", "slot", "expected"),
    [
        ("embedding.word_embeddings", "weight", Bell(scale=2.0**-5)),
        ("decoder.layers.0.input_layernorm", "bias", Bell(scale=2.0**-6)),
        ("decoder.final_layernorm", "weight", Bell(scale=2.0**-5, offset=1.0)),
        ("decoder.layers.0.mlp.router", "weight", Bell(scale=2.0**-2)),
        ("decoder.layers.0.mlp.linear_fc2", "weight", Bell(scale=2.0**-6)),
        ("decoder.layers.0.mlp.linear_fc2", "bias", Bell(scale=2.0**-6)),
        ("decoder.layers.0.mlp.experts", "weight1", Bell(scale=2.0**-5)),
    ],
)
def test_no_parameter_is_constant(module, slot, expected):
    assert initial_distribution(module, slot) == expected
