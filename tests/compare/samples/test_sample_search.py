"""Which sample is where: by the rows of the models' inputs."""

import numpy as np
import pytest

from tests.factories.sample_runs import (
    FOUR,
    ONE,
    SHUFFLED,
    Order,
    sample_run,
    tokens,
)
from tests.factories.traces import CAME_TWICE, Tensor, memory_trace
from ttrace.compare.samples.sample_search import match_samples
from ttrace.compare.samples.samples import Place, StepSamples
from ttrace.ir.side import Side
from ttrace.store.memory_trace import MemoryTrace


def matched(reference: MemoryTrace, candidate: MemoryTrace) -> StepSamples:
    (samples,) = match_samples(reference, candidate)
    return samples


@pytest.mark.parametrize(
    "reference", [ONE, FOUR, SHUFFLED, [[3], [0, 1, 2, 4, 5, 6, 7]]]
)
@pytest.mark.parametrize(
    "candidate", [ONE, FOUR, SHUFFLED, [[7, 6, 5], [4, 3, 2, 1, 0]]]
)
def test_every_sample_is_found_where_the_candidate_has_it(
    reference: Order, candidate: Order
):
    found = match_samples(sample_run(reference), sample_run(candidate))
    if reference is candidate:
        assert found == ()
        return
    (samples,) = found
    assert samples.places is not None and not samples.repeated
    for number, of_one in enumerate(reference):
        assert [candidate[p.microbatch][p.row] for p in samples.places[number]] == list(
            of_one
        )


def test_sizes_are_said_of_both_runs():
    samples = matched(sample_run(ONE), sample_run(FOUR))
    assert samples.sizes_sentence == (
        "1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate"
    )
    samples = matched(
        sample_run([[i] for i in range(8)]), sample_run([[0], range(1, 8)])
    )
    assert samples.sizes_sentence == (
        "8 micro-batches of 1 sample in the reference, 2 of 1 to 7 in the candidate"
    )
    samples = matched(sample_run(FOUR), sample_run(SHUFFLED))
    assert samples.sizes_sentence == (
        "4 micro-batches of 2 samples in either run, in another order"
    )


@pytest.mark.parametrize(
    ("first", "second"), [(np.int64, np.int32), (np.float32, np.float16)]
)
def test_dtypes_may_differ(first: type, second: type):
    data = tokens()

    def run(order: Order, dtype: type) -> MemoryTrace:
        values = (data * 137.1).astype(first)  # some beyond float16
        with np.errstate(over="ignore"):
            values = values.astype(dtype)
        return memory_trace(
            {
                f"step0/mb{n}/@root/input/0": values[list(of_one)]
                for n, of_one in enumerate(order)
            }
        )

    assert matched(run(ONE, first), run(SHUFFLED, second)).places is not None


def test_samples_may_lie_along_another_dim():
    data = tokens()

    def run(order: Order) -> MemoryTrace:
        inputs = {
            f"step0/mb{n}/@root/input/x": data[list(of_one)].T.copy()
            for n, of_one in enumerate(order)
        }
        return memory_trace(inputs)

    for order in (FOUR, [[5, 2, 7, 0], [1, 6, 3, 4]]):
        samples = matched(run(ONE), run(order))
        assert samples.places is not None
    samples = matched(run(FOUR), run(SHUFFLED))
    assert samples.places is not None
    assert samples.places[0] == (
        Place(microbatch=1, row=1),
        Place(microbatch=2, row=0),
    )


def test_samples_of_the_same_inputs_are_told_apart_by_nothing():
    data = tokens()
    data[4] = data[1]
    samples = matched(sample_run(FOUR, data), sample_run(ONE, data))
    assert samples.places is not None
    assert samples.repeated == {0, 2}


def test_other_samples_are_said():
    other = tokens()
    other[3] += 1
    samples = matched(sample_run(ONE), sample_run(FOUR, other))
    assert samples.places is None
    assert str(samples.differs_at) == "step0/mb0/@root/input/0"
    assert samples.difference == (
        "8 samples in either run (rows along dim 0), of which 1 of the reference and 1 "
        "of the candidate have no equal in the other run in this step; first: row 3 of "
        "micro-batch 0 of the reference"
    )


def test_another_number_of_samples_is_said():
    samples = matched(sample_run(ONE), sample_run([[0, 1], [2, 3], [4, 5]]))
    assert samples.difference.startswith(
        "8 samples in the reference, 6 in the candidate (rows along dim 0), of which 2 "
        "of the reference and 0 of the candidate"
    )
    samples = matched(sample_run([[0, 1], [2]]), sample_run([[0, 1, 2, 3]]))
    assert samples.difference.endswith("first: row 3 of micro-batch 0 of the candidate")


