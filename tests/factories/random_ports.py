"""Random small models and their ports, with the truth: all that belongs together."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.factories.ports import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One module of the reference, and how the port has it.

    Attributes:
        kind: ``linear``, ``conv``, ``lstm``, ``attention`` or ``norm``.
        sizes: Two lengths, which may be equal.
        heads: Of an attention.
        fused: Query, key and value are one matrix of the reference.
        transposed: The port has ``[in, out]``.
        bias: There is one; ``zeros``, ``random`` or empty for none.
    """

    kind: str
    sizes: tuple[int, int]
    heads: int
    fused: bool
    transposed: bool
    bias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model.

    Attributes:
        layers: Its layers, in order.
        repeats: The whole is there so often, as blocks.
        stacked: The port has the blocks' parameters in one array each.
        positional: The port numbers its parameters and has no names.
        sequence_first: Activations of the port lie so.
        seed: Of all values.
    """

    layers: tuple[Layer, ...]
    repeats: int
    stacked: bool
    positional: bool
    sequence_first: bool
    seed: int


_LAYERS = st.builds(
    Layer,
    kind=st.sampled_from(["linear", "conv", "lstm", "attention", "norm"]),
    sizes=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    heads=st.integers(1, 3),
    fused=st.booleans(),
    transposed=st.booleans(),
    bias=st.sampled_from(["", "zeros", "random"]),
)

MODELS = st.builds(
    Model,
    layers=st.lists(_LAYERS, min_size=1, max_size=4).map(tuple),
    repeats=st.integers(1, 3),
    stacked=st.booleans(),
    positional=st.booleans(),
    sequence_first=st.booleans(),
    seed=st.integers(0, 1000),
)


def make(model: Model) -> Pair:
    """The parameters and activations of both runs."""
    pair = Pair(random=np.random.default_rng(model.seed))
    for block in range(model.repeats):
        for number, layer in enumerate(model.layers):
            own, other = f"net.{block}.m{number}", f"blocks_{block}.n{number}"
            getattr(_Maker(pair, layer, own, other), layer.kind)()
            for kind in ("output", "grad_output"):
                _activation(pair, model, layer, f"{own}/{kind}", f"{other}/{kind}")
    pair.add("@root/loss", "@root/loss", np.ones((), np.float32))
    if model.stacked and model.repeats > 1 and not model.positional:
        _stack(pair, model.repeats)
    if model.positional:
        _number(pair)
    return pair


def _activation(pair: Pair, model: Model, layer: Layer, own: str, other: str) -> None:
    array = pair.values(2, 5, layer.sizes[0] * layer.heads)
    if layer.kind == "conv":
        array = pair.values(2, layer.sizes[0], 4, 5)
        made = array.transpose(0, 2, 3, 1)
    else:
        made = array.transpose(1, 0, 2) if model.sequence_first else array
    pair.add(f"mb0/{own}/0", f"mb0/{other}/0", array, made)


class _Maker:
    """Adds the parameters of one layer to both runs."""

    def __init__(self, pair: Pair, layer: Layer, own: str, other: str):
        self.pair, self.layer, self.own, self.other = pair, layer, own, other

    def _bias(self, length: int, own: str = "bias", other: str = "bias") -> None:
        if self.layer.bias:
            is_zero = self.layer.bias == "zeros"
            array = (
                np.zeros(length, np.float32) if is_zero else self.pair.values(length)
            )
            self.pair.add(
                f"{self.own}/param/{own}", f"{self.other}/param/{other}", array
            )

    def linear(self) -> None:
        made, given = self.layer.sizes
        weight = self.pair.values(made, given)
        kernel = weight.T if self.layer.transposed else weight
        names = f"{self.own}/param/weight", f"{self.other}/param/kernel"
        self.pair.add(*names, weight, kernel)
        self._bias(made)

    def conv(self) -> None:
        made, given = self.layer.sizes
        weight = self.pair.values(made, given, 3, 2)
        names = f"{self.own}/param/weight", f"{self.other}/param/kernel"
        self.pair.add(*names, weight, weight.transpose(2, 3, 1, 0))
        self._bias(made)

    def norm(self) -> None:
        length = self.layer.sizes[0]
        array = 1 + self.pair.values(length * 4)
        names = f"{self.own}/param/weight", f"{self.other}/param/scale"
        self.pair.add(*names, array)
        self._bias(length)

    def lstm(self) -> None:
        hidden, given = self.layer.sizes
        for name, length in (("ih", given), ("hh", hidden)):
            gates = self.pair.values(4, hidden, length)
            matrix = gates.reshape(4 * hidden, length)
            self.pair.reference[f"step0/{self.own}/param/weight_{name}"] = matrix
            for gate, kernel in zip("ifgo", gates, strict=True):
                module = f"step0/{self.other}.cell.{name}_{gate}"
                self.pair.candidate[f"{module}/param/kernel"] = kernel.T.copy()
                # A cell gives one step of the sequence at a time.
                output = f"step0/mb0/{self.other}.cell.{name}_{gate}/output/0"
                self.pair.candidate[output] = self.pair.values(2, hidden)

    def attention(self) -> None:
        dim, given = self.layer.sizes
        heads = self.layer.heads
        weight = self.pair.values(3, heads, dim, given)
        flat = weight.reshape(3, heads * dim, given)
        if self.layer.fused:
            fused = flat.reshape(-1, given)
            self.pair.reference[f"step0/{self.own}.qkv/param/weight"] = fused
        for number, name in enumerate("qkv"):
            if not self.layer.fused:
                part = flat[number].copy()
                self.pair.reference[f"step0/{self.own}.{name}/param/weight"] = part
            kernel = weight[number].transpose(2, 0, 1).copy()
            self.pair.candidate[f"step0/{self.other}.{name}/param/kernel"] = kernel


def _stack(pair: Pair, repeats: int) -> None:
    made: dict[str, np.ndarray] = {}
    for name, array in pair.candidate.items():
        if "blocks_" not in name:
            made[name] = array
            continue
        block = int(name.split("blocks_")[1].split(".")[0])
        bare = name.replace(f"blocks_{block}", "blocks")
        if "/param/" not in name:
            made[bare + (f"/call{block}" if block else "")] = array
        elif block == 0:
            parts = [
                pair.candidate[name.replace("blocks_0", f"blocks_{n}")]
                for n in range(repeats)
            ]
            made[bare] = np.stack(parts)
    pair.candidate = made


def _number(pair: Pair) -> None:
    made: dict[str, np.ndarray] = {}
    for name, array in pair.candidate.items():
        is_param = "/param/" in name
        made[f"step0/{len(made)}/param/value" if is_param else name] = array
    pair.candidate = made
