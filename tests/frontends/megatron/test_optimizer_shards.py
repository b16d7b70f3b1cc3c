"""What an optimizer holds of each parameter, on small stand-ins for Megatron's."""

import types
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("megatron.core")

import torch  # noqa: E402

from ttrace.examples.megatron_gpt import warnings_of_megatron  # noqa: E402

warnings_of_megatron.quiet()

from megatron.core.optimizer.distrib_optimizer import (  # noqa: E402
    DistributedOptimizer,
    Range,
)
from megatron.core.optimizer.optimizer import (  # noqa: E402
    ChainedOptimizer,
    Float16OptimizerWithFloat16Params,
    FP32Optimizer,
)

from ttrace.errors import UsageError  # noqa: E402
from ttrace.frontends.megatron_parts.optimizer_shards import OptimizerShards  # noqa: E402
from ttrace.frontends.torch_parts.description import (  # noqa: E402
    FlatPart,
    NamedParameter,
    NoLayout,
)

KEY = (torch.float32, torch.float32)


def config(**options: bool) -> types.SimpleNamespace:
    names = (
        "use_precision_aware_optimizer",
        "use_precision_aware_optimizer_no_fp8_or_ds_fp8",
        "optimizer_cpu_offload",
    )
    return types.SimpleNamespace(**{**dict.fromkeys(names, False), **options})


def chunk(**parameters: torch.nn.Parameter) -> torch.nn.Module:
    module = torch.nn.Module()
    for name, parameter in parameters.items():
        module.register_parameter(name, parameter)
    return module


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    """A parameter with the ``main_grad`` that Megatron puts on it."""
    new: Any = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    new.main_grad = torch.arange(new.numel(), dtype=torch.float32).view(shape)
    return new


def named(parameter: torch.nn.Parameter) -> NamedParameter:
    return NamedParameter(module="m", slot="weight", parameter=parameter)


def after_a_step(*updated: torch.Tensor) -> torch.optim.Optimizer:
    """Adam with its state, which has the shapes of what it updates."""
    adam = torch.optim.Adam(list(updated))
    for tensor in updated:
        tensor.grad = torch.ones_like(tensor)
    adam.step()
    return adam


def optimizer_of(cls: Any, **attributes: object) -> Any:
    """An optimizer of one of Megatron's classes, which cannot be built on a CPU."""
    optimizer = cls.__new__(cls)
    options = {"config": config(), "is_stub_optimizer": False, **attributes}
    for name, value in options.items():
        setattr(optimizer, name, value)
    return optimizer


def distributed(
    model_parameter: torch.nn.Parameter, start: int, stop: int, **attributes: object
):
    """Owns a range of one float32 parameter, which lies at the start of its buffer."""
    part = model_parameter.detach().view(-1)[start:stop]
    part = torch.nn.Parameter(part)
    ranges = {"param": Range(start, stop), "gbuf_world": Range(start, stop)}
    owned = {model_parameter: ranges} if stop > start else {}
    groups = [[model_parameter]] if owned else [[]]
    options = {
        "ddp_config": types.SimpleNamespace(use_megatron_fsdp=False),
        "buffers": [types.SimpleNamespace(params=[model_parameter])],
        "gbuf_ranges": [{KEY: [{"param_map": owned}]}],
        "model_param_gbuf_map": dict.fromkeys(owned, (0, KEY, 0)),
        "model_float16_groups": [],
        "shard_fp32_from_float16_groups": [],
        "model_fp32_groups": groups,
        "shard_fp32_groups": [[part]] if owned else [[]],
        "optimizer": after_a_step(part),
        **attributes,
    }
    return optimizer_of(DistributedOptimizer, **options)


class TestReplicated:
    def test_float32_holds_whole_parameters(self):
        weight = parameter(2, 3)
        optimizer = optimizer_of(FP32Optimizer, optimizer=after_a_step(weight))
        optimizer_shards = OptimizerShards(optimizer, [chunk(weight=weight)])
        assert optimizer_shards.main_grad(named(weight)) is weight.main_grad
        state = optimizer_shards.state(named(weight))
        assert isinstance(state, dict)
        assert sorted(state) == ["exp_avg", "exp_avg_sq", "step"]
        average = state["exp_avg"]
        assert isinstance(average, torch.Tensor) and average.shape == (2, 3)

    def test_sixteen_bits_have_a_copy_in_float32(self):
        weight, main_param = parameter(4, dtype=torch.bfloat16), parameter(4)
        optimizer = optimizer_of(
            Float16OptimizerWithFloat16Params,
            optimizer=after_a_step(main_param),
            float16_groups=[[weight]],
            fp32_from_float16_groups=[[main_param]],
        )
        optimizer_shards = OptimizerShards(optimizer, [chunk(weight=weight)])
        state = optimizer_shards.state(named(weight))
        assert isinstance(state, dict)
        assert state["main_param"] is main_param
        average = state["exp_avg"]
        assert isinstance(average, torch.Tensor) and average.dtype == torch.float32

    def test_what_no_optimizer_updates_has_no_state(self):
        weight, frozen = parameter(2), parameter(2)
        frozen.requires_grad_(False)
        optimizer = optimizer_of(FP32Optimizer, optimizer=after_a_step(weight))
        optimizer_shards = OptimizerShards(
            optimizer, [chunk(weight=weight, frozen=frozen)]
        )
        assert optimizer_shards.state(named(frozen)) is None
        assert optimizer_shards.main_grad(named(frozen)) is None

    def test_a_model_without_gradient_buffers_is_skipped_visibly(self):
        weight = torch.nn.Parameter(torch.zeros(2))
        optimizer = optimizer_of(FP32Optimizer, optimizer=after_a_step(weight))
        optimizer_shards = OptimizerShards(optimizer, [chunk(weight=weight)])
        skipped = optimizer_shards.main_grad(named(weight))
        assert isinstance(skipped, NoLayout) and "main_grad" in skipped.reason

    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ("use_precision_aware_optimizer", "an encoding of its own"),
            ("optimizer_cpu_offload", "offloaded to the CPU"),
        ],
    )
    def test_hidden_state_is_skipped_with_the_reason(self, option, reason):
        weight = parameter(2)
        optimizer = optimizer_of(
            FP32Optimizer,
            optimizer=after_a_step(weight),
            config=config(**{option: True}),
        )
        skipped = OptimizerShards(optimizer, [chunk(weight=weight)]).state(
            named(weight)
        )
        assert isinstance(skipped, NoLayout) and reason in skipped.reason

    def test_momentum_that_does_not_exist_is_no_state(self):
        weight = parameter(2)
        sgd = torch.optim.SGD([weight], lr=0.1)
        weight.grad = torch.ones(2)
        sgd.step()
        optimizer = optimizer_of(FP32Optimizer, optimizer=sgd)
        optimizer_shards = OptimizerShards(optimizer, [chunk(weight=weight)])
        assert optimizer_shards.state(named(weight)) == {}


