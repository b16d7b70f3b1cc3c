import json

import pytest

from ttrace.errors import DtypeError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Mesh, whole
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord, TensorRecord

ID = parse_tensor_id("step0/mb1/decoder.layers.3.mlp/output/0")
MESH = Mesh(name="dense", sizes={"dp": 2, "tp": 2}, coords={"dp": 0, "tp": 1})


def through_json(value: dict) -> dict:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "record",
    [
        ShardRecord(
            id=ID, rank=1, sequence=0, dtype="float32", layout=whole((4,), "dense")
        ),
        ShardRecord(
            id=ID,
            rank=1,
            sequence=7,
            dtype="bfloat16",
            layout=parse_dims("s b h[tp] partial[dp]").lower((4, 1, 8), MESH),
            scale=0.5,
            exact_replicas=True,
        ),
        ShardRecord(
            id=ID,
            rank=1,
            sequence=8,
            dtype="float8_e4m3fn",
            layout=parse_dims("(f[tp] h)[dp:chunk]").lower((6, 3), MESH),
        ),
    ],
)
def test_a_shard_round_trips(record):
    value = through_json(record.to_json())
    assert ShardRecord.from_json(value, rank=1) == record


def test_defaults_are_left_out_of_the_json():
    record = ShardRecord(
        id=ID, rank=1, sequence=0, dtype="float32", layout=whole((2, 3), "dense")
    )
    assert record.to_json() == {
        "id": "step0/mb1/decoder.layers.3.mlp/output/0",
        "sequence": 0,
        "dtype": "float32",
        "layout": {
            "global_shape": [2, 3],
            "local_shape": [2, 3],
            "blocks": [[[0, 0], [2, 3], [0, 0]]],
            "mesh": "dense",
        },
    }


def test_a_shard_has_a_dtype_that_can_be_stored():
    with pytest.raises(DtypeError):
        ShardRecord(id=ID, rank=0, sequence=0, dtype="qint8", layout=whole((), "m"))


def test_a_skipped_tensor_round_trips():
    record = SkippedRecord(id=ID, rank=2, sequence=3, reason="no layout rule for Foo")
    value = through_json(record.to_json())
    assert value["skipped"] == "no layout rule for Foo"
    assert SkippedRecord.from_json(value, rank=2) == record


@pytest.mark.parametrize(
    "info",
    [
        RankInfo(
            run_id="a1",
            rank=0,
            world_size=1,
            recorded_ranks=(0,),
            framework="torch",
        ),
        RankInfo(
            run_id="a1",
            rank=1,
            world_size=4,
            recorded_ranks=(0, 1),
            framework="megatron",
            versions={"torch": "2.13.0"},
            meshes=(
                MESH,
                Mesh(name="expert", sizes={"ep": 4}, coords={"ep": 1}),
            ),
            settings={"tf32": False, "tp": 2, "dtype": "bf16", "clip": 1.0, "x": None},
            capture={"kinds": "output"},
            noise_seed=3,
        ),
    ],
)
def test_a_rank_round_trips(info):
    assert RankInfo.from_json(through_json(info.to_json())) == info


def test_a_mesh_by_name():
    info = RankInfo(
        run_id="a1",
        rank=1,
        world_size=4,
        recorded_ranks=(1,),
        framework="torch",
        meshes=(MESH,),
    )
    assert info.mesh("dense") is MESH
    with pytest.raises(KeyError):
        info.mesh("expert")


def test_a_tensor_has_the_shape_of_its_shards():
    layout = parse_dims("h[tp]").lower((8,), MESH)
    shard = ShardRecord(id=ID, rank=0, sequence=0, dtype="float32", layout=layout)
    assert TensorRecord(id=ID, shards=(shard,)).global_shape == (8,)
