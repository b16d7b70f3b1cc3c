"""A norm of gradients that is wrong behind gradients that agree."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
CUT = {name: RNG.normal(size=(8, 6)) for name in ("experts.a", "experts.b", "head")}
WHOLE = {name: RNG.normal(size=6) for name in ("norm", "bias")}


def run(norm: float, sizes=None):
    tensors: dict[str, Tensor] = {}
    for name, gradient in {**CUT, **WHOLE}.items():
        dims = "f[tp] h" if sizes and gradient.ndim == 2 else None
        tensors[f"step0/{name}/main_grad/w"] = Tensor(
            full=gradient.astype(np.float32), dims=dims
        )
    tensors["step0/@root/grad_norm"] = Tensor(full=np.array(norm, np.float32))
    return memory_trace(tensors, sizes)


def square(*arrays: np.ndarray) -> float:
    return sum(float(np.square(array.astype(np.float32)).sum()) for array in arrays)


ALL = square(*CUT.values(), *WHOLE.values())
FIRST_OF_EXPERTS = square(*(CUT[n][4:] for n in ("experts.a", "experts.b")))


def found(candidate, reference=None):
    report = compare_traces(
        reference or run(ALL**0.5), candidate, load_backend("numpy")
    )
    return {each.code: each for each in report.diagnosis}.get("gradient_norm")


@pytest.mark.parametrize(
    ("norm", "says"),
    [
        (
            (ALL - square(*(v[4:] for v in CUT.values()))) ** 0.5,
            "where only the parts count that the first rank along tp has",
        ),
        (
            (ALL - FIRST_OF_EXPERTS) ** 0.5,
            "where, of the 2 gradients with 'experts' in their path, only the parts",
        ),
        (
            (ALL + square(*WHOLE.values())) ** 0.5,
            "where those count 2 times that are not cut along tp",
        ),
        (
            (ALL - square(CUT["experts.a"], CUT["experts.b"])) ** 0.5,
            "what they give without the 2 gradients with 'experts' in their path",
        ),
        (ALL, "the square of their norm: its root is not taken"),
        (2 * ALL**0.5, "2 times their norm, and tp has 2 ranks"),
    ],
)
def test_what_the_norm_is_of(norm, says):
    diagnosis = found(run(norm, {"tp": 2}))
    assert diagnosis is not None and says in diagnosis.sentence
    assert "each counted once, give" in diagnosis.sentence
    assert diagnosis.tensor_ids[0] == "step0/@root/grad_norm"


def test_what_nothing_gives():
    diagnosis = found(run(1.2345 * ALL**0.5, {"tp": 2}))
    assert diagnosis is not None
    assert "Look at which gradients of which ranks are given to it" in (
        diagnosis.sentence
    )
    assert "It is what they give" not in diagnosis.sentence


def test_a_reference_whose_norm_is_of_something_else():
    diagnosis = found(run(1.0, {"tp": 2}), run(2.0))
    assert diagnosis is not None
    assert "no norm of the gradients that were recorded either" in diagnosis.sentence
    assert "of_all" not in diagnosis.evidence


def test_nothing_behind_gradients_that_differ():
    candidate = run(2 * ALL**0.5, {"tp": 2})
    candidate.arrays[0, "step0/head/main_grad/w"][0] *= 2
    assert found(candidate) is None


def test_nothing_where_one_run_has_more_gradients():
    candidate = run(2 * ALL**0.5)
    reference = run(ALL**0.5)
    extra = {"step0/base/main_grad/w": Tensor(full=np.ones(4, np.float32))}
    tensors = {id_: Tensor(full=array) for (_, id_), array in candidate.arrays.items()}
    assert found(memory_trace(extra | tensors), reference) is None
