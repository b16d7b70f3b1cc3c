"""Traces of many tensors or many ranks, for measuring what grows with either."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Mesh, ShardLayout, whole
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.ir.trace import RankInfo, ShardRecord
from ttrace.store.writer import TraceWriter
from ttrace.testing import cut_partial, meshes

MESH = "dense"

NOISE = 1e-7
"""Of a candidate's values against the reference's."""

_TINY = (4, 8)

_PARAMETERS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
_KINDS = ("output", "grad_output", "main_grad", "updated_param")


def write_safetensors(path: Path, num_tensors: int, *, noise: float = 0.0) -> None:
    """One file of tiny float32 tensors, under the names of a deep transformer."""
    values = _values("all", (num_tensors, *_TINY), noise)
    size = values[0].nbytes
    header = {
        f"layers.{number // 4}.{_PARAMETERS[number % 4]}.weight": {
            "dtype": "F32",
            "shape": list(_TINY),
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(num_tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())


def write_one_tensor(path: Path, num_elements: int, *, noise: float = 0.0) -> None:
    """A file of one float8 tensor, zeros but for its ends; it takes no room on a disk.

    With noise the last element but one is larger by one unit in the last place.
    """
    entry = {
        "dtype": "F8_E4M3",
        "shape": [num_elements],
        "data_offsets": [0, num_elements],
    }
    text = json.dumps({"layer.weight": entry}).encode()
    text += b" " * (-len(text) % 8)
    one = 0x38
    with open(path, "wb") as file:
        start = file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(start + num_elements)
        file.seek(start + 1)
        file.write(bytes([one]))
        file.seek(start + num_elements - 2)
        file.write(bytes([one + bool(noise)]))


def write_tiny_trace(path: Path, num_tensors: int, *, noise: float = 0.0) -> None:
    """A native trace of one rank: four kinds of tiny float32 tensors."""
    info = _rank_infos({"tp": 1})[0]
    values = _values("all", (num_tensors, *_TINY), noise)
    layout = whole(_TINY, MESH)
    with TraceWriter(path, info) as writer:
        for sequence, id_ in enumerate(_tiny_ids(num_tensors)):
            writer.add(
                ShardRecord(
                    id=id_, rank=0, sequence=sequence, dtype="float32", layout=layout
                ),
                values[sequence],
            )
    assert writer.failure is None, writer.failure


def _tiny_ids(num_tensors: int) -> Iterator[TensorId]:
    num_modules = -(-num_tensors // len(_KINDS))
    count = 0
    for kind in _KINDS:
        of_step = kind in ("main_grad", "updated_param")
        slot = "weight" if of_step else "0"
        for number in range(num_modules):
            if count == num_tensors:
                return
            module = f"layers.{number // 4}.{_PARAMETERS[number % 4]}"
            place = "step0" if of_step else "step0/mb0"
            yield parse_tensor_id(f"{place}/{module}/{kind}/{slot}")
            count += 1


SHARDED: Mapping[str, tuple[tuple[int, ...], str]] = {
    "step0/{m}.qkv/param/weight": ((1024, 16), "f[tp] h"),
    "step0/{m}.norm/param/weight": ((64,), "h"),
    "step0/mb0/{m}/input/0": ((2048, 2, 8), "s[cp:zigzag,tp] b h"),
    "step0/mb0/{m}.qkv/output/0": ((8, 2, 1024), "s[cp:zigzag] b f[tp]"),
    "step0/mb0/{m}.out/output/0": ((8, 2, 16), "s[cp:zigzag] b h partial[tp]"),
    "step0/mb0/{m}/output/0": ((2048, 2, 8), "s[cp:zigzag,tp] b h"),
    "step0/mb0/{m}.norm/param_grad/weight": ((64,), "h partial[tp,cp]"),
    "step0/{m}.qkv/main_grad/weight": ((1024, 16), "f[tp] h"),
    "step0/{m}.norm/main_grad/weight": ((64,), "h"),
    "step0/{m}.qkv/updated_param/weight": ((1024, 16), "f[tp] h"),
}
"""Ten tensors of a layer by id: shape and dims text; what is not sharded over ``dp`` is
replicated over it."""


def write_sharded_trace(
    path: Path, num_ranks: int, num_tensors: int = 200, *, noise: float = 0.0
) -> None:
    """A native trace of ``dp2 x cp2 x tp``, or of one rank; the same full tensors."""
    sizes = {"dp": 1, "cp": 1, "tp": 1}
    if num_ranks > 1:
        sizes = {"dp": 2, "cp": 2, "tp": num_ranks // 4}
    infos = _rank_infos(sizes)
    names = list(SHARDED)
    cut: dict[tuple[str, tuple[int, ...]], tuple[ShardLayout, np.ndarray]] = {}
    for info in infos:
        mesh = info.mesh(MESH)
        place = (mesh.coords["cp"], mesh.coords["tp"])
        with TraceWriter(path, info) as writer:
            for sequence in range(num_tensors):
                name = names[sequence % len(names)]
                shape, dims = SHARDED[name]
                if (name, place) not in cut:
                    is_given = "/param/" in name or "/input/" in name
                    cut[name, place] = _shard(
                        name, shape, dims, mesh, 0.0 if is_given else noise
                    )
                layout, array = cut[name, place]
                text = name.format(m=f"layers.{sequence // len(names)}")
                writer.add(
                    ShardRecord(
                        id=parse_tensor_id(text),
                        rank=info.rank,
                        sequence=sequence,
                        dtype="float32",
                        layout=layout,
                    ),
                    array,
                )
        assert writer.failure is None, writer.failure


def _shard(
    name: str, shape: tuple[int, ...], dims: str, mesh: Mesh, noise: float
) -> tuple[ShardLayout, np.ndarray]:
    layout = parse_dims(dims).lower(shape, mesh)
    return layout, cut_partial(_values(name, shape, noise), layout, mesh)


def _values(name: str, shape: tuple[int, ...], noise: float) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    factors = np.random.default_rng(seed + 1).standard_normal(shape, np.float32)
    return values * (1 + np.float32(noise) * factors) if noise else values


def _rank_infos(sizes: Mapping[str, int]) -> list[RankInfo]:
    ranks = meshes(MESH, sizes)
    return [
        RankInfo(
            run_id=f"run of {len(ranks)}",
            rank=rank,
            world_size=len(ranks),
            recorded_ranks=tuple(range(len(ranks))),
            framework="bench",
            meshes=(mesh,),
        )
        for rank, mesh in enumerate(ranks)
    ]
