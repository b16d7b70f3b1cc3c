"""Layers that several stages of a pipeline run, each of which is to be in one."""

from collections.abc import Mapping

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.trace import TraceInfo

_PIPELINE = "pp"
"""Name of the axis of a mesh along which stages lie."""


class Stages:
    """Which layers the ranks of a run have: told by what they recorded.

    Layers are modules with a number, the outermost such: experts of a layer, which
    ranks divide, too, are none.

    Args:
        info: The run.

    Attributes:
        layers: By rank those that it runs; those of which it holds parameters, where no
            rank recorded what a module is given or returns.
    """

    def __init__(self, info: TraceInfo):
        ran: dict[int, set[str]] = {}
        held: dict[int, set[str]] = {}
        for id_, record in info.tensors.items():
            layer = layer_of(id_.module)
            if layer is None:
                continue
            for found, is_told in (
                (ran, id_.kind in ACTIVATIONS),
                (held, id_.kind in (Kind.PARAM, Kind.UPDATED_PARAM)),
            ):
                if is_told:
                    for shard in record.shards:
                        found.setdefault(shard.rank, set()).add(layer)
        self.layers: Mapping[int, frozenset[str]] = {
            rank: frozenset(layers) for rank, layers in (ran or held).items()
        }
        self._of_pipeline = {
            rank.rank: mesh.coords[_PIPELINE]
            for rank in info.ranks
            for mesh in rank.meshes
            if _PIPELINE in mesh.coords
        }

    def repeated_layer(self, module: str, rank: int, other: int) -> str | None:
        """The layer around a module that two stages have; None if it is not so.

        They are stages if they are so on a mesh, or if either has layers that the
        other lacks.

        Args:
            module: Its path.
            rank: Of the one stage.
            other: Of the other one.
        """
        layer = layer_of(module)
        ours = self.layers.get(rank, frozenset())
        theirs = self.layers.get(other, frozenset())
        is_of_both = layer is not None and layer in ours and layer in theirs
        are_stages = self._of_pipeline.get(rank) != self._of_pipeline.get(other)
        are_stages = are_stages or bool(ours - theirs and theirs - ours)
        return layer if is_of_both and are_stages else None


def layer_of(module: str) -> str | None:
    """The path up to its first number: ``decoder.layers.3``; None if it has none."""
    parts = module.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return None
