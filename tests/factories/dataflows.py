"""Training steps of random small models, as a frontend would record them.

A model is a tree: a leaf multiplies what it is given by its weight, element by element;
what is around several runs them one after the other, or adds up what each makes of the
same. Errors are planted in the values, and all that is computed from them is wrong,
unless what modules are given has right values put in its place.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module: a leaf, if it has no parts itself."""

    parts: tuple["Part", ...] = ()
    is_sum: bool = False


def a_step(
    model: Part,
    wrong: Collection[str] = (),
    *,
    num_steps: int = 1,
    num_mb: int = 2,
    put_in: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Values by text of the id.

    Args:
        model: The model.
        wrong: Ids of tensors that are computed wrong.
        num_steps: Steps.
        num_mb: Micro-batches of a step.
        put_in: Values that take the place of inputs and gradients of outputs, once
            these are recorded; None for none.
    """
    return _Run(model, wrong, put_in or {}).steps(num_steps, num_mb)


class _Run:
    def __init__(
        self, model: Part, wrong: Collection[str], put_in: Mapping[str, np.ndarray]
    ):
        self._model = model
        self._put_in = put_in
        self._wrong = frozenset(wrong)
        self._random = np.random.default_rng(0)
        self._weights: dict[str, np.ndarray] = {}
        self.tensors: dict[str, np.ndarray] = {}

    def steps(self, num_steps: int, num_mb: int) -> dict[str, np.ndarray]:
        self._name_weights(self._model, "")
        for path, weight in self._weights.items():
            self._put(f"step0/{path}/param/weight", weight)
        for step in range(num_steps):
            self._step(step, num_mb)
        return self.tensors

    def _name_weights(self, part: Part, path: str) -> None:
        if not part.parts:
            self._weights[path] = self._random.uniform(0.5, 1.5, SIZE)
        for letter, inner in zip("abcdefgh", part.parts, strict=False):
            self._name_weights(inner, f"{path}.{letter}".strip("."))

    def _step(self, step: int, num_mb: int) -> None:
        sums = {path: np.zeros(SIZE) for path in self._weights}
        for number in range(num_mb):
            self._at = f"step{step}/mb{number}"
            self._inputs: dict[str, np.ndarray] = {}
            self._gradients: dict[str, np.ndarray] = {}
            x = self._given(
                f"{self._at}/@root/input/0", self._random.uniform(1, 2, SIZE)
            )
            y = self._inside(self._model, "", x)
            y = self._put(f"{self._at}/@root/output/0", y)
            loss = np.atleast_1d((y * y).sum() / 2)
            wrong = self._put(f"{self._at}/@root/loss", loss)
            gradient = y * (wrong / loss)
            if self._put_in:
                gradient = self._given(f"{self._at}/@root/grad_output/0", gradient)
            self._inside_back(self._model, "", gradient)
            for path, gradient in self._gradients.items():
                sums[path] = sums[path] + gradient
        for path, gradient in sums.items():
            sums[path] = self._put(f"step{step}/{path}/main_grad/weight", gradient)
        for path, gradient in sums.items():
            self._weights[path] = self._put(
                f"step{step}/{path}/updated_param/weight",
                self._weights[path] - 0.01 * gradient,
            )

    def _put(self, text: str, values) -> np.ndarray:
        values = np.asarray(values, np.float64)
        if text in self._wrong:
            values = values * np.linspace(1.5, 2.5, values.size)
        self.tensors[text] = values.astype(np.float32)
        return values

    def _given(self, text: str, values) -> np.ndarray:
        """What a module is given, with what is put in its place."""
        values = self._put(text, values)
        return np.asarray(self._put_in.get(text, values), np.float64)

    def _run(self, part: Part, path: str, x: np.ndarray) -> np.ndarray:
        x = self._given(f"{self._at}/{path}/input/0", x)
        return self._put(f"{self._at}/{path}/output/0", self._inside(part, path, x))

    def _inside(self, part: Part, path: str, x: np.ndarray) -> np.ndarray:
        self._inputs[path] = x
        if not part.parts:
            return x * self._weights[path]
        total = np.zeros(SIZE)
        for letter, inner in zip("abcdefgh", part.parts, strict=False):
            y = self._run(inner, f"{path}.{letter}".strip("."), x)
            total = total + y
            x = x if part.is_sum else y
        return total if part.is_sum else x

    def _run_back(self, part: Part, path: str, gradient: np.ndarray) -> np.ndarray:
        gradient = self._given(f"{self._at}/{path}/grad_output/0", gradient)
        inner = self._inside_back(part, path, gradient)
        return self._put(f"{self._at}/{path}/grad_input/0", inner)

    def _inside_back(self, part: Part, path: str, gradient: np.ndarray) -> np.ndarray:
        if not part.parts:
            text = f"{self._at}/{path}/param_grad/weight"
            self._gradients[path] = self._put(text, gradient * self._inputs[path])
            return gradient * self._weights[path]
        total = np.zeros(SIZE)
        letters = "abcdefgh"[: len(part.parts)]
        for letter, inner in reversed(list(zip(letters, part.parts, strict=True))):
            own = self._run_back(inner, f"{path}.{letter}".strip("."), gradient)
            total = total + own
            gradient = gradient if part.is_sum else own
        return total if part.is_sum else gradient
