import pytest
import torch

from ttrace.frontends.torch_parts.calls import CallCounter, is_recomputing
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass


def counter(size: int = 1, rank: int = 0) -> CallCounter:
    return CallCounter(lambda local: local * size + rank)


def test_microbatches_are_global_and_counted_per_step():
    calls = counter(size=4, rank=3)
    seen = []
    for _ in range(2):
        for _ in range(2):
            calls.begin_microbatch("root")
            seen.append((calls.step, calls.microbatch))
        calls.next_step()
    assert seen == [(0, 3), (0, 7), (1, 3), (1, 7)]


def test_several_roots_count_apart():
    calls = counter()
    seen = []
    for root in ("chunk0", "chunk0", "chunk1", "chunk0", "chunk1"):
        calls.begin_microbatch(root)
        seen.append(calls.microbatch)
    assert seen == [0, 1, 0, 2, 1]


def test_modules_of_several_chunks_count_apart():
    calls = counter()
    seen = []
    for chunk in (0, 0, 1, 1):
        calls.begin_microbatch(chunk)
        call = calls.begin_call("@root", None, chunk=chunk)
        assert calls.claim_gradients(call)
        seen.append((call.microbatch, call.number))
    assert seen == [(0, 0), (1, 0), (0, 0), (1, 0)]


def test_calls_that_another_process_makes_come_first():
    calls = counter()
    for _ in range(2):
        calls.begin_microbatch("root")
        numbers = [calls.begin_call("m", None, num_earlier=2).number for _ in "ab"]
        assert numbers == [2, 3]


def test_calls_before_any_microbatch_belong_to_the_first():
    call = counter(size=2, rank=1).begin_call("m", None)
    assert (call.microbatch, call.number, call.pass_) == (1, 0, Pass.FORWARD)


def test_calls_are_numbered_per_module_and_microbatch():
    calls = counter()
    numbers = []
    for _ in range(2):
        calls.begin_microbatch("root")
        numbers.append([calls.begin_call(path, None).number for path in "aabab"])
    assert numbers == [[0, 1, 0, 2, 1]] * 2


def test_backward_is_that_of_the_forward_until_a_hook_says_otherwise():
    calls = counter()
    calls.begin_microbatch("root")
    first = calls.begin_call("m", None)
    calls.begin_microbatch("root")
    assert calls.backward_microbatch == 1
    calls.enter_backward(first)
    assert (calls.backward_microbatch, calls.microbatch) == (0, 1)


def test_gradients_of_an_earlier_step_do_not_move_the_running_one():
    calls = counter()
    calls.begin_microbatch("root")
    calls.begin_microbatch("root")
    late = calls.begin_call("m", None)
    calls.next_step()
    calls.enter_backward(late)
    assert calls.backward_microbatch == 0


def test_gradients_are_claimed_once():
    calls = counter()
    call, other = calls.begin_call("m", None), calls.begin_call("m", None)
    assert [calls.claim_gradients(c) for c in (call, call, other)] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("kind", [Kind.INPUT, Kind.GRAD_INPUT])
def test_only_activations_know_the_pass(kind):
    calls = counter()
    calls.begin_call("m", None)
    seen = []

    def recompute(gradient):
        assert is_recomputing()
        seen.append(str(calls.begin_call("m", None).tensor_id(kind, "0")))

    x = torch.ones(1, requires_grad=True) * 1
    x.register_hook(recompute)
    x.backward()
    assert not is_recomputing()
    suffix = "/recompute" if kind is Kind.INPUT else ""
    assert seen == [f"step0/mb0/m/{kind}/0{suffix}"]
