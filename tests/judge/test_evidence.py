"""What is read to explain failed gradients and updates, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import TensorRecord
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.store.memory_trace import MemoryTrace

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c")
START = {n: RNG.normal(size=(8, 6)).astype(np.float32) for n in NAMES}
GRADIENTS = [
    {n: RNG.normal(size=(8, 6)).astype(np.float32) for n in NAMES} for _ in range(3)
]


def run(
    *,
    rate=0.1,
    decay: float | dict[str, float] = 0.0,
    accumulates=False,
    says=None,
    of_group1=None,
    more=1.0,
    **options,
):
    """Three steps of SGD, as a trace."""
    tensors: dict[str, Tensor] = {}
    params = dict(START)
    held = dict.fromkeys(NAMES, np.zeros((8, 6), np.float32))
    for name in NAMES:
        tensors[f"step0/{name}/param/w"] = Tensor(full=START[name], **options)
    for step, gradients in enumerate(GRADIENTS):
        for name in NAMES:
            held[name] = gradients[name] + (held[name] if accumulates else 0)
            gradient = held[name].astype(np.float32)
            tensors[f"step{step}/{name}/main_grad/w"] = Tensor(full=gradient, **options)
            before = params[name]
            of_name = decay[name] if isinstance(decay, dict) else decay
            after = before - more * rate * gradient - of_name * before
            params[name] = after.astype(np.float32)
            tensors[f"step{step}/{name}/updated_param/w"] = Tensor(
                full=params[name], **options
            )
        if says is not False:
            tensors[f"step{step}/@root/learning_rate/group0"] = Tensor(
                full=np.array(says or rate, np.float64)
            )
        if of_group1 is not None:
            tensors[f"step{step}/@root/learning_rate/group1"] = Tensor(
                full=np.array(of_group1, np.float64)
            )
    return memory_trace(tensors, {"tp": 2} if options else None)


def diagnoses(candidate, reference=None):
    report = compare_traces(reference or run(), candidate, load_backend("numpy"))
    return {found.code: found for found in report.diagnosis}


@pytest.mark.parametrize("options", [{}, {"dims": "f[tp] h"}], ids=["one", "tp"])
def test_a_forgotten_zero_grad(options):
    found = diagnoses(run(accumulates=True, **options))["accumulated_gradient"]
    assert found.sentence == (
        "3 tensors of step 1, all that were examined, are the reference's gradient "
        "plus the candidate's own of step 0: gradients are not set to zero between the "
        "steps (optimizer.zero_grad())"
    )
    assert found.tensor_ids == tuple(f"step1/{n}/main_grad/w" for n in NAMES)


def test_another_wrong_gradient_is_not_accumulated():
    candidate = run()
    for name in NAMES:
        candidate.arrays[0, f"step1/{name}/main_grad/w"] *= np.float32(2)
    assert "accumulated_gradient" not in diagnoses(candidate)


@pytest.mark.parametrize(
    ("candidate", "cause"),
    [
        (
            run(rate=0.2),
            "the learning rate is 0.2, and 0.1 in the reference",
        ),
        (
            run(more=2.0),
            "the recorded learning rates do not explain it, so look at what else "
            "multiplies the whole update",
        ),
        (
            run(rate=0.2, says=False),
            "look at the learning rate, which was not recorded in both runs",
        ),
    ],
)
def test_updates_that_are_a_multiple(candidate, cause):
    found = diagnoses(candidate)["scaled_update"]
    assert found.sentence == (
        "the updates of 3 parameters are 2 times the reference's while their gradients "
        f"agree: {cause}"
    )


@pytest.mark.parametrize(
    "clips, of_others, is_told",
    [
        ("global norm 0.5", 2.0, False),
        ("global norm 0.5", 1.0, True),
        ("value 0.5", 2.0, True),
        ("none", 2.0, True),
    ],
)
def test_updates_by_a_norm_that_gradients_of_others_change(clips, of_others, is_told):
    """They are clipped by the norm of all, among which some are wrong."""
    wrong, settings = "step0/a/main_grad/w", {"optimizer.all.clipping": clips}
    runs = []
    for trace, factor in ((run(), 1.0), (run(more=1.04), of_others)):
        trace.arrays[0, wrong] = trace.arrays[0, wrong] * np.float32(factor)
        ranks = tuple(replace(rank, settings=settings) for rank in trace.info.ranks)
        runs.append(MemoryTrace(replace(trace.info, ranks=ranks), trace.arrays))
    assert ("scaled_update" in diagnoses(runs[1], runs[0])) == is_told


def stages(*rates: float) -> MemoryTrace:
    """The same on ranks of a pipeline, the first parameter on the first of them.

    Each has the learning rate of its own that is given.
    """
    whole = [run(rate=rate) for rate in rates]
    ranks = range(len(rates))
    info = memory_trace({}, {"dp": 1, "pp": len(rates)}).info
    tensors, arrays = {}, {}
    for id_, record in whole[0].info.tensors.items():
        own = id_.module in NAMES
        holders = [min(NAMES.index(id_.module), ranks[-1])] if own else ranks
        shards = [replace(record.shards[0], rank=rank) for rank in holders]
        tensors[id_] = TensorRecord(id=id_, shards=tuple(shards))
        for rank in holders:
            arrays[rank, str(id_)] = whole[rank].arrays[0, str(id_)]
    return MemoryTrace(replace(info, tensors=tensors), arrays)


def test_the_learning_rate_of_one_stage_of_a_pipeline():
    found = diagnoses(stages(0.1, 0.2))["scaled_update"]
    assert found.sentence == (
        "the updates of 2 parameters are 2 times the reference's while their gradients "
        "agree: the learning rate is 0.2 on rank 1 (pp 1), and 0.1 in the reference"
    )


def test_the_learning_rate_of_a_rank_that_holds_other_parameters():
    candidate = stages(0.1, 0.1, 0.1)
    for step in range(3):
        candidate.arrays[2, f"step{step}/@root/learning_rate/group0"] = np.array(0.2)
    for name in "ab":
        for step in range(3):
            at = f"step{step}/{name}/updated_param/w"
            candidate.arrays["ab".index(name), at] = run(more=2.0).arrays[0, at]
    assert (
        "recorded learning rates do not"
        in diagnoses(candidate)["scaled_update"].sentence
    )


def test_another_weight_decay():
    found = diagnoses(run(decay=1e-3))["weight_decay"]
    assert found.sentence == (
        "3 tensors lost 0.001 times the parameter more in a step than the reference's "
        "while their gradients agree: learning rate x weight decay is another on a/w, "
        "b/w, c/w"
    )
    found = diagnoses(run(), reference=run(decay=1e-3))["weight_decay"]
    assert "lost 0.001 times the parameter less" in found.sentence


def test_groups_that_have_each_others_weight_decay():
    found = diagnoses(
        run(decay={"a": 0.0, "b": 1e-3, "c": 1e-3}),
        reference=run(decay={"a": 1e-3, "b": 0.0, "c": 0.0}),
    )["weight_decay"]
    assert found.sentence == (
        "2 tensors (b/w, c/w) lost 0.001 times the parameter more in a step than the "
        "reference's, and 1 (a/w) as much less, while their gradients agree: learning "
        "rate x weight decay is another on either, so that two groups of parameters "
        "may have each other's weight decay. Look at which parameters are put into "
        "which group of the optimizer"
    )
    assert found.evidence == {
        "learning_rate_x_weight_decay": pytest.approx(1e-3, rel=1e-3),
        "learning_rate_x_weight_decay_of_others": pytest.approx(-1e-3, rel=1e-3),
    }
    found = diagnoses(
        run(decay={"a": 0.0, "b": 3e-3, "c": 3e-3}),
        reference=run(decay={"a": 1e-3, "b": 0.0, "c": 0.0}),
    )["weight_decay"]
    assert "and 1 (a/w) 0.001 times the parameter less, while" in found.sentence
    assert "so that the weight decay of both is another. Look" in found.sentence


def test_three_decays_are_none():
    candidate = run(decay={"a": 1e-3, "b": 2e-3, "c": 3e-3})
    assert "weight_decay" not in diagnoses(candidate)
    candidate = run(decay={"a": 1e-3, "b": 2e-3, "c": 0.0})
    reference = run(decay={"a": 0.0, "b": 0.0, "c": 1e-3})
    assert "weight_decay" not in diagnoses(candidate, reference=reference)


def test_what_nothing_explains_is_not_explained():
    candidate = run()
    for name in NAMES:
        candidate.arrays[0, f"step0/{name}/updated_param/w"][0] += np.float32(1)
    assert not diagnoses(candidate).keys() & {"scaled_update", "weight_decay"}
    assert not diagnoses(run())


def test_learning_rates_are_only_rounded():
    """Whatever the runs compute in, and whatever noise was measured."""
    rate = parse_tensor_id("step0/@root/learning_rate/group0")
    table = ToleranceTable(
        noise={rate: NoiseEstimate(draws=(0.05,), reference_norm=0.1)}
    )
    for value, margin in ((0.1 * (1 + 1e-6), 0.53), (0.1001, 524.0)):
        limit = table.tolerance_for(
            rate,
            num_elements=1,
            reference_norm=0.1,
            storage_dtypes=("float64", "float32"),
            compute_epsilon=2**-7,
            depth=100,
        ).difference_norm
        assert (value - 0.1) / limit == pytest.approx(margin, rel=0.02)


def test_a_learning_rate_of_zero_is_why_nothing_is_updated():
    """A schedule that starts a step early: the optimizer holds all parameters."""
    found = diagnoses(run(rate=0.0))["never_updated"]
    assert found.sentence.split("; ")[0] == (
        "3 tensors did not change in a step that changed the reference's: the learning "
        "rate of step 0 is 0, and 0.1 in the reference. Give both runs the same "
        "schedule: the step that a warm-up starts from, and where scheduler.step() is "
        "called"
    )
    assert "optimizer does not hold" not in found.sentence


def test_the_learning_rate_of_a_run_that_lost_its_updates():
    """It is the reference's, was not recorded, or is zero in both: no cause."""
    for says in (0.1, False):
        found = diagnoses(run(rate=0.0, says=says))["never_updated"]
        assert "the learning rate of" not in found.sentence
        assert "the optimizer does not hold these parameters" in found.sentence
    candidate = run(rate=0.0, says=0.1, of_group1=0.0)
    found = diagnoses(candidate, run(of_group1=0.1))["never_updated"]
    assert found.sentence.endswith(
        "or they belong to group1, whose learning rate is 0 in it"
    )
    found = diagnoses(candidate, run())["never_updated"]
    assert (
        "the optimizer of the candidate has group1, which the reference's has not, "
        "with a learning rate of 0: look at which parameters are in it; or the "
    ) in found.sentence


