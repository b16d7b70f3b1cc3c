"""An LSTM of torch against flax's: one matrix of four gates, and a kernel for each."""

import flax.linen as nn
import jax
import numpy as np
import optax
import torch

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

VOCAB, D, HIDDEN = 29, 12, 20


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, D)
        self.lstm = torch.nn.LSTM(D, HIDDEN, batch_first=True)
        self.norm = torch.nn.LayerNorm(HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, VOCAB)
        for name in ("bias_ih_l0", "bias_hh_l0"):  # of which flax has the sum
            torch.nn.init.zeros_(getattr(self.lstm, name))

    def forward(self, tokens):
        return self.head(self.norm(self.lstm(self.embed(tokens))[0]))


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    tokens = random.integers(0, VOCAB, (3, 9))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class Net(nn.Module):
    bug: str

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCAB, D, name="embed")(tokens)
        if self.bug == "time_reversed":
            x = x[:, ::-1]
        gate = jax.nn.hard_sigmoid if self.bug == "hard_gates" else jax.nn.sigmoid
        cell = nn.LSTMCell(HIDDEN, gate_fn=gate, name="cell")
        x = nn.RNN(cell, name="lstm")(x)
        if self.bug == "no_norm":
            return nn.Dense(VOCAB, name="head")(x)
        eps = 1e-2 if self.bug == "epsilon" else 1e-5
        fast = nn.LayerNorm(eps, name="norm", use_bias=self.bug != "norm_bias")
        return nn.Dense(VOCAB, name="head", use_bias=self.bug != "head_bias")(fast(x))


def port(weights: Weights, bug: str) -> Port:
    order = "ifog" if bug == "gate_order" else "ifgo"
    cell = {}
    for number, gate in enumerate(order):
        rows = slice(HIDDEN * number, HIDDEN * (number + 1))
        cell[f"i{gate}"] = {"kernel": weights["lstm.weight_ih_l0"][rows].T}
        cell[f"h{gate}"] = {
            "kernel": weights["lstm.weight_hh_l0"][rows].T,
            "bias": weights["lstm.bias_hh_l0"][rows],
        }
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
        logits = module.apply({"params": params}, batch[0])
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
        gate_order="lstm",
        no_norm="norm head",
        epsilon="norm",
        norm_bias="norm",
        head_bias="head",
        loss_scale="@root head",
    ),
)