def test_samples_that_are_repeated_or_left_out_are_said():
    """As by a sampler that gives two ranks the same, and others to none."""
    overlapping = [[0, 1], [1, 2], [4, 5], [6, 7]]
    samples = matched(sample_run(ONE), sample_run(overlapping))
    assert samples.difference.endswith(
        ": the candidate gives 1 sample of this step again and leaves 1 sample out; "
        "look at its sampler"
    )
    samples = matched(sample_run(ONE), sample_run([[0, 1], [2, 3], [4, 5]]))
    assert samples.difference.endswith(
        ": the candidate leaves 2 samples out; look at its sampler"
    )


def test_a_micro_batch_that_a_run_lacks_is_not_another_order():
    samples = matched(sample_run(FOUR), sample_run(FOUR[:3]))
    assert samples.is_by_number and samples.places is None
    assert samples.difference == (
        "step 0: the candidate has 3 micro-batches (6 samples), the reference 4 "
        "(8 samples)"
    )
    assert str(samples.differs_at) == "step0/mb3/@root/input/0"
    samples = matched(sample_run(FOUR[:1]), sample_run(FOUR))
    assert samples.difference == (
        "step 0: the candidate has 4 micro-batches (8 samples), the reference 1 "
        "(2 samples). The reference was recorded as one process: if it is one of "
        "several, let them make one process group before the trace begins"
    )
    ranks = sample_run(FOUR[:2], sizes={"tp": 2})
    assert "process" not in matched(sample_run(FOUR), ranks).difference


def test_a_further_call_with_the_same_samples_is_no_other_number_of_them():
    """As of a model that is its own reference, or is called with what it returned."""
    again = sample_run([*FOUR, *FOUR])
    assert match_samples(sample_run(FOUR), again) == ()
    numbers = [
        memory_trace(
            {f"step0/mb{n}/@root/input/x": np.full(4, n, np.float32) for n in range(of)}
        )
        for of in (1, 2)
    ]
    assert match_samples(*numbers) == ()


def test_micro_batches_of_steps_that_ran_together_are_no_other_samples():
    again = {"step0/net/updated_param/weight/call1": f"{CAME_TWICE}. Is it missing?"}
    candidate = sample_run(FOUR, skipped=again)
    assert match_samples(sample_run(FOUR[:2]), candidate) == ()


def test_other_samples_in_micro_batches_of_one_size_are_left_to_the_comparison():
    assert match_samples(sample_run(FOUR), sample_run(FOUR, tokens(1))) == ()


def test_without_inputs_micro_batches_of_other_numbers_cannot_be_matched():
    reference = sample_run(ONE, without=("input",))
    samples = matched(reference, sample_run(FOUR))
    assert samples.places is None and not samples.difference
    assert (
        samples.obstacle == "the reference recorded no input of the model (@root/input)"
    )
    assert samples.sizes_sentence == (
        "1 micro-batch in the reference, 4 in the candidate"
    )
    assert match_samples(reference, sample_run([range(4)], without=("input",))) == ()


def test_inputs_of_other_names_are_not_matched():
    def run(name: str, sizes: list[int]) -> MemoryTrace:
        return memory_trace(
            {f"step0/mb{n}/@root/input/{name}": np.ones(s) for n, s in enumerate(sizes)}
        )

    samples = matched(run("0", [8]), run("batch.x", [4, 4]))
    assert samples.obstacle == (
        "no input of the model has one name in both runs (reference: @root/input/0; "
        "candidate: @root/input/batch.x; a map can match them)"
    )
    assert match_samples(run("0", [8]), run("batch.x", [8])) == ()


def test_other_lengths_are_not_matched():
    def run(shapes: list[tuple[int, int]]) -> MemoryTrace:
        return memory_trace(
            {f"step0/mb{n}/@root/input/0": np.ones(s) for n, s in enumerate(shapes)}
        )

    samples = matched(run([(8, 5)]), run([(4, 5), (4, 4)]))
    assert samples.places is None and not samples.difference
    assert samples.obstacle.startswith(
        "the inputs of the model differ in more than the number of samples"
    )
    assert match_samples(run([(8, 5)]), run([(8, 4)])) == ()


def test_a_model_that_is_called_several_times_is_not_matched():
    again = {"step0/mb0/@root/input/0/call1": tokens()[4:]}
    samples = matched(sample_run(ONE), sample_run([range(4)], more=again))
    assert samples.places is None
    assert samples.obstacle.startswith(
        "the candidate calls the model several times in a micro-batch"
    )


@pytest.mark.parametrize(
    "fields", [{"capture": {"microbatches": "0"}}, {"recorded": (0,)}]
)
def test_what_a_filter_left_out_is_not_taken_for_other_samples(fields):
    candidate = sample_run(FOUR[:2], sizes={"dp": 2}, **fields)
    samples = matched(sample_run(ONE), candidate)
    assert not samples.difference
    assert samples.obstacle == "a filter left samples out of the recorded candidate"
    assert samples.sizes[Side.CANDIDATE] == {0: None, 1: None}


