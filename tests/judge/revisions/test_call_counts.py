"""Modules that one run calls more often: skipped where all that follows agrees."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.verdicts.structure import StructureDifference
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

KINDS = ("input", "output", "grad_output", "grad_input")


def compare(reference, candidate, **options) -> Report:
    return compare_traces(
        memory_trace(reference),
        memory_trace(candidate),
        load_backend("numpy"),
        **options,
    )


def rows(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, 4)).astype(np.float32)


def calls_of(module: str, *sizes: int, first: int = 0):
    """What each call of a module is given and returns, of so many rows."""
    found = {}
    for call, size in enumerate(sizes):
        for kind in KINDS:
            name = f"step0/mb0/{module}/{kind}/0" + (f"/call{call}" if call else "")
            found[name] = rows(size, seed=first + call)
    return found


def experts(*sizes: int, **values):
    """Two layers whose experts call their activation once for each of some groups."""
    tensors = {}
    for layer in "01":
        module = f"layers.{layer}.experts"
        tensors[f"step0/{module}/param/weight"] = rows(3)
        tensors |= calls_of(f"{module}.act", *sizes)
        tensors |= calls_of(module, 12)
    return tensors | calls_of("@root", 12) | values


def a_gan(*sizes: int, **values):
    """A critic that is called on so many rows each time, and what follows of it."""
    return (
        {
            "step0/D/param/weight": rows(3),
            "step0/G/param/weight": rows(2),
        }
        | calls_of("G", 8)
        | calls_of("D", *sizes, first=sum(sizes[:1]))
        | {
            "step0/mb0/@root/loss": np.array(0.5, np.float32),
            "step0/mb0/D/param_grad/weight": rows(3, seed=1),
            "step0/mb0/G/param_grad/weight": rows(2, seed=1),
            "step0/D/main_grad/weight": rows(3, seed=2),
            "step0/G/main_grad/weight": rows(2, seed=2),
            "step0/D/updated_param/weight": rows(3, seed=3),
            "step0/G/updated_param/weight": rows(2, seed=3),
        }
        | values
    )


@pytest.mark.parametrize("is_swapped", [False, True])
def test_an_activation_called_for_each_expert_and_for_all_at_once(is_swapped):
    pair = (experts(5, 3, 4), experts(12))
    report = compare(*(pair[::-1] if is_swapped else pair))
    often, once = ("once", "3 times") if is_swapped else ("3 times", "once")
    calls = f"called {often} in the reference, {once} in the candidate"
    assert report.verdict is Outcome.PASS, report.summary
    assert report.structure == (
        StructureDifference(
            modules="layers.*.experts.act",
            present="both",
            around="layers.*.experts",
            num_tensors=24,
            calls=calls,
        ),
    )
    assert report.summary.endswith(
        f"Structure differs: layers.*.experts.act is {calls}, while layers.*.experts "
        "around it agrees."
    )
    assert report.counts.skipped_reasons == {
        f"structure differs: layers.*.experts.act is {calls}, and its calls have no "
        "counterpart; input and output of layers.*.experts, around it, agree": 24
    }
    assert Report.from_json(report.to_json()) == report
    strict = compare(*pair, strict_structure=True)
    assert strict.verdict is Outcome.DIVERGED


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_around_it_must_agree(kind):
    wrong = {f"step0/mb0/layers.0.experts/{kind}/0": rows(12, seed=9)}
    report = compare(experts(5, 3, 4), experts(12, **wrong))
    assert report.verdict is Outcome.DIVERGED
    # What the other layer calls agrees in all that is around it.
    assert [d.num_tensors for d in report.structure] == [12]


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_critic_of_joined_rows(is_swapped):
    pair = (a_gan(8, 8, 8), a_gan(16, 8))
    report = compare(*(pair[::-1] if is_swapped else pair))
    often, seldom = ("twice", "3 times") if is_swapped else ("3 times", "twice")
    calls = f"called {often} in the reference, {seldom} in the candidate"
    assert report.verdict is Outcome.PASS, report.summary
    assert report.summary.endswith(
        f"Structure differs: D is {calls}, while all else agrees."
    )
    assert report.counts.skipped_reasons == {
        f"structure differs: D is {calls}, and its calls have no counterpart; all else "
        "agrees, with the gradients of its parameters": 12
    }


LATER = [
    "step0/mb0/@root/loss",
    "step0/mb0/D/param_grad/weight",
    "step0/D/main_grad/weight",
    "step0/D/updated_param/weight",
    "step0/mb0/G/param_grad/weight",
    "step0/G/updated_param/weight",
    "step0/mb0/G/grad_output/0",
]


@pytest.mark.parametrize("name", LATER)
def test_all_that_follows_of_the_calls_must_agree(name):
    reference, candidate = a_gan(8, 8, 8), a_gan(16, 8)
    candidate[name] = np.asarray(candidate[name] * np.float32(1.5))
    report = compare(reference, candidate)
    assert report.verdict is Outcome.DIVERGED and report.structure == ()
    (said,) = [d for d in report.diagnosis if d.code == "call_counts"]
    assert said.sentence.startswith(
        "D is called 3 times in the reference, twice in the candidate, in step 0: what "
        "its calls are given and return has no counterpart, and fails for that alone"
    )
    assert f"; what fails beside them is {name}" in said.sentence


def without(tensors, *texts: str):
    return {
        name: value
        for name, value in tensors.items()
        if not any(text in name for text in texts)
    }


def test_what_follows_must_be_compared():
    """Without its gradients nothing shows what the calls of a critic come to."""
    pair = (a_gan(8, 8, 8), a_gan(16, 8))
    gone = ("D/param_grad", "D/main_grad")
    report = compare(*(without(tensors, *gone) for tensors in pair))
    assert report.verdict is Outcome.DIVERGED
    (said,) = [d for d in report.diagnosis if d.code == "call_counts"]
    assert said.sentence.endswith(
        "; nothing else fails, and no loss with gradients of their parameters was "
        "compared that would show what the calls come to: record these in both runs, "
        "or call the module alike"
    )
    report = compare(*(without(tensors, "loss", "D/param") for tensors in pair))
    assert report.verdict is Outcome.PASS, report.summary  # main_grad is enough


def test_a_frozen_module_shows_in_the_gradients_of_others():
    frozen = ("D/param_grad", "D/main_grad", "D/updated_param")
    pair = (without(a_gan(*sizes), *frozen) for sizes in ((8, 8, 8), (16, 8)))
    assert compare(*pair).verdict is Outcome.PASS


def test_a_call_more_of_equal_rows_is_looked_at_alike():
    """One run calls the critic once more, and its loss uses that."""
    reference, candidate = a_gan(8, 8), a_gan(8, 8, 8)
    assert compare(reference, candidate).verdict is Outcome.PASS
    wrong = {"step0/mb0/@root/loss": np.array(0.75, np.float32)}
    assert compare(reference, a_gan(8, 8, 8, **wrong)).verdict is Outcome.DIVERGED