class TestDistributed:
    def test_gradient_parameter_and_state_are_the_owned_range(self):
        weight = parameter(2, 3)
        optimizer_shards = OptimizerShards(
            distributed(weight, 2, 6), [chunk(weight=weight)]
        )
        main_grad = optimizer_shards.main_grad(named(weight))
        assert isinstance(main_grad, FlatPart)
        assert (main_grad.start, main_grad.values.tolist()) == (2, [2, 3, 4, 5])
        updated = optimizer_shards.updated_part(named(weight))
        assert isinstance(updated, FlatPart)
        assert (updated.start, updated.values.numel()) == (2, 4)
        state = optimizer_shards.state(named(weight))
        assert isinstance(state, dict)
        for name in ("exp_avg", "exp_avg_sq"):
            part = state[name]
            assert isinstance(part, FlatPart)
            assert (part.start, part.values.numel()) == (2, 4)
        assert state["step"] == 1.0

    def test_what_another_rank_owns_is_nothing_here(self):
        weight = parameter(2, 3)
        optimizer_shards = OptimizerShards(
            distributed(weight, 0, 0), [chunk(weight=weight)]
        )
        assert optimizer_shards.main_grad(named(weight)) is None
        assert optimizer_shards.updated_part(named(weight)) is None
        assert optimizer_shards.state(named(weight)) is None

    def test_a_chain_is_followed_and_links_without_parameters_are_not(self):
        dense, expert = parameter(4), parameter(6)
        chain = ChainedOptimizer.__new__(ChainedOptimizer)
        stub = optimizer_of(DistributedOptimizer, is_stub_optimizer=True)
        chain.chained_optimizers = [
            distributed(dense, 0, 2),
            stub,
            distributed(expert, 3, 6),
        ]
        chain.config = config()
        optimizer_shards = OptimizerShards(chain, [chunk(dense=dense, expert=expert)])
        parts = [optimizer_shards.main_grad(named(p)) for p in (dense, expert)]
        assert [p.start for p in parts if isinstance(p, FlatPart)] == [0, 3]


def _range_too_long(weight: torch.nn.Parameter):
    optimizer = distributed(weight, 2, 6)
    ranges = optimizer.gbuf_ranges[0][KEY][0]["param_map"][weight]
    ranges["param"] = Range(4, 8)
    return optimizer


def _part_of_another_size(weight: torch.nn.Parameter):
    optimizer = distributed(weight, 2, 6)
    optimizer.shard_fp32_groups = [[torch.nn.Parameter(torch.zeros(3))]]
    return optimizer


def _in_no_bucket(weight: torch.nn.Parameter):
    return distributed(parameter(4), 0, 0)


def _fsdp(weight: torch.nn.Parameter):
    fsdp = types.SimpleNamespace(use_megatron_fsdp=True)
    return distributed(weight, 2, 6, ddp_config=fsdp)


def _unknown(weight: torch.nn.Parameter):
    adam: Any = torch.optim.Adam([weight])
    adam.config = config()
    return adam


@pytest.mark.parametrize(
    ("make", "what", "got"),
    [
        (
            _range_too_long,
            "the distributed optimizer's range of a parameter contradicts its shape",
            "elements 4..8, 4 in the buffer, 4 updated",
        ),
        (
            _part_of_another_size,
            "the distributed optimizer's range of a parameter contradicts its shape",
            "elements 2..6, 4 in the buffer, 3 updated",
        ),
        (
            _in_no_bucket,
            "a parameter lies in no bucket of the distributed optimizer",
            "1 of 1 outside",
        ),
        (_fsdp, "Megatron-FSDP cannot be traced yet", "use_megatron_fsdp=True"),
        (_unknown, "this class of optimizer cannot be traced", "Adam"),
    ],
)
def test_contradictions_are_explained(
    make: Callable[[torch.nn.Parameter], object], what: str, got: str
):
    weight = parameter(2, 3)
    with pytest.raises(UsageError) as raised:
        OptimizerShards(make(weight), [chunk(weight=weight)])
    text = str(raised.value)
    assert what in text
    assert got in text
    assert "weight" in text or "megatron_adapter.trace" in text
