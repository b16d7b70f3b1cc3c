"""Whether gradients of micro-batches add up to what the optimizer was given."""

import numpy as np

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.samples.later_scaling import LaterScaling, later_scaling
from ttrace.store.memory_trace import MemoryTrace

GRADIENTS = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)


def run(given: np.ndarray, *, scale: float = 1.0, **more: np.ndarray) -> MemoryTrace:
    """A step of three micro-batches, by what the optimizer got."""
    tensors: dict[str, Tensor | np.ndarray] = {
        f"step0/mb{number}/net/param_grad/weight": Tensor(full=gradient, scale=scale)
        for number, gradient in enumerate(GRADIENTS)
    }
    tensors["step0/net/main_grad/weight"] = given
    for slot, values in more.items():
        tensors[f"step0/mb0/net/param_grad/{slot}"] = values
        tensors[f"step0/net/main_grad/{slot}"] = values
    return memory_trace(tensors)


def reason(trace: MemoryTrace) -> str | None:
    return scaling(trace).obstacle


def scaling(trace: MemoryTrace) -> LaterScaling:
    return later_scaling(trace, trace.info.tensors, range(3))


def test_their_sum_is_what_the_optimizer_got():
    assert reason(run(GRADIENTS.sum(0))) is None
    assert reason(run(GRADIENTS[::-1].sum(0), scale=4.0)) is None


def test_half_precision_rounds_the_sum():
    given = GRADIENTS.astype(np.float16).sum(0, dtype=np.float16)
    assert reason(run(given)) is None
    assert reason(run(given.astype(np.float32))) is not None


def test_what_was_scaled_after_the_backward_is_not_known():
    assert reason(run(GRADIENTS.sum(0) / 2)) == (
        "the gradients of its micro-batches do not add up to what the optimizer got "
        "(step0/net/main_grad/weight), so that it is not known what they are gradients "
        "of: divide the loss of each micro-batch before it is differentiated, and they "
        "are compared"
    )
    for value in (np.nan, np.inf):
        given = GRADIENTS.sum(0)
        given[0] = value
        assert reason(run(given)) is not None


def test_a_mean_is_taken_after_the_backward():
    assert scaling(run(GRADIENTS.sum(0) / 3)) == LaterScaling(divisor=3)
    assert scaling(run(GRADIENTS.sum(0), bias=GRADIENTS[0, :2])) == LaterScaling()


def in_two_phases(given: np.ndarray, *, later: np.ndarray) -> MemoryTrace:
    """A step of two losses: one optimizer steps before the second micro-batch."""
    return memory_trace(
        {
            "step0/mb0/critic/param_grad/weight": GRADIENTS[0],
            "step0/critic/main_grad/weight": given,
            "step0/mb1/critic/param_grad/weight": GRADIENTS[1],
            "step0/mb1/maker/param_grad/weight": GRADIENTS[2],
            "step0/maker/main_grad/weight": later,
        }
    )


def test_what_comes_behind_an_optimizer_has_no_part_in_what_it_got():
    trace = in_two_phases(GRADIENTS[0], later=GRADIENTS[2])
    assert later_scaling(trace, trace.info.tensors, range(2)) == LaterScaling()
    trace = in_two_phases(GRADIENTS[0] * 2, later=GRADIENTS[2])
    found = later_scaling(trace, trace.info.tensors, range(2))
    assert found.obstacle == (
        "an optimizer was given gradients before the last micro-batch of the step, so "
        "that it is not known what those of its micro-batches are gradients of"
    )


def test_all_parameters_must_be_their_mean():
    mean, sums = GRADIENTS.sum(0) / 3, GRADIENTS.sum(0)
    for number in range(5):
        given = {str(n): sums if n == number else mean for n in range(5)}
        tensors = {f"step0/net/main_grad/{slot}": x for slot, x in given.items()}
        tensors |= {
            f"step0/mb{n}/net/param_grad/{slot}": gradient
            for n, gradient in enumerate(GRADIENTS)
            for slot in given
        }
        assert reason(memory_trace(tensors)) is not None


def test_gradients_of_zero_say_nothing():
    nothing = memory_trace(
        {
            "step0/mb0/net/param_grad/weight": np.zeros(3),
            "step0/net/main_grad/weight": np.zeros(3),
        }
    )
    unknown = (
        "it is not known whether gradients are scaled after the backward, as no "
        "parameter has main_grad and the param_grad of every micro-batch, whole"
    )
    assert later_scaling(nothing, nothing.info.tensors, [0]).obstacle == unknown
    assert later_scaling(memory_trace({}), {}, [0]).obstacle == unknown


def test_a_parameter_that_some_micro_batch_lacks_is_left_out():
    trace = run(GRADIENTS.sum(0), bias=np.ones(2, np.float32))
    assert reason(trace) is None


def backward_through_all(given: np.ndarray) -> MemoryTrace:
    """A step whose one backward went through the forwards of three micro-batches."""
    return memory_trace(
        {
            "step0/mb0/net/param_grad/weight": GRADIENTS.sum(0),
            "step0/net/main_grad/weight": given,
        }
    )


def test_one_backward_of_several_forwards_leaves_its_gradients_with_one():
    assert reason(backward_through_all(GRADIENTS.sum(0))) is None


def test_what_such_a_backward_left_may_not_be_all():
    text = reason(backward_through_all(GRADIENTS.sum(0) * 2))
    assert text is not None and "is not known whether" in text
