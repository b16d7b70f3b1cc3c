"""Which call runs, and which one made a node of the gradient graph."""

from ttrace.frontends.torch_parts.calls import ModuleCall
from ttrace.frontends.torch_parts.open_calls import OpenCalls


def call(path: str, number: int = 0) -> ModuleCall:
    return ModuleCall(step=0, microbatch=0, path=path, number=number)


ROOT, A, B, INNER = call("@root"), call("a"), call("b"), call("b.inner")


def nested() -> OpenCalls:
    """The root makes nodes 0-9: a 2-3, b 4-7, and b.inner inside of it 5-6."""
    calls = OpenCalls()
    calls.enter(ROOT, 0)
    calls.enter(A, 2)
    calls.leave(A, 4)
    calls.enter(B, 4)
    calls.enter(INNER, 5)
    calls.leave(INNER, 7)
    calls.leave(B, 8)
    calls.leave(ROOT, 10)
    return calls


def test_the_innermost_call_made_a_node():
    made = [nested().maker_of(number) for number in range(11)]
    assert made == [ROOT, ROOT, A, A, B, INNER, INNER, B, ROOT, ROOT, None]


def test_a_call_that_made_nothing_made_no_node():
    calls = OpenCalls()
    calls.enter(ROOT, 0)
    calls.enter(A, 3)
    calls.leave(A, 3)
    assert calls.maker_of(3) is ROOT


def test_the_call_that_runs():
    calls = OpenCalls()
    assert calls.innermost() is None
    calls.enter(ROOT, 0)
    calls.enter(A, 0)
    again = call("a", 1)
    calls.enter(again, 1)
    assert calls.innermost() is again
    assert calls.innermost("@root") is ROOT
    assert calls.innermost("b") is None


def test_interrupted_calls_end_with_the_one_around_them():
    calls = OpenCalls()
    calls.enter(ROOT, 0)
    calls.enter(A, 1)  # never ends
    calls.enter(B, 2)
    calls.leave(ROOT, 5)
    assert calls.innermost() is None
    assert calls.maker_of(4) is B
    assert calls.maker_of(6) is None


def test_the_end_of_an_unknown_call_changes_nothing():
    calls = OpenCalls()
    calls.enter(ROOT, 0)
    calls.leave(A, 1)
    assert calls.innermost() is ROOT
    calls.clear()
    assert calls.maker_of(0) is None
