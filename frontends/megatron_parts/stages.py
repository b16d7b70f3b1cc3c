"""What a pipeline stage is of the whole model, and which of its tensors stand for it.

Every chunk of a pipeline has modules of the same path: the model itself, the stack of
layers, rotary embeddings. One process has each of them once. So of these, each tensor
is recorded where it is the one that the whole model would have.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ttrace.errors import UsageError
from ttrace.frontends.megatron_parts.matching import is_a
from ttrace.frontends.megatron_parts.names import (
    EMBEDDING,
    LAYERS,
    WORD_EMBEDDINGS,
    CanonicalModule,
    OwnedParameter,
    canonical_modules,
)
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh
from ttrace.ir.tensor_id import ROOT_MODULE

_STACKS = ("TransformerBlock", "MambaStack")
"""Classes that run the layers of a stage, and only these."""

_OUTSIDE = frozenset({Kind.OUTPUT, Kind.GRAD_OUTPUT})

_FIRST_STAGE_INPUTS = frozenset(
    {"0", "1", "input_ids", "position_ids", "tokentype_ids"}
)
_LAST_STAGE_INPUTS = frozenset({"4", "labels", "lm_labels", "loss_mask"})
"""Arguments of the model that only the first, or only the last stage computes with:
what the others are given is not used, and often None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One model chunk of one rank.

    Attributes:
        is_first: It embeds the tokens.
        is_last: It computes logits and loss.
        predicts_ahead: It holds the layers of multi-token prediction (MTP).
    """

    is_first: bool = True
    is_last: bool = True
    predicts_ahead: bool = False

    def is_recorded(
        self, path: str, kind: Kind, slot: str, *, is_cut: bool = False
    ) -> bool:
        """Whether a tensor of a module is the one that the whole model would have.

        Args:
            path: Canonical path of the module.
            kind: Input, output or the gradient of one.
            slot: Position or name of the argument or output.
            is_cut: It is a stack of layers of which other stages run others.
        """
        is_cut = is_cut or path == LAYERS
        if (path == ROOT_MODULE or is_cut) and kind in _OUTSIDE:
            return self.is_last
        if path == ROOT_MODULE and slot in _FIRST_STAGE_INPUTS:
            return self.is_first
        if path == ROOT_MODULE and slot in _LAST_STAGE_INPUTS:
            return self.is_last
        if path == ROOT_MODULE:
            return self.is_first or self.is_last
        return not is_cut or self.is_first

    def num_earlier_calls(self, path: str) -> int:
        """Calls of a module, in a micro-batch, by the stages before this one.

        With multi-token prediction the last stage embeds the shifted tokens with a copy
        of the embedding, which the first stage has called before.
        """
        is_embedding = path == EMBEDDING or path.startswith(f"{EMBEDDING}.")
        return int(is_embedding and self.predicts_ahead and not self.is_first)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedModule:
    """A module of one chunk.

    Attributes:
        canonical: The module under its canonical path.
        stage: The stage that it is part of.
        is_repeated: An earlier chunk of this rank has a module of the same path.
        is_cut: It is a stack of layers of which other stages run others.
    """

    canonical: CanonicalModule
    stage: Stage
    is_repeated: bool
    is_cut: bool = False

    def is_recorded(self, kind: Kind, slot: str) -> bool:
        """Whether a tensor of it is the one that the whole model would have."""
        path = self.canonical.path
        if self.is_repeated and path not in (ROOT_MODULE, LAYERS) and not self.is_cut:
            return False
        return self.stage.is_recorded(path, kind, slot, is_cut=self.is_cut)


def placed_modules(
    models: Sequence[torch.nn.Module], stages: Sequence[Stage], *, ep_rank: int
) -> Iterator[PlacedModule]:
    """Every module of all chunks.

    Args:
        models: The chunks of this rank, without their wrappers.
        stages: What they are of the whole model.
        ep_rank: This rank's coordinate on the axis ``ep``.
    """
    seen: set[str] = set()
    for model, stage in zip(models, stages, strict=True):
        for canonical in list(canonical_modules(model, ep_rank=ep_rank)):
            is_repeated = canonical.path in seen
            seen.add(canonical.path)
            yield PlacedModule(
                canonical=canonical,
                stage=stage,
                is_repeated=is_repeated,
                is_cut=_is_cut(canonical.module),
            )


def _is_cut(module: Any) -> bool:
    """Whether a module is a stack of layers that has not all of them.

    By what it holds, whatever its name: the encoder of BERT is one like the decoder of
    GPT, while a tower that one stage runs alone is whole.
    """
    layers = getattr(module, "layers", None)
    num_layers = getattr(getattr(module, "config", None), "num_layers", None)
    return (
        is_a(module, *_STACKS)
        and isinstance(layers, torch.nn.ModuleList)
        and isinstance(num_layers, int)
        and len(layers) < num_layers
    )


def copied_modules(model: torch.nn.Module, config: Any) -> frozenset[str]:
    """Paths of the modules whose parameters both end stages of a pipeline hold.

    Args:
        model: Any chunk.
        config: Megatron's ``TransformerConfig``.
    """
    if getattr(config, "mtp_num_layers", None):
        parts = ("word_embeddings", "position_embeddings", "tokentype_embeddings")
        return frozenset(f"{EMBEDDING}.{part}" for part in parts)
    is_tied = getattr(model, "share_embeddings_and_output_weights", False)
    return frozenset({WORD_EMBEDDINGS} if is_tied else ())


def stages_of(models: Sequence[torch.nn.Module], mesh: Mesh) -> list[Stage]:
    """What the chunks of this rank are of the whole model.

    Args:
        models: The chunks in order, without their wrappers.
        mesh: The mesh ``dense``.

    Raises:
        UsageError: A stage does not say whether it is the first or last one.
    """
    num_stages = mesh.sizes["pp"] * len(models)
    stages = []
    for index, model in enumerate(models):
        number = index * mesh.sizes["pp"] + mesh.coords["pp"]
        expected = {
            "pre_process": number == 0,
            "post_process": number == num_stages - 1,
        }
        for name, value in expected.items():
            found = getattr(model, name, value if num_stages == 1 else None)
            if found != value:
                raise UsageError(
                    "a model chunk is not the pipeline stage that its place makes it",
                    where=f"model chunk {index} of {len(models)}, pipeline rank "
                    f"{mesh.coords['pp']} of {mesh.sizes['pp']}",
                    expected=f"{name}={value}: stage {number} of {num_stages}",
                    got=f"{name}={found}",
                    remedy="give trace() all chunks of the rank in the order of their "
                    "virtual stages, built with pre_process, post_process and vp_stage",
                )
        predicts_ahead = bool(getattr(model, "mtp_process", False))
        if predicts_ahead and not expected["post_process"]:
            raise UsageError(
                "layers of multi-token prediction on an inner pipeline stage cannot be "
                "traced",
                where=f"model chunk {index} of {len(models)}, pipeline rank "
                f"{mesh.coords['pp']} of {mesh.sizes['pp']}",
                expected="all of them on the last stage",
                got=f"some on stage {number} of {num_stages}",
                remedy="put them on the last stage in pipeline_model_parallel_layout",
            )
        stages.append(
            Stage(
                is_first=expected["pre_process"],
                is_last=expected["post_process"],
                predicts_ahead=predicts_ahead,
            )
        )
    return stages


def require_distinct(parameters: Sequence[OwnedParameter]) -> None:
    """Refuses chunks of one rank that hold the same parameter.

    Raises:
        UsageError: Two parameters have one name.
    """
    counts = Counter(f"{o.named.module}.{o.named.slot}" for o in parameters)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UsageError(
            "two model chunks of this rank hold a parameter of the same name",
            where=twice[0],
            expected="layers numbered over all virtual stages",
            got=f"{len(twice)} names that occur twice",
            remedy="build every chunk with its own vp_stage",
        )