def test_inputs_that_no_rank_has_whole_are_not_matched():
    inputs = {
        f"step0/mb{n}/@root/input/0": Tensor(
            full=tokens()[list(of_one)], dims="b[dp] s", holders=(0,)
        )
        for n, of_one in enumerate(FOUR)
    }
    samples = matched(sample_run(ONE), memory_trace(inputs, {"dp": 2}))
    assert samples.obstacle == (
        "the ranks of the candidate do not have the inputs of the model whole"
    )


def test_inputs_that_ranks_share_out_are_put_together():
    def run(order: Order) -> MemoryTrace:
        inputs = {
            f"step0/mb{n}/@root/input/0": Tensor(
                full=tokens()[list(of_one)], dims="b[dp] s"
            )
            for n, of_one in enumerate(order)
        }
        return memory_trace(inputs, {"dp": 2})

    samples = matched(sample_run(ONE), run(SHUFFLED))
    assert samples.places is not None


def test_a_carried_state_tells_no_samples_apart():
    """It is equal but for rounding; integers beside it say which sample is where."""
    data = tokens()
    state = np.linspace(1.0, 2.0, 24, dtype=np.float32).reshape(8, 3)

    def run(order: Order, factor: float = 1.0) -> MemoryTrace:
        inputs = {}
        for n, of_one in enumerate(order):
            inputs[f"step1/mb{n}/@root/input/0"] = data[list(of_one)]
            carried = state[list(of_one)] * np.float32(factor)
            inputs[f"step1/mb{n}/@root/input/1"] = carried
        return memory_trace(inputs)

    samples = matched(run(ONE), run(FOUR, 1 + 1e-6))
    assert samples.places is not None and not samples.difference
    assert match_samples(run(FOUR), run(FOUR, 1 + 1e-6)) == ()
    data[4] = data[1]  # integers that two samples share tell nothing
    assert matched(run(ONE), run(FOUR, 1 + 1e-6)).places is None


def test_what_the_model_is_given_after_an_output_is_no_sample():
    data = tokens()
    hidden = np.linspace(1.0, 2.0, 192, dtype=np.float32).reshape(8, 24)

    def run(order: Order, factor: float = 1.0) -> MemoryTrace:
        recorded = {}
        for n, of_one in enumerate(order):
            place = f"step0/mb{n}/@root"
            recorded[f"{place}/input/encode.0"] = data[list(of_one)]
            made = hidden[list(of_one)] * np.float32(factor)
            recorded[f"{place}/output/encode.0"] = made
            recorded[f"{place}/input/decode.0"] = made
        return memory_trace(recorded)

    assert match_samples(run(ONE), run(ONE, 1 + 1e-6)) == ()
    assert matched(run(ONE), run(FOUR, 1 + 1e-6)).places is not None


@pytest.mark.parametrize("order", [ONE, FOUR, SHUFFLED])
def test_one_input_that_differs_does_not_hide_where_the_samples_are(order: Order):
    """It is compared by itself, and says that it differs."""

    def labels(order: Order, masked: bool) -> dict[str, np.ndarray]:
        values = tokens(1)
        if masked:
            values[:, :2] = -100
        return {
            f"step0/mb{number}/@root/input/labels": values[list(samples)]
            for number, samples in enumerate(order)
        }

    reference = sample_run(ONE, more=labels(ONE, False))
    found = match_samples(reference, sample_run(order, more=labels(order, True)))
    if order is ONE:
        assert found == ()
        return
    (samples,) = found
    assert samples.places is not None and not samples.difference
    assert [order[p.microbatch][p.row] for p in samples.places[0]] == list(range(8))


def test_an_input_that_goes_with_other_samples_does_not_hide_where_they_are():
    """All inputs have the same rows in both runs, and one of them in another order."""

    def others(order: Order, shift: int) -> dict[str, np.ndarray]:
        values = {"other": tokens(1), "pairs": np.roll(tokens(2), shift, axis=0)}
        return {
            f"step0/mb{number}/@root/input/{slot}": of_slot[list(samples)]
            for number, samples in enumerate(order)
            for slot, of_slot in values.items()
        }

    reference = sample_run(ONE, more=others(ONE, 0))
    (samples,) = match_samples(reference, sample_run(FOUR, more=others(FOUR, 1)))
    assert samples.places is not None and not samples.difference
    assert [FOUR[p.microbatch][p.row] for p in samples.places[0]] == list(range(8))


def test_zeros_and_ones_tell_no_sample_from_others():
    """Rows of a mask that are equal in both runs are no sign of the same samples."""
    mask = np.tril(np.ones((8, 8), np.int64))
    masks = {f"step0/mb{n}/@root/input/mask": mask[2 * n : 2 * n + 2] for n in range(4)}
    samples = matched(
        sample_run(ONE, more={"step0/mb0/@root/input/mask": mask}),
        sample_run(FOUR, tokens(5), more=masks),
    )
    assert samples.places is None and samples.difference
