"""Canonical names: the path a module would have if one process held the whole model.

Wrappers that only add ``module.`` are looked through, layers are numbered over the
whole model, local experts over all experts, and a parameter that two modules share has
the name of the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.ir.tensor_id import ROOT_MODULE

EMBEDDING = "embedding"
"""Path of the embeddings of a GPT model."""

LAYERS = "decoder"
"""Path of its stack of layers."""

WORD_EMBEDDINGS = f"{EMBEDDING}.word_embeddings"
"""Owns the weight that a tied output layer uses too."""

OUTPUT_LAYER = "output_layer"
"""Path of the linear that computes the logits."""

_CALLED_LATER = (
    *("q_layernorm", "kv_layernorm", "k_layernorm"),
    *("linear_q_up_proj", "linear_kv_up_proj"),
    *("core_attention", "linear_proj"),
)
"""Parts of attention that are registered before those they are called after, in the
order of their calls: the others go first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CanonicalModule:
    """A module under its canonical path.

    Attributes:
        path: Canonical path, ``@root`` for the model itself.
        module: The module.
        in_experts: It is, or is part of, the routed experts of a layer.
        parent: The module that it is a part of, lists of modules looked through; None
            for the model itself.
    """

    path: str
    module: torch.nn.Module
    in_experts: bool = False
    parent: torch.nn.Module | None = None

    @property
    def name(self) -> str:
        """Its name in the module that it is a part of."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnedParameter:
    """A parameter, its canonical name and the module that owns it.

    Attributes:
        named: The parameter under its canonical name.
        owner: The module that owns it, under its own path.
        is_unused: No computation reads it.
    """

    named: NamedParameter
    owner: CanonicalModule
    is_unused: bool = False


def unwrap(chunk: torch.nn.Module) -> torch.nn.Module:
    """The model inside its wrappers (DistributedDataParallel, Float16Module...)."""
    while isinstance(inner := getattr(chunk, "module", None), torch.nn.Module):
        chunk = inner
    return chunk


def canonical_modules(
    model: torch.nn.Module, *, ep_rank: int
) -> Iterator[CanonicalModule]:
    """Every module once, parents before children, children in the order of a forward.

    Args:
        model: A model chunk, without its wrappers.
        ep_rank: This rank's coordinate on the axis ``ep``.
    """
    root = CanonicalModule(path=ROOT_MODULE, module=model)
    yield from _walk(root, prefix="", ep_rank=ep_rank, seen=set())


def canonical_parameters(
    model: torch.nn.Module, *, ep_rank: int
) -> Iterator[OwnedParameter]:
    """Every parameter once, in the order of a forward pass.

    Args:
        model: A model chunk, without its wrappers.
        ep_rank: This rank's coordinate on the axis ``ep``.
    """
    is_tied = bool(getattr(model, "share_embeddings_and_output_weights", False))
    seen: set[torch.nn.Parameter] = set()
    has_embedding = False
    for owner in canonical_modules(model, ep_rank=ep_rank):
        for slot, parameter in owner.module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            module = owner.path
            is_unused = False
            if is_tied and module == OUTPUT_LAYER and slot == "weight":
                # With multi-token prediction the last stage has a copy of the embedding
                # too, and computes logits with that one.
                is_unused = has_embedding
                module = module if is_unused else WORD_EMBEDDINGS
            has_embedding |= module == WORD_EMBEDDINGS
            named = NamedParameter(module=module, slot=slot, parameter=parameter)
            yield OwnedParameter(named=named, owner=owner, is_unused=is_unused)


def _walk(
    parent: CanonicalModule,
    *,
    prefix: str,
    ep_rank: int,
    seen: set[torch.nn.Module],
) -> Iterator[CanonicalModule]:
    if parent.module in seen:
        return
    seen.add(parent.module)
    yield parent
    children = sorted(
        parent.module.named_children(),
        key=lambda child: (
            1 + _CALLED_LATER.index(child[0]) if child[0] in _CALLED_LATER else 0
        ),
    )
    list_name = parent.name
    is_list = isinstance(parent.module, torch.nn.ModuleList)
    for name, module in children:
        if list_name == "layers":
            name = _global_layer_index(name, module)
        elif list_name == "local_experts":
            name = str(ep_rank * len(children) + int(name))
        child = CanonicalModule(
            path=prefix + name,
            module=module,
            in_experts=parent.in_experts or _holds_experts(module),
            parent=parent.parent if is_list else parent.module,
        )
        yield from _walk(child, prefix=f"{child.path}.", ep_rank=ep_rank, seen=seen)


def _global_layer_index(name: str, layer: torch.nn.Module) -> str:
    # Megatron counts layers over all pipeline stages, from 1.
    number = getattr(layer, "layer_number", None)
    return str(number - 1) if isinstance(number, int) else name


def _holds_experts(module: torch.nn.Module) -> bool:
    # The routed experts of every implementation (SequentialMLP, GroupedMLP,
    # TEGroupedMLP); a single expert and the shared ones are plain MLPs.
    return isinstance(getattr(module, "num_local_experts", None), int) and not hasattr(
        module, "router"
    )
