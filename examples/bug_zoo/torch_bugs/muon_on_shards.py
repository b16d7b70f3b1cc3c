"""Muon makes the shard that a rank has orthogonal, not the matrix."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MUON, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="muon_on_shards",
    title="Muon orthogonalises each rank's shard of a matrix",
    source="areal-project/AReaL PR 1270 (review), MoonshotAI/Moonlight #27",
    breaks="updates of all matrices in the layers; gradients are right",
    script=SCRIPT,
    model=MUON,
    layout=FSDP2,
    first_seen=(place("layers.*", Kind.UPDATED_PARAM),),
    expected_code="update_per_shard",
)


def before_build(args):
    from torch.distributed.tensor import DTensor

    from ttrace.examples.torch_native import optimization

    def orthogonalized(matrix):
        shard = right(matrix.to_local())
        return DTensor.from_local(shard, matrix.device_mesh, matrix.placements)

    right = optimization.orthogonalized
    optimization.orthogonalized = orthogonalized