def of_sizes(sizes, *, update=0.1, more=0.0, is_constant=False):
    """One step of as many parameters, whose updates are ``update`` times a gradient."""
    rng = np.random.default_rng(1)
    tensors = {}
    for index, size in enumerate(sizes):
        start, gradient = (rng.normal(size=size).astype(np.float32) for _ in range(2))
        if is_constant:
            gradient = np.ones(size, np.float32)
        change = update * gradient + more * rng.normal(size=size)
        tensors[f"step0/m{index}/param/w"] = start
        tensors[f"step0/m{index}/main_grad/w"] = gradient
        tensors[f"step0/m{index}/updated_param/w"] = (start - change).astype(np.float32)
    return memory_trace(tensors)


def test_a_multiple_of_few_elements_proves_nothing():
    """It always fits one element, and any number of them that are all the same."""
    for sizes, is_constant in (((1,), False), ((1, 1, 1), False), ((20,), True)):
        runs = (of_sizes(sizes, update=u, is_constant=is_constant) for u in (0.2, 0.1))
        assert not diagnoses(*runs).keys() & {"scaled_update", "scaled"}
    for sizes in ((8,), (1,) * 8, (4, 4)):
        runs = (of_sizes(sizes, update=u) for u in (0.2, 0.1))
        assert "scaled_update" in diagnoses(*runs)


