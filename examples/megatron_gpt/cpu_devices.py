"""Stand-ins that let unmodified megatron-core train on a CPU over gloo.

Each replaces a facility of the *device*: device ids, streams, the CUDA generator,
pinned memory, tensor type names, names that exist only next to CUDA packages. No
collective, schedule, autograd function, optimizer or gradient synchronization of
Megatron is touched, so what is traced is Megatron's own computation.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_CPU = torch.device("cpu")


def install() -> None:
    """Installs the stand-ins for the life of the process; a second call does nothing.

    Must run before ``megatron.core`` is imported: it compiles functions and looks
    devices up at import.
    """
    if getattr(torch.cuda, "_is_ttrace_stand_in", False):
        return
    # Megatron warns without it, and needs it on real devices only.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    _disable_compilation()
    _replace_devices_and_streams()
    _replace_generators()
    _redirect_placement()
    _answer_type_with_cuda_names()
    _let_gloo_take_unequal_sizes()
    _complete_megatron()
    _replace(torch.cuda, {"_is_ttrace_stand_in": True})


def _replace(owner: Any, members: dict[str, Any]) -> None:
    for name, value in members.items():
        setattr(owner, name, value)


def _no_op() -> Callable[..., None]:
    # One function per name: torch looks functions up by identity, and refuses to start
    # its compiler where two names of torch.cuda are the same object.
    def do_nothing(*args, **kwargs) -> None:
        pass

    return do_nothing


def _disable_compilation() -> None:
    # Megatron decorates its small fused functions with torch.compile: minutes of C++
    # compilation on a CPU, for a step of milliseconds. Read at every decoration.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"


class _Stream:
    """A stream or an event; on a CPU everything is in order already."""

    def __init__(self, *args, **kwargs):
        pass

    wait_stream = wait_event = record = wait = synchronize = _no_op()

    def record_event(self, *args) -> "_Stream":
        return _Stream()

    def query(self) -> bool:
        return True


def _replace_devices_and_streams() -> None:
    stream = _Stream()
    _replace(
        torch.cuda,
        {
            # Megatron uses the current device only as a `device=` argument.
            "current_device": lambda: _CPU,
            "set_device": _no_op(),
            "synchronize": _no_op(),
            "empty_cache": _no_op(),
            "is_current_stream_capturing": lambda: False,
            "Stream": _Stream,
            "Event": _Stream,
            "current_stream": lambda *args: stream,
            "default_stream": lambda *args: stream,
            "stream": lambda stream: contextlib.nullcontext(),
        },
    )
    _replace(torch.cuda.nvtx, {"range_push": _no_op(), "range_pop": _no_op()})
    _replace(torch.Tensor, {"record_stream": _no_op()})


def _replace_generators() -> None:
    # Megatron's tracker of CUDA generator states works on the CPU's generator instead,
    # and keeps its semantics: fork, restore, one state per kind of parallelism.
    def get_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    members = {
        "manual_seed": lambda seed: torch.default_generator.manual_seed(seed),
        "manual_seed_all": lambda seed: torch.default_generator.manual_seed(seed),
        "get_rng_state": get_state,
        "set_rng_state": set_state,
    }
    _replace(torch.cuda, members)
    _replace(torch.cuda.random, members)


_FACTORIES = (
    "tensor zeros ones empty full arange as_tensor zeros_like empty_like".split()
)
"""Functions that Megatron calls with a literal ``device="cuda"``, or pinned memory."""


def _redirect_placement() -> None:
    def on_cpu(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def make_on_cpu(*args, **kwargs) -> torch.Tensor:
            if "cuda" in str(kwargs.get("device")):
                kwargs["device"] = _CPU
            kwargs.pop("pin_memory", None)
            return make(*args, **kwargs)

        return make_on_cpu

    def unmoved(self, *args, **kwargs):
        return self

    _replace(torch, {name: on_cpu(getattr(torch, name)) for name in _FACTORIES})
    _replace(torch.Tensor, {"cuda": unmoved, "pin_memory": unmoved})
    _replace(torch.nn.Module, {"cuda": unmoved})


def _answer_type_with_cuda_names() -> None:
    # The optimizers sort parameters by `param.type() == "torch.cuda.FloatTensor"`.
    original = torch.Tensor.type

    def type_with_cuda_name(self, dtype=None, *args, **kwargs):
        if dtype is not None:
            return original(self, dtype, *args, **kwargs)
        name = original(self)
        return name if "cuda" in name else name.replace("torch.", "torch.cuda.", 1)

    _replace(torch.Tensor, {"type": type_with_cuda_name})


def _let_gloo_take_unequal_sizes() -> None:
    # Experts under tensor parallelism gather as many tokens as each rank happens to
    # have; NCCL takes lists of unequal tensors, gloo does not.
    all_gather, reduce_scatter = dist.all_gather, dist.reduce_scatter

    def have_equal_sizes(tensors: list[torch.Tensor]) -> bool:
        return len({tensor.shape for tensor in tensors}) == 1

    def all_gather_any(tensor_list, tensor, group=None, async_op=False):
        if have_equal_sizes(tensor_list):
            return all_gather(tensor_list, tensor, group=group, async_op=async_op)
        for rank, gathered in enumerate(tensor_list):
            if rank == dist.get_rank(group):
                gathered.copy_(tensor)
            dist.broadcast(gathered, group_src=rank, group=group)

    def reduce_scatter_any(
        output, input_list, op=dist.ReduceOp.SUM, group=None, async_op=False
    ):
        if have_equal_sizes(input_list):
            return reduce_scatter(
                output, input_list, op=op, group=group, async_op=async_op
            )
        for rank, tensor in enumerate(input_list):
            reduced = tensor.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(reduced, op=op, group=group)
            if rank == dist.get_rank(group):
                output.copy_(reduced)

    _replace(dist, {"all_gather": all_gather_any, "reduce_scatter": reduce_scatter_any})


class _NoFp8:
    """TransformerEngine's state of FP8, where that is off."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        return False


