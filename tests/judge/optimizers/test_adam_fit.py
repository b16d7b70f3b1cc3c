"""Settings of Adam that moments and updates give away."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c")
START = {n: RNG.normal(size=(8, 6)) for n in NAMES}


def gradients(scale: float, step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step + 1)
    return {n: scale * random.normal(size=(8, 6)) for n in NAMES}


def run(
    *,
    betas=(0.9, 0.999),
    epsilon=1e-8,
    decay=0.1,
    rate=1e-3,
    scale=1e-2,
    clip=1.0,
    inside=False,
    names=("exp_avg", "exp_avg_sq"),
    steps=2,
    **options,
):
    """Two steps of AdamW, as a trace; what ``clip`` does is not recorded."""
    tensors: dict[str, Tensor] = {}

    def add(text: str, values: np.ndarray) -> None:
        tensors[text] = Tensor(full=values.astype(np.float32), **options)

    params = {n: v.astype(np.float32).astype(np.float64) for n, v in START.items()}
    mean, square = ({n: np.zeros((8, 6)) for n in NAMES} for _ in range(2))
    for name in NAMES:
        add(f"step0/{name}/param/w", params[name])
    for step in range(steps):
        for name, gradient in gradients(scale, step).items():
            add(f"step{step}/{name}/main_grad/w", gradient)
            given = clip * gradient
            mean[name] = betas[0] * mean[name] + (1 - betas[0]) * given
            square[name] = betas[1] * square[name] + (1 - betas[1]) * given**2
            m_hat = mean[name] / (1 - betas[0] ** (step + 1))
            v_hat = square[name] / (1 - betas[1] ** (step + 1))
            params[name] = params[name] * (1 - rate * decay)
            root = np.sqrt(v_hat) + epsilon
            if inside:
                root = np.sqrt(v_hat + epsilon)
            params[name] -= rate * m_hat / root
            add(f"step{step}/{name}/optimizer_state/w.{names[0]}", mean[name])
            add(f"step{step}/{name}/optimizer_state/w.{names[1]}", square[name])
            add(f"step{step}/{name}/updated_param/w", params[name])
    return memory_trace(tensors, {"tp": 2} if options else None)


def sentence(candidate, reference=None) -> str | None:
    report = compare_traces(reference or run(), candidate, load_backend("numpy"))
    assert report.counts.failed
    found = {entry.code: entry for entry in report.diagnosis}
    return found["adam_settings"].sentence if "adam_settings" in found else None


@pytest.mark.parametrize("options", [{}, {"dims": "f[tp] h"}], ids=["one", "tp"])
def test_another_beta1(options):
    assert sentence(run(betas=(0.95, 0.999), **options)) == (
        "3 tensors (exp_avg) are what beta1 = 0.95 gives, and the reference's what "
        "beta1 = 0.9 gives; the gradients agree"
    )


def test_another_beta2_under_the_names_of_optax():
    names = ("mu", "nu")
    assert sentence(run(betas=(0.9, 0.95), names=names), run(names=names)) == (
        "3 tensors (nu) are what beta2 = 0.95 gives, and the reference's what "
        "beta2 = 0.999 gives; the gradients agree"
    )


def test_both_betas():
    assert sentence(run(betas=(0.8, 0.95))) == (
        "3 tensors (exp_avg) are what beta1 = 0.8 gives, and the reference's what "
        "beta1 = 0.9 gives; 3 tensors (exp_avg_sq) are what beta2 = 0.95 gives, and "
        "the reference's what beta2 = 0.999 gives; the gradients agree"
    )


def test_another_epsilon():
    """Where gradients are far above it, an epsilon shows nothing of itself."""
    assert sentence(run(epsilon=1e-3)) == (
        "3 tensors (updated_param) are what epsilon = 0.001 gives, and the reference's "
        "what epsilon = 5e-09 to 1e-08 gives; the gradients agree"
    )


def test_an_epsilon_far_above_the_gradients_is_told_from_below():
    found = sentence(run(epsilon=1e-3, scale=1e-5), run(scale=1e-5))
    assert found is not None
    assert "are what epsilon = 0.001 to 0.002 gives" in found
    assert "what epsilon = 1e-08 gives" in found


def test_a_smaller_epsilon_than_the_reference_has():
    found = sentence(run(scale=1e-5), run(epsilon=1e-5, scale=1e-5))
    assert found is not None and "reference's what epsilon = 1e-05 gives" in found


@pytest.mark.parametrize("is_swapped", [False, True])
def test_an_epsilon_inside_of_the_square_root(is_swapped):
    pair = [run(scale=1e-3), run(scale=1e-3, inside=True)]
    found = sentence(*(pair if is_swapped else pair[::-1]))
    one, other = "1e-08 inside of the square root", "1e-08"
    if is_swapped:
        one, other = other, one
    assert found == (
        f"3 tensors (updated_param) are what epsilon = {one} gives, and the "
        f"reference's what epsilon = {other} gives; the gradients agree"
    )


def test_two_epsilons_inside_of_the_square_root():
    options = {"scale": 1e-3, "inside": True}
    found = sentence(run(epsilon=1e-6, **options), run(**options))
    assert found is not None
    assert "epsilon = 1e-06 inside of the square root gives, and" in found


@pytest.mark.parametrize(
    "other",
    [
        {"rate": 2e-3},
        {"decay": 5.0},
        {"rate": 2e-3, "decay": 5.0},
    ],
)
def test_other_settings_of_the_update_are_no_epsilon(other):
    assert sentence(run(**other)) is None


def test_a_gradient_that_is_wrong_says_nothing_of_adam():
    assert sentence(run(scale=2e-2)) is None


def test_a_clip_that_nobody_recorded_gives_no_figure_that_was_written():
    assert sentence(run(clip=0.3719)) is None
    assert sentence(run(clip=0.3719, epsilon=1e-3), run(clip=0.3719)) is None
