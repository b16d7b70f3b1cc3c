"""A small transformer and its port, as the tensors of two traces, for map proposals.

The reference is named as in transformers, ``[in, out]`` matrices; the port has other
names, ``[heads, dim]`` apart, its batch in the second dim, perhaps layers stacked.
"""

from dataclasses import dataclass, field

import numpy as np

from tests.factories.traces import Tensor

D, HEADS, DIM, MLP, VOCAB, BATCH, SEQUENCE = 8, 4, 2, 32, 11, 2, 5


@dataclass
class Pair:
    """Two traces' tensors by text of their ids.

    Attributes:
        reference: Those of the reference.
        candidate: Those of the candidate.
    """

    reference: dict[str, np.ndarray] = field(default_factory=dict)
    candidate: dict[str, np.ndarray] = field(default_factory=dict)
    random: np.random.Generator = field(
        default_factory=lambda: np.random.default_rng(0)
    )

    def values(self, *shape: int) -> np.ndarray:
        return self.random.normal(size=shape).astype(np.float32)

    def add(self, reference: str, candidate: str, array, other=None) -> None:
        """A tensor of both; that of the candidate may lie in another way."""
        self.reference[f"step0/{reference}"] = array
        self.candidate[f"step0/{candidate}"] = array if other is None else other.copy()

    def activation(self, reference: str, candidate: str, kind: str, slots=(0, 0)):
        """An activation whose values differ by rounding."""
        array = self.values(BATCH, SEQUENCE, D)
        noisy = array * (1 + 1e-6 * self.values(*array.shape))
        self.add(
            f"mb0/{reference}/{kind}/{slots[0]}",
            f"mb0/{candidate}/{kind}/{slots[1]}",
            array,
            noisy.astype(np.float32).transpose(1, 0, 2),
        )

    def sharded(self, axis: str = "tp") -> dict[str, Tensor]:
        """The candidate's tensors, each cut along its last dim."""
        return {
            name: Tensor(full=array, dims=_cut(array, axis))
            for name, array in self.candidate.items()
        }


def _cut(array: np.ndarray, axis: str) -> str:
    names = [f"d{n}" for n in range(array.ndim)]
    if names:
        names[-1] += f"[{axis}:chunk]"
    return " ".join(names)


def make_nested() -> Pair:
    """A linear within two modules of the reference, and within one of the port."""
    pair = Pair()
    pair.add("top.block.fc/param/w", "body.up/param/w", pair.values(5, 3))
    pair.add("top.head/param/w", "out/param/w", pair.values(4, 4))
    pair.activation("top.block.fc", "body.up", "output")
    pair.activation("top.block", "body", "output")
    return pair


def make_port(num_layers: int = 3, *, activations: bool = True) -> Pair:
    """Both runs; norms are ones and zeros, biases zeros, all else is random."""
    pair = Pair()
    pair.add("model.wte/param/weight", "embed/param/embedding", pair.values(VOCAB, D))
    for i in range(num_layers):
        _add_layer(pair, f"model.h.{i}", f"blocks.{i}", activations=activations)
    _add_norm(pair, "model.ln_f", "final")
    if activations:
        pair.activation("model.ln_f", "final", "output")
        tokens = pair.random.integers(0, VOCAB, (BATCH, SEQUENCE))
        pair.add("mb0/@root/input/input_ids", "mb0/@root/input/0", tokens)
    pair.add("@root/loss", "@root/loss", np.ones((), np.float32))
    return pair


def _add_norm(pair: Pair, reference: str, candidate: str) -> None:
    ones, zeros = np.ones(D, np.float32), np.zeros(D, np.float32)
    pair.add(f"{reference}/param/weight", f"{candidate}/param/scale", ones)
    pair.add(f"{reference}/param/bias", f"{candidate}/param/bias", zeros)


def _add_layer(pair: Pair, own: str, other: str, *, activations: bool) -> None:
    fused = pair.values(D, 3 * HEADS * DIM)
    pair.reference[f"step0/{own}.attn.c_attn/param/weight"] = fused
    pair.reference[f"step0/{own}.attn.c_attn/param/bias"] = np.zeros(
        3 * HEADS * DIM, np.float32
    )
    kernels = fused.reshape(D, 3, HEADS, DIM).transpose(1, 0, 2, 3)
    for name, kernel in zip(("query", "key", "value"), kernels, strict=True):
        pair.candidate[f"step0/{other}.attn.{name}/param/kernel"] = kernel.copy()
        pair.candidate[f"step0/{other}.attn.{name}/param/bias"] = np.zeros(
            (HEADS, DIM), np.float32
        )
    out = pair.values(HEADS * DIM, D)
    pair.add(
        f"{own}.attn.c_proj/param/weight",
        f"{other}.attn.out/param/kernel",
        out,
        out.reshape(HEADS, DIM, D),
    )
    up = pair.values(MLP, D)
    pair.add(f"{own}.mlp.fc/param/weight", f"{other}.mlp.up/param/kernel", up, up.T)
    pair.add(
        f"{own}.mlp.fc/param/bias",
        f"{other}.mlp.up/param/bias",
        np.zeros(MLP, np.float32),
    )
    _add_norm(pair, f"{own}.ln_1", f"{other}.norm1")
    _add_norm(pair, f"{own}.ln_2", f"{other}.norm2")
    if not activations:
        return
    heads = pair.values(BATCH, SEQUENCE, 3, HEADS, DIM)
    pair.reference[f"step0/mb0/{own}.attn.c_attn/output/0"] = heads.reshape(
        BATCH, SEQUENCE, -1
    )
    for number, name in enumerate(("query", "key", "value")):
        part = heads[:, :, number].copy()
        pair.candidate[f"step0/mb0/{other}.attn.{name}/output/0"] = part
    pair.activation(f"{own}.attn", f"{other}.attn", "input", ("hidden_states", 0))
    pair.activation(f"{own}.attn", f"{other}.attn", "output")
    for reference, candidate in (
        ("mlp", "mlp"),
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("mlp.fc", "mlp.up"),
        ("mlp.act", "mlp.gelu"),
    ):
        for kind in ("input", "output", "grad_output", "grad_input"):
            pair.activation(f"{own}.{reference}", f"{other}.{candidate}", kind)
    pair.activation(own, other, "output")


def stacked(candidate: dict[str, np.ndarray], num_layers: int) -> dict[str, np.ndarray]:
    """The port with its layers in a scan: stacked parameters, activations as calls."""
    made: dict[str, np.ndarray] = {}
    for name, array in candidate.items():
        if "blocks." not in name:
            made[name] = array
            continue
        for i in range(num_layers):
            if f"blocks.{i}" not in name:
                continue
            bare = name.replace(f"blocks.{i}", "blocks")
            if "/param/" in name:
                if i == 0:
                    layers = [
                        candidate[name.replace("blocks.0", f"blocks.{n}")]
                        for n in range(num_layers)
                    ]
                    made[bare] = np.stack(layers)
            else:
                made[bare + (f"/call{i}" if i else "")] = array
    return made
