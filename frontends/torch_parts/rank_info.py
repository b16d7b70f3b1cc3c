"""What a torch rank says about its run when its part of the trace is opened."""

import contextlib
from collections.abc import Mapping

import torch

from ttrace.frontends.torch_parts.description import ModelDescription
from ttrace.frontends.torch_parts.local_tensor import LocalTensor
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.computed_buffers import computed_setting
from ttrace.ir.frozen_parameters import frozen_setting
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh
from ttrace.ir.trace import RankInfo
from ttrace.recording.rank_recorder import make_rank_info
from ttrace.recording.request import RecordRequest


def rank_info_of(
    description: ModelDescription,
    request: RecordRequest,
    *,
    rank: int,
    world_size: int,
    settings: Mapping[str, str] | None = None,
) -> RankInfo:
    """What a rank says about its run.

    Args:
        description: Of the model.
        request: What was asked of the run.
        rank: Global rank.
        world_size: Number of ranks.
        settings: What else there is to say of the run.

    Raises:
        UsageError: The filters leave no rank.
    """
    dtypes = {
        str(named.parameter.dtype).removeprefix("torch.")
        for named in description.parameters()
    }
    return make_rank_info(
        request,
        rank=rank,
        world_size=world_size,
        framework=description.framework,
        versions=description.versions(),
        meshes=(*description.meshes(), *_meshes_of_parameters(description)),
        settings={
            **description.settings(),
            **computed_setting(_computed_buffers(description)),
            **frozen_setting(
                (named.module, named.slot)
                for named in description.parameters()
                if not named.parameter.requires_grad
            ),
            "parameter_dtypes": ",".join(sorted(dtypes)),
            "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            **(settings or {}),
        },
    )


def _computed_buffers(description: ModelDescription) -> list[tuple[str, str]]:
    """The buffers that no state dict holds, by module and name."""
    found = []
    with contextlib.suppress(Exception):  # torch keeps them in a private attribute
        for path, module in description.modules():
            for name in sorted(module._non_persistent_buffers_set):
                found.append((clean_name(path), clean_name(name)))
    return found


def _meshes_of_parameters(description: ModelDescription) -> list[Mesh]:
    """The meshes that parameters bring themselves, one of each name."""
    meshes: dict[str, Mesh] = {}
    for named in description.parameters():
        # What ttrace fails at here is skipped with its reason when it is recorded.
        with contextlib.suppress(Exception):
            answer = description.parameter(named, Kind.PARAM, named.parameter)
            if isinstance(answer, LocalTensor) and answer.mesh is not None:
                meshes.setdefault(answer.mesh.name, answer.mesh)
    return list(meshes.values())
