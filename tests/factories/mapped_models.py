"""A model under its own names and under those of a port, and maps between the two."""

from pathlib import Path

import numpy as np

from tests.factories.traces import MemoryTrace, Tensor, Tensors, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.mapping.map_file import parse_map
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report, TensorReport

RANDOM = np.random.default_rng(0)
D, N, E, LAYERS, VOCAB = 8, 4, 3, 3, 10


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


FUSED = values(D, 3 * N * E)
QUERY, KEY, VALUE = FUSED.reshape(D, 3, N, E).transpose(1, 0, 2, 3).copy()
FC = [values(6, D) for _ in range(LAYERS)]
HIDDEN = [values(2, 5, D) for _ in range(LAYERS)]
EMBEDDING = values(VOCAB, D)
PADDED = np.concatenate([EMBEDDING, values(6, D)])
LOSS = np.ones((), np.float32)


def compare(
    text: str, reference: Tensors | MemoryTrace, candidate: Tensors | MemoryTrace
) -> Report:
    """Compares under a map; plain tensors are held whole by one rank."""
    if not isinstance(reference, MemoryTrace):
        reference = memory_trace(reference)
    if not isinstance(candidate, MemoryTrace):
        candidate = memory_trace(candidate)
    map_file = parse_map(text, Path("map.toml"))
    return compare_traces(reference, candidate, NumpyBackend(), map_file=map_file)


def by_id(report: Report) -> dict[str, TensorReport]:
    return {tensor.id: tensor for tensor in report.tensors}


def sharded(full: np.ndarray, dims: str) -> Tensor:
    return Tensor(full=full, dims=dims)


QKV = """
[[tensor]]
reference = "h.{i}.attn/{kind}/weight"
candidate = ["b{i}.q/{kind}/kernel", "b{i}.k/{kind}/kernel", "b{i}.v/{kind}/kernel"]
transform = "d n e -> d (t n e)"
join = "t"
"""
STACKED = """
[[tensor]]
reference = "h.{i}.fc/{kind}/weight"
candidate = "layers.fc/{kind}/kernel"
transform = "i a b -> b a"

[[tensor]]
reference = "h.{i}.fc/{kind}/0"
candidate = "layers.fc/{kind}/0/call{i}"
transform = "b s d -> s b d"
"""
EMBED = """
[[tensor]]
reference = "wte/{kind}/weight"
candidate = "embed/{kind}/embedding"
transform = "v d -> v d"
unpadded = { v = 10 }
"""


IGNORED = """
[[ignore]]
side = "{side}"
pattern = "{pattern}"
reason = "not in both"
"""


def reference_tensors() -> dict[str, np.ndarray]:
    tensors = {"step0/wte/param/weight": EMBEDDING}
    for kind in ("param/weight", "main_grad/weight", "optimizer_state/weight.exp_avg"):
        tensors[f"step0/h.0.attn/{kind}"] = FUSED
    for i in range(LAYERS):
        tensors[f"step0/h.{i}.fc/param/weight"] = FC[i]
        tensors[f"step0/mb0/h.{i}.fc/output/0"] = HIDDEN[i].transpose(1, 0, 2)
    return tensors | {"step0/@root/loss": LOSS}


def candidate_tensors(qkv="d n[tp] e", fc="i a b[tp]", v="v[tp] d", x="b s d"):
    tensors: dict[str, Tensor | np.ndarray] = {
        "step0/embed/param/embedding": sharded(PADDED, v)
    }
    for kind in ("param/kernel", "main_grad/kernel", "optimizer_state/kernel.mu"):
        for name, array in zip("qkv", (QUERY, KEY, VALUE), strict=True):
            tensors[f"step0/b0.{name}/{kind}"] = sharded(array, qkv)
    stack = np.stack(FC).transpose(0, 2, 1).copy()
    tensors["step0/layers.fc/param/kernel"] = sharded(stack, fc)
    for i in range(LAYERS):
        call = f"/call{i}" if i else ""
        tensors[f"step0/mb0/layers.fc/output/0{call}"] = sharded(HIDDEN[i], x)
    return tensors | {"step0/@root/loss": LOSS}
