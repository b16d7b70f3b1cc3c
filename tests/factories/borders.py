"""A model of three modules whose first or last one ends elsewhere in its port."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ttrace.ir.side import Side

Function = Callable[[np.ndarray], np.ndarray]

_RNG = np.random.default_rng(3)
_BIAS = _RNG.normal(size=8).astype(np.float32)
_MASK = (_RNG.random((4, 6, 8)) > 0.3).astype(np.float32)

MOVED: dict[str, Function] = {
    "factor": lambda x: 4 * x,
    "negative factor": lambda x: -0.5 * x,
    "bias": lambda x: x + _BIAS,
    "activation": lambda x: np.maximum(x, 0.1 * x),
    "dropout": lambda x: x * _MASK / np.float32(0.7),
    "soft-cap": lambda x: np.tanh(x / 2) * 2,
}
"""What one side does inside of a module, and the other behind it."""

NAMES = {
    Side.REFERENCE: ("emb", "body", "head", "weight"),
    Side.CANDIDATE: ("tok", "core", "out", "kernel"),
}


@dataclass(frozen=True)
class Model:
    """One run: ``emb``, then ``body``, then ``head``, which only the loss follows.

    Attributes:
        moved: What is done behind ``emb``, or behind ``head``.
        at: Of which of the two.
        inside: The module does it, not the model.
        given: What is made of the value before the next module gets it: a mistake.
        num_steps: Steps of the run.
    """

    moved: Function
    at: str = "emb"
    inside: bool = True
    given: Function = lambda x: x
    num_steps: int = 1

    def tensors(self, side: Side) -> dict[str, np.ndarray]:
        emb, body, head, slot = NAMES[side]
        fixed = np.random.default_rng(0)
        noise = np.random.default_rng(list(Side).index(side) + 1)
        weights = {
            name: fixed.normal(size=(8, 8)).astype(np.float32)
            for name in (emb, body, head)
        }
        tensors = {f"step0/{m}/param/{slot}": weights[m] for m in weights}
        for step in range(self.num_steps):
            at = f"step{step}/mb0"
            x = fixed.normal(size=(4, 6, 8)).astype(np.float32)
            x *= 1 + 1e-8 * noise.normal(size=x.shape)
            x = x.astype(np.float32)
            for name, module in (("emb", emb), ("body", body), ("head", head)):
                tensors[f"{at}/{module}/input/0"] = x
                x = x @ weights[module]
                moved = self.moved(x) if self.at == name else x
                moved = moved.astype(np.float32)
                tensors[f"{at}/{module}/output/0"] = moved if self.inside else x
                x = self.given(moved) if self.at == name else moved
                x = x.astype(np.float32)
            square = np.square(x.astype(np.float64))
            tensors[f"{at}/@root/loss"] = np.asarray(square.mean(), np.float32)
            for module in (emb, body, head):
                gradient = weights[module] * np.float32(square.mean())
                tensors[f"step{step}/{module}/main_grad/{slot}"] = gradient
            tensors[f"step{step}/@root/grad_norm"] = np.asarray(
                square.sum(), np.float32
            )
        return tensors
