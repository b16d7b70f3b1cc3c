"""The dims of what goes into experts and comes out of them."""

import pytest

pytest.importorskip("torch")

from ttrace.frontends.megatron_parts.expert_dims import (  # noqa: E402
    ExpertModule,
    is_token_count,
    parse_expert_path,
    row_dims,
)
from ttrace.ir.kinds import Kind  # noqa: E402

ALL = ExpertModule(expert=None, name="")
THIRD = ExpertModule(expert=3, name="")


@pytest.mark.parametrize(
    ("tail", "module"),
    [
        ("", ALL),
        (".local_experts.3", THIRD),
        (".local_experts.3.linear_fc1", ExpertModule(expert=3, name="linear_fc1")),
        (".linear_fc2", ExpertModule(expert=None, name="linear_fc2")),
        (".local_experts.3.linear_fc1.lora", None),
    ],
)
def test_paths(tail, module):
    assert parse_expert_path(tail) == module


FULL, PARTIAL = "x[@index] h", "x[@index] h partial[etp]"
CUT = "x[@index] f[etp]"


@pytest.mark.parametrize(
    ("name", "slot", "forward", "backward"),
    [
        ("", "0", FULL, PARTIAL),
        ("linear_fc1", "0", FULL, PARTIAL),
        ("activation_func", "0", CUT, CUT),
        ("linear_fc2", "0", CUT, CUT),
        ("linear_fc2", "1", None, None),
    ],
)
def test_inputs(name, slot, forward, backward):
    for expert in (None, 3):
        module = ExpertModule(expert=expert, name=name)
        assert row_dims(module, Kind.INPUT, slot, is_gated=False) == forward
        assert row_dims(module, Kind.GRAD_INPUT, slot, is_gated=True) == backward


@pytest.mark.parametrize(
    ("name", "slot", "is_gated", "forward", "backward"),
    [
        ("", "0", False, PARTIAL, FULL),
        ("linear_fc2", "0", True, PARTIAL, FULL),
        ("linear_fc1", "0", False, CUT, CUT),
        ("linear_fc1", "0", True, *2 * ("x[@index] f[etp:parts(2)]",)),
        ("activation_func", "0", True, CUT, CUT),
        ("linear_fc1", "1", False, None, None),
        ("q_layernorm", "0", False, None, None),
    ],
)
def test_outputs(name, slot, is_gated, forward, backward):
    module = ExpertModule(expert=3, name=name)
    assert row_dims(module, Kind.OUTPUT, slot, is_gated=is_gated) == forward
    assert row_dims(module, Kind.GRAD_OUTPUT, slot, is_gated=is_gated) == backward


@pytest.mark.parametrize(("module", "slot"), [(ALL, "2"), (THIRD, "1")])
def test_probabilities(module, slot):
    assert row_dims(module, Kind.INPUT, slot, is_gated=False) == "x[@index]"
    partial = "x[@index] partial[etp]"
    assert row_dims(module, Kind.GRAD_INPUT, slot, is_gated=False) == partial


def test_token_counts():
    assert is_token_count(ALL, "1") and is_token_count(ALL, "tokens_per_expert")
    assert not is_token_count(THIRD, "1") and not is_token_count(ALL, "0")