def _complete_megatron() -> None:
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    _replace(
        random,
        {
            "_get_cuda_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
            "_set_cuda_rng_state": lambda state, **kwargs: torch.set_rng_state(state),
        },
    )
    # The tracker warns when the CPU generator moves while a CUDA one is forked; here
    # they are the same generator.
    logging.getLogger(random.__name__).setLevel(logging.ERROR)
    # Imported from TransformerEngine and tested for None, but not defined without it.
    if not hasattr(moe_utils, "te_general_gemm"):
        _replace(moe_utils, {"te_general_gemm": None})
    # Asked whether FP8 is on by checkpoints that discard their output.
    if not hasattr(random, "FP8GlobalStateManager"):
        _replace(
            random,
            {
                "FP8GlobalStateManager": _NoFp8,
                "fp8_autocast": lambda *args, **kwargs: contextlib.nullcontext(),
                "activation_recompute_forward": lambda *args, **kwargs: (
                    contextlib.nullcontext()
                ),
            },
        )

    _complete_attention()

    # Split sizes become numbers only where they lie on a GPU; gloo wants numbers too.
    def split_sizes(tensor, as_numpy=False, record_stream=False):
        is_tensor = isinstance(tensor, torch.Tensor)
        return tensor.numpy() if as_numpy and is_tensor else tensor

    for module in (moe_utils, token_dispatcher):
        _replace(module, {"maybe_move_tensor_to_cpu": split_sizes})


def _complete_attention() -> None:
    # Packages of GPU kernels that variants of attention import: a normalization, and
    # Hadamard's matrix. What Megatron computes with them is untouched.
    try:
        from megatron.core.ssm import gated_delta_net
        from megatron.core.transformer.experimental_attention_variant import dsa
    except ImportError:  # before megatron-core 0.16
        return
    if not gated_delta_net.HAVE_FLA:
        _replace(gated_delta_net, {"HAVE_FLA": True, "l2norm": _l2norm})
    if dsa.hadamard_transform is None:
        _replace(dsa, {"rotate_activation": _rotate})


def _l2norm(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def _rotate(x: torch.Tensor) -> torch.Tensor:
    """Times Hadamard's matrix, scaled to keep the norm; the size is a power of 2."""
    size = x.size(-1)
    step = 1
    while step < size:
        pairs = x.unflatten(-1, (size // (2 * step), 2, step))
        upper, lower = pairs.unbind(-2)
        x = torch.stack((upper + lower, upper - lower), dim=-2).flatten(-3)
        step *= 2
    return x * size**-0.5
