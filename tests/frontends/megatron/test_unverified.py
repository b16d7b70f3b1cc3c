"""Which modules are named as never compared, and that the log says so."""

import pytest

pytest.importorskip("torch")

import torch  # noqa: E402

from ttrace.frontends.megatron_parts.unverified import (  # noqa: E402
    unverified_classes,
    warn_of_unverified,
)


def module(name: str, package: str, base: type = torch.nn.Module) -> torch.nn.Module:
    made = type(name, (base,), {"__module__": package})()
    assert isinstance(made, torch.nn.Module)
    return made


FUSED = module("TELinear", "megatron.core.extensions.transformer_engine")
NORM = module("RMSNorm", "transformer_engine.pytorch.module.rmsnorm")
MINE = module("MyLinear", "__main__", type(FUSED))
GROUPED = module("GroupedMLP", "megatron.core.transformer.moe.experts")
LOCAL = module("RowParallelLinear", "megatron.core.tensor_parallel.layers")


def test_what_needs_a_gpu_is_named_with_what_derives_from_it():
    names = unverified_classes([FUSED, NORM, NORM, LOCAL, MINE, GROUPED])
    assert names == ["GroupedMLP", "MyLinear", "RMSNorm", "TELinear"]


def test_what_has_been_run_is_not():
    assert unverified_classes([LOCAL, torch.nn.LayerNorm(2)]) == []


def test_the_log_says_so_once(caplog):
    warn_of_unverified([FUSED, NORM])
    warn_of_unverified([LOCAL])
    (message,) = caplog.messages
    assert message.startswith("ttrace: the layouts of RMSNorm, TELinear follow from")
    assert "skipped with the reason" in message