def test_a_multiple_of_the_least_of_the_updates_explains_nothing():
    """Two are something else than a multiple, and a bias of one element fits."""
    candidate = of_sizes((1, 20, 20), update=0.2, more=0.05)
    assert "scaled_update" not in diagnoses(candidate, of_sizes((1, 20, 20)))


def test_a_forgotten_zero_grad_behind_clipping_in_place():
    """What is left of the step before is the clipped gradient."""
    tensors = {}
    for is_wrong in (False, True):
        own = {f"step0/{n}/param/w": Tensor(full=START[n]) for n in NAMES}
        left = dict.fromkeys(NAMES, np.zeros((8, 6), np.float32))
        for step, gradients in enumerate(GRADIENTS):
            for n in NAMES:
                gradient = gradients[n] + left[n]
                clipped = gradient * np.float32(0.4 + 0.1 * step)
                own[f"step{step}/{n}/main_grad/w"] = Tensor(full=gradient)
                own[f"step{step}/{n}/clipped_grad/w"] = Tensor(full=clipped)
                left[n] = clipped if is_wrong else left[n]
        tensors[is_wrong] = memory_trace(own)
    found = diagnoses(tensors[True], tensors[False])["accumulated_gradient"]
    assert found.sentence == (
        "3 tensors of step 1, all that were examined, are the reference's gradient "
        "plus the candidate's own of step 0, as it was clipped: gradients are not set "
        "to zero between the steps (optimizer.zero_grad())"
    )


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_forgotten_zero_grad_behind_clipping_that_was_not_seen(spread):
    """What is left is one multiple of all gradients, or it is something else."""
    tensors = {}
    for is_wrong in (False, True):
        own = {"step0/@root/grad_norm": Tensor(full=np.array(2.5, np.float32))}
        for number, n in enumerate(NAMES):
            share = np.float32((0.4 + spread * number) * is_wrong)
            left = GRADIENTS[1][n] + share * GRADIENTS[0][n]
            own[f"step0/{n}/main_grad/w"] = Tensor(full=GRADIENTS[0][n])
            own[f"step1/{n}/main_grad/w"] = Tensor(full=left)
        tensors[is_wrong] = memory_trace(own)
    found = diagnoses(tensors[True], tensors[False]).get("accumulated_gradient")
    if spread:
        assert found is None
    else:
        assert found is not None and found.sentence == (
            "3 tensors of step 1, all that were examined, are the reference's gradient "
            "plus the candidate's own of step 0, times 0.4, so that their norm is 1, "
            "as where they are clipped: gradients are not set to zero between the "
            "steps (optimizer.zero_grad())"
        )


def test_updates_behind_gradients_that_are_clipped_otherwise():
    """What the optimizer is given is the clipped gradient."""

    def clipping(limit: float | None):
        trace = run(rate=0.1 * (limit or 1.0))
        tensors = {id_: Tensor(full=array) for (_, id_), array in trace.arrays.items()}
        for step, gradients in enumerate(GRADIENTS):
            for n in NAMES if limit is not None else ():
                clipped = ((limit or 1.0) * gradients[n]).astype(np.float32)
                tensors[f"step{step}/{n}/clipped_grad/w"] = Tensor(full=clipped)
            rate = np.array(0.1, np.float64)
            tensors[f"step{step}/@root/learning_rate/group0"] = Tensor(full=rate)
        return memory_trace(tensors)

    for candidate in (clipping(0.5), clipping(None)):
        found = diagnoses(candidate, clipping(0.25))
        assert "clipping" in found and "scaled_update" not in found
