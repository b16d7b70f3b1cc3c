"""An LSTM of torch against flax's: one matrix of four gates, and a kernel for each."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

VOCAB, D, HIDDEN = 29, 12, 20


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, D)
        self.lstm = torch.nn.LSTM(D, HIDDEN, bias=False, batch_first=True)
        self.norm = torch.nn.LayerNorm(HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, VOCAB)

    def forward(self, tokens):
        return self.head(self.norm(self.lstm(self.embed(tokens))[0]))


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    tokens = random.integers(0, VOCAB, (3, 9))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class Cell(nn.RNNCellBase):
    """Without biases: torch has two for each gate, whose sum flax has."""

    bug: str

    @nn.compact
    def __call__(self, carry, x):
        cell, hidden = carry
        gates = {
            name: nn.Dense(HIDDEN, use_bias=False, name=f"i{name}")(x)
            + nn.Dense(HIDDEN, use_bias=False, name=f"h{name}")(hidden)
            for name in "ifgo"
        }
        if self.bug == "forget_bias":
            gates["f"] = gates["f"] + 1
        squash = jax.nn.hard_sigmoid if self.bug == "hard_gates" else jax.nn.sigmoid
        cell = squash(gates["f"]) * cell + squash(gates["i"]) * jnp.tanh(gates["g"])
        act = jnp.asarray if self.bug == "no_tanh" else jnp.tanh
        hidden = squash(gates["o"]) * act(cell)
        return (cell, hidden), hidden

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        zeros = jnp.zeros((*input_shape[:-1], HIDDEN))
        return zeros, zeros

    @property
    def num_feature_axes(self) -> int:
        return 1


class Net(nn.Module):
    bug: str

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCAB, D, name="embed")(tokens)
        if self.bug == "time_reversed":
            x = x[:, ::-1]
        x = nn.RNN(Cell(self.bug, name="cell"), name="lstm")(x)
        if self.bug == "no_norm":
            return nn.Dense(VOCAB, name="head")(x)
        eps = 1e-2 if self.bug == "epsilon" else 1e-5
        norm = nn.LayerNorm(eps, name="norm", use_bias=self.bug != "norm_bias")
        head = nn.Dense(VOCAB, name="head", use_bias=self.bug != "head_bias")
        return head(norm(x))


def port(weights: Weights, bug: str) -> Port:
    order = "ifog" if bug == "gate_order" else "ifgo"
    cell = {}
    for number, gate in enumerate(order):
        rows = slice(HIDDEN * number, HIDDEN * (number + 1))
        cell[f"i{gate}"] = {"kernel": weights["lstm.weight_ih_l0"][rows].T}
        cell[f"h{gate}"] = {"kernel": weights["lstm.weight_hh_l0"][rows].T}
    params = {
        "embed": {"embedding": weights["embed.weight"]},
        "cell": cell,
        "norm": {"scale": weights["norm.weight"], "bias": weights["norm.bias"]},
        "head": {"kernel": weights["head.weight"].T, "bias": weights["head.bias"]},
    }
    if bug == "no_norm":
        del params["norm"]
    if bug == "norm_bias":
        del params["norm"]["bias"]
    if bug == "head_bias":
        del params["head"]["bias"]
    module = Net(bug)

    def loss(params, batch):
        logits: Any = module.apply({"params": params}, batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean() * (2 if bug == "loss_scale" else 1)

    return Port(params=params, loss=loss)


PAIR = LibraryPair(
    name="lstm_linen",
    model=Reference,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        time_reversed="lstm",
        hard_gates="lstm",
        no_tanh="lstm",
        gate_order="lstm",
        forget_bias="lstm",
        no_norm="norm head",
        epsilon="norm",
        norm_bias="norm",
        head_bias="head",
        loss_scale="@root head",
    ),
)
