"""A backward within a module, the lost share of a tied embedding, updates by shard."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)


def diagnoses(reference, candidate, sizes=None):
    report = compare_traces(
        memory_trace(reference), memory_trace(candidate, sizes), load_backend("numpy")
    )
    return {each.code: each for each in report.diagnosis}


ROUTER = RNG.normal(size=(3, 8)).astype(np.float32)
X = RNG.normal(size=(5, 8)).astype(np.float32)
GIVEN = RNG.normal(size=(5, 3)).astype(np.float32)


def router(inner, *, noise: np.ndarray | float = 0.0, given=GIVEN):
    made = (GIVEN + inner) @ ROUTER + noise
    return {
        "step0/router/param/weight": ROUTER,
        "step0/mb0/router/input/0": X,
        "step0/mb0/router/output/0": X @ ROUTER.T,
        "step0/mb0/router/grad_output/0": given,
        "step0/mb0/router/grad_input/0": made.astype(np.float32),
    }


def test_a_loss_that_is_attached_within():
    inner = RNG.normal(size=(5, 3))
    found = diagnoses(router(inner), router(0 * inner))["backward_inside"]
    assert "what happens between its weight and its outputs" in found.sentence
    assert "another gradient of its product (3 features)" in found.sentence


def test_another_backward():
    noise = RNG.normal(size=(5, 8))
    found = diagnoses(router(0), router(0, noise=noise))["backward_inside"]
    assert found.sentence.startswith(
        "the forward of router agrees, and the gradient that it is given (output 0), "
        "but not what it makes of it: the gradient of input 0 differs"
    )
    assert "an autograd.Function with a backward of its own" in found.sentence


def test_a_gradient_that_is_given_otherwise_is_no_fault_of_the_module():
    other = router(0, noise=RNG.normal(size=(5, 8)), given=GIVEN * np.float32(1.1))
    assert "backward_inside" not in diagnoses(router(0), other)


IDS = np.array([[0, 3, 3, 5], [1, 0, 2, 5]])
OF_OUTPUT = RNG.normal(size=(2, 4, 6)).astype(np.float32)
HEAD = RNG.normal(size=(9, 6))
LOOKUPS = np.zeros((9, 6))
np.add.at(LOOKUPS, IDS.reshape(-1), OF_OUTPUT.reshape(-1, 6))


def embedding(gradient):
    return {
        "step0/mb0/wte/input/0": IDS,
        "step0/mb0/wte/output/0": np.ones((2, 4, 6), np.float32),
        "step0/mb0/wte/grad_output/0": OF_OUTPUT,
        "step0/mb0/wte/param_grad/weight": gradient.astype(np.float32),
    }


@pytest.mark.parametrize(
    ("gradient", "says"),
    [
        (LOOKUPS, "is what the look-ups of its rows add, on all elements (5 rows)"),
        (HEAD, "is the reference's without what the look-ups of its rows add"),
    ],
)
def test_the_lost_share_of_a_tied_embedding(gradient, says):
    found = diagnoses(embedding(LOOKUPS + HEAD), embedding(gradient))["split_ties"]
    assert says in found.sentence


def test_a_gradient_that_lacks_something_else():
    found = diagnoses(embedding(LOOKUPS + HEAD), embedding(LOOKUPS + HEAD / 2))
    assert "split_ties" not in found


def orthogonal(matrix):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


MOMENTUM = RNG.normal(size=(8, 8)) + 3 * RNG.normal(size=8)
START = RNG.normal(size=(8, 8))


def update(made):
    def tensor(full):
        return Tensor(full=full.astype(np.float32), dims="f[dp] h")

    return {
        "step0/fc/param/weight": tensor(START),
        "step0/fc/main_grad/weight": tensor(MOMENTUM),
        "step0/fc/updated_param/weight": tensor(START - 0.1 * made),
    }


def whole(tensors):
    return {name: tensor.full for name, tensor in tensors.items()}


def test_updates_that_are_orthogonal_by_shard():
    by_shard = np.concatenate([orthogonal(each) for each in np.split(MOMENTUM, 2)])
    right = update(orthogonal(MOMENTUM))
    found = diagnoses(whole(right), update(by_shard), {"dp": 2})["update_per_shard"]
    assert "orthogonal in each rank's shard by itself (2 shards)" in found.sentence
    other = update(RNG.normal(size=(8, 8)) * 100)
    assert "update_per_shard" not in diagnoses(whole(right), other, {"dp": 2})


def test_replicas_behind_a_factor_of_the_first_divergence():
    """A sum over ranks that is made twice is a missing one further on."""
    values = np.arange(1, 17, dtype=np.float32)
    names = ("step0/mb0/b/grad_input/0", "step0/mb0/a/grad_input/0")
    right: dict[str, np.ndarray] = {name: values for name in names}
    wrong = {names[0]: 2 * values, names[1]: values}
    candidate = memory_trace(wrong, {"tp": 2})
    candidate.arrays[1, names[1]][:] = values[::-1]
    report = compare_traces(memory_trace(right), candidate, load_backend("numpy"))
    assert [each.code for each in report.diagnosis][:2] == ["scaled", "replicas_differ"]


def test_what_another_rank_has_updated_is_not_said_to_be_never_updated():
    start = RNG.normal(size=(6, 4)).astype(np.float32)

    def run(after, sizes=None):
        return memory_trace(
            {
                "step0/fc/param/weight": start,
                "step0/fc/main_grad/weight": start,
                "step0/fc/updated_param/weight": Tensor(
                    full=after, exact_replicas=bool(sizes)
                ),
            },
            sizes,
        )

    after = start * np.float32(0.9)
    candidate = run(start, {"dp": 2})
    candidate.arrays[1, "step0/fc/updated_param/weight"][...] = after
    report = compare_traces(run(after), candidate, load_backend("numpy"))
    codes = [each.code for each in report.diagnosis]
    assert codes[0] == "replicas_differ"
    assert not {"never_updated", "scaled_update"} & set(codes)
    report = compare_traces(run(after), run(start, {"dp": 2}), load_backend("numpy"))
    assert report.diagnosis[0].code == "never_updated"
