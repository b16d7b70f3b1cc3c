"""Where failures begin: on random models with planted errors, and on single cases."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.factories.dataflows import Part, a_step
from tests.factories.planted_errors import (
    LEAF,
    ONES,
    compare,
    failed,
    few,
    models,
    planted,
)
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report


@few
@given(model=models, data=st.data())
def test_one_planted_error_is_the_one_place_that_explains_all(model, data):
    (text,) = planted(data, model, 1)
    report = compare(a_step(model, num_steps=2), a_step(model, [text], num_steps=2))
    (culprit,) = report.culprits
    assert culprit.ids == (text,)
    assert sum(culprit.explains.values()) == report.counts.failed
    assert culprit.share == (
        f"all {report.counts.failed} failed tensors"
        if report.counts.failed > 1
        else "the only failed tensor"
    )
    assert culprit.inputs_agree
    assert report.first_divergence is not None
    assert report.first_divergence.id == text


def is_one_backward(one: str, other: str) -> bool:
    """Both come out of one module's backward, which is one place."""
    (module, kind), (other_module, other_kind) = (
        text.rsplit("/", 2)[:2] for text in (one, other)
    )
    return module == other_module and {kind, other_kind} == {"grad_input", "param_grad"}


@few
@given(model=models, data=st.data())
def test_two_planted_errors_are_two_places_unless_one_follows_from_the_other(
    model, data
):
    """What fails by the other error alone too is not told to be wrong by itself."""
    one, other = planted(data, model, 2)
    assume(not is_one_backward(one, other))
    right = a_step(model)
    # What is one array in a correct run is one place, whoever is given it.
    assume(not np.array_equal(right[one], right[other]))
    by_one, by_other = (
        failed(compare(right, a_step(model, [t]))) for t in (one, other)
    )
    report = compare(right, a_step(model, [one, other]))
    expected = {one} - by_other | {other} - by_one
    assert {id_ for culprit in report.culprits for id_ in culprit.ids} == expected
    explained = [sum(culprit.explains.values()) for culprit in report.culprits]
    assert max(explained) <= report.counts.failed <= sum(explained)


def test_branches_beside_each_other_are_two_places():
    model = Part(parts=(Part(parts=(LEAF, LEAF)), LEAF), is_sum=True)
    wrong = ["step0/mb0/a.a/output/0", "step0/mb0/b/output/0"]
    report = compare(a_step(model), a_step(model, wrong))
    assert [culprit.id for culprit in report.culprits] == wrong
    assert [culprit.inputs_agree for culprit in report.culprits] == [True, True]
    assert report.culprits[1].sentence == (
        "output 0 of b (step 0, micro-batch 0): "
        + next(t.reason for t in report.tensors if t.id == wrong[1])
        + "; inputs, parameters and inner modules agree; explains 20 of 24 failed "
        "tensors"
    )


def in_a_row(*, without: tuple[str, ...] = (), **factors: float) -> dict:
    """Three modules in a row; factors on what holds their text."""
    texts = ["step0/mb0/@root/input/0"]
    for module in "abc":
        texts += [f"step0/mb0/{module}/input/0", f"step0/mb0/{module}/output/0"]
    for module in "cba":
        texts += [f"step0/mb0/{module}/grad_output/0"]
        texts += [f"step0/mb0/{module}/grad_input/0"]
        texts += [f"step0/mb0/{module}/param_grad/weight"]
    texts += [f"step0/{module}/main_grad/weight" for module in "abc"]
    values = {text: ONES * (1 + number) for number, text in enumerate(texts)}
    for part, factor in factors.items():
        for text in values:
            if part.replace("__", "/") in text:
                values[text] = values[text] * factor
    return {t: v for t, v in values.items() if not any(p in t for p in without)}


def places(report: Report) -> list[str]:
    return [culprit.id for culprit in report.culprits]


def test_a_gradient_that_is_missing_begins_a_failure_like_a_wrong_one():
    gone = (
        "b/grad_input",
        "a/grad",
        "b/param_grad",
        "a/param_grad",
        "b/main",
        "a/main",
    )
    report = compare(in_a_row(), in_a_row(without=gone))
    assert places(report) == ["step0/mb0/b/grad_input/0"]
    (culprit,) = report.culprits
    assert culprit.share == "all 7 unmatched tensors"
    assert "only in the reference" in culprit.sentence


def test_what_a_place_explains_is_counted_as_the_report_counts_it():
    """Of two failed tensors and three unmatched ones, of which one is an input."""
    reference = in_a_row()
    missing = ("a/grad_input", "a/param_grad")
    candidate = in_a_row(without=missing, a__main_grad=2)
    candidate["step0/a/updated_param/weight"] = ONES
    reference["step0/a/updated_param/weight"] = 2 * ONES
    reference["step0/mb0/c/input/mask"] = ONES
    report = compare(reference, candidate)
    assert (report.counts.failed, report.counts.unmatched) == (2, 2)
    (culprit,) = report.culprits
    assert culprit.share == "all 2 failed tensors and 1 of 2 unmatched ones"
    assert sum(culprit.explains.values()) == 3


def test_what_is_not_recorded_passes_failures_on():
    """The output of a fails; of b nothing was recorded, and what c is given fails."""
    without = ("mb0/b/", "grad")
    reference = in_a_row(without=without)
    candidate = in_a_row(without=without, a__output=2, c__=2)
    report = compare(reference, candidate)
    assert places(report) == ["step0/mb0/a/output/0"]
    assert report.culprits[0].share == "all 3 failed tensors"


def test_of_what_nothing_else_is_known_only_the_first_is_named():
    """No forward, no backward: gradients of parameters, one behind the other."""
    without = ("input", "output", "param_grad")
    candidate = in_a_row(without=without, a__main_grad=2, c__main_grad=3)
    report = compare(in_a_row(without=without), candidate)
    (culprit,) = report.culprits
    assert not culprit.inputs_agree and "agree" not in culprit.sentence
    assert culprit.share == "1 of 2 failed tensors"


def test_the_place_is_that_of_the_first_divergence():
    """Of gradients without their backward that is the one made first."""
    without = ("input", "grad_output", "param_grad")
    candidate = in_a_row(without=without, a__main_grad=2, c__main_grad=2)
    report = compare(in_a_row(without=without), candidate)
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/c/main_grad/weight"
    assert places(report) == ["step0/c/main_grad/weight"]
    assert report.culprits[0].ids[1:] == ("step0/a/main_grad/weight",)


def test_of_parameters_that_fail_alike_all_are_named_where_nothing_else_is_known():
    """By one factor; and by several, where only the kind tells that they are alike."""
    without = ("input", "output", "param_grad")
    reference = in_a_row(without=without)
    twice = in_a_row(without=without, a__main_grad=2, b__main_grad=2, c__main_grad=2)
    values = {
        text: value + np.arange(8) if "main_grad" in text else value
        for text, value in reference.items()
    }
    for candidate in (twice, values):
        (culprit,) = compare(reference, candidate).culprits
        assert not culprit.inputs_agree and culprit.num_alike == 2
        assert ", and 2 more like it: " in culprit.sentence
        assert culprit.share == "all 3 failed tensors"


def test_states_behind_gradients_that_one_run_alone_clips_are_one_place():
    names = ("a", "b", "c")
    states = {f"step0/{name}/optimizer_state/weight.exp_avg": ONES for name in names}
    updated = {f"step0/{name}/updated_param/weight": ONES for name in names}
    clipped = {f"step0/{name}/clipped_grad/weight": ONES for name in names}
    reference = in_a_row() | clipped | states | updated
    candidate = in_a_row() | {
        text: 2 * values for text, values in (states | updated).items()
    }
    (culprit,) = compare(reference, candidate).culprits
    assert culprit.sentence.startswith(
        "optimizer_state weight.exp_avg of a (step 0), and 2 more like it: "
    )
    assert "; what was compared of the gradient and the state before agrees" in (
        culprit.sentence
    )
    assert culprit.share == "all 6 failed tensors"


def test_an_error_that_comes_back_from_below_the_tolerance_is_no_place():
    """a fails, b is within its tolerance, and c barely is not."""
    report = compare(
        in_a_row(without=("grad",)),
        in_a_row(without=("grad",), a__output=2, b__=1 + 2e-6, c__=1 + 2e-5),
    )
    assert report.counts.failed == 3
    assert places(report) == ["step0/mb0/a/output/0"]
    assert report.culprits[0].share == "all 3 failed tensors"


def test_a_learning_rate_of_a_later_step_is_a_place_of_its_own():
    reference = a_step(Part(parts=(LEAF,)), num_steps=2)
    wrong = "step0/a/updated_param/weight"
    candidate = a_step(Part(parts=(LEAF,)), [wrong], num_steps=2)
    rate = "step1/@root/learning_rate/group0"
    reference[rate], candidate[rate] = np.float32(0.1) * ONES, np.float32(0.2) * ONES
    report = compare(reference, candidate)
    assert places(report) == [wrong, rate]
    assert not report.culprits[1].inputs_agree


def test_a_pass_has_no_places():
    assert compare(in_a_row(), in_a_row()).culprits == ()


def test_a_recomputation_that_differs_is_a_place_of_its_own():
    again = {
        f"{text}/recompute": v for text, v in in_a_row().items() if "mb0/b" in text
    }
    again = {t: v for t, v in again.items() if "grad" not in t}
    reference = in_a_row()
    candidate = reference | again
    wrong = "step0/mb0/b/output/0/recompute"
    candidate[wrong] = candidate[wrong] * 2
    candidate["step0/mb0/b/grad_input/0"] = ONES * 7
    report = compare(reference, candidate)
    assert places(report) == [wrong]
    assert report.culprits[0].sentence.startswith(
        "output 0 of b (step 0, micro-batch 0, recomputed): "
    )


def test_what_was_wrong_in_the_forward_is_so_again_in_its_recomputation():
    """Also where nothing tells what the recomputed output is computed from."""

    def run(factor: float) -> dict:
        texts = ["step0/mb0/h.a/output/0", "step0/mb0/h.b/output/0"]
        runs = [*texts, *(f"{text}/recompute" for text in texts)]
        outputs = {t: 7 * ONES if ".a/" in t else factor * ONES for t in runs}
        return {"step0/h.b/param/weight": 5 * ONES} | outputs

    report = compare(run(1), run(3))
    assert places(report) == ["step0/mb0/h.b/output/0"]


def test_parameters_that_were_not_compared_are_not_said_to_agree():
    """Of the second step, where no update was recorded."""
    model = Part(parts=(LEAF, LEAF))
    wrong = "step1/mb0/b/output/0"
    for kinds, words in (
        ((), "inputs, parameters and inner modules agree"),
        (
            ("updated_param",),
            "what was compared of inputs, parameters and inner modules agrees",
        ),
    ):
        reference, candidate = (
            {
                text: values
                for text, values in a_step(model, errors, num_steps=2).items()
                if not any(kind in text for kind in kinds)
            }
            for errors in ((), (wrong,))
        )
        (culprit,) = compare(reference, candidate).culprits
        assert culprit.id == wrong and f"; {words}; explains" in culprit.sentence


def test_a_gradient_of_a_parameter_comes_of_all_calls_of_its_module():
    texts = [
        f"step0/mb0/{text}"
        for text in (
            "m/input/0",
            "m/output/0",
            "m/input/0/call1",
            "m/output/0/call1",
            "@root/output/0",
            "@root/grad_output/0",
            "m/grad_output/0/call1",
            "m/grad_output/0",
            "m/param_grad/w",
        )
    ]
    values = np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)
    reference = dict(zip(texts, values, strict=True))
    wrong = ("step0/mb0/m/grad_output/0/call1", "step0/mb0/m/param_grad/w")
    candidate = reference | {text: 2 * reference[text] ** 2 for text in wrong}
    (culprit,) = compare(reference, candidate).culprits
    assert culprit.ids == wrong[:1]


TIED = (
    "mb0/@root/input/0",
    "mb0/wte/input/0",
    "mb0/wte/output/0",
    "mb0/h/input/0",
    "mb0/h/input/1",
    "mb0/h/output/0",
    "mb0/wte/input/attend.0",
    "mb0/wte/output/attend.0",
    "mb0/@root/output/0",
    "mb0/@root/grad_output/0",
    "mb0/wte/grad_output/attend.0",
    "mb0/wte/grad_input/attend.0",
    "mb0/h/grad_output/0",
    "mb0/h/grad_input/0",
    "mb0/wte/grad_output/0",
    "mb0/wte/param_grad/embedding",
)
"""A tied embedding, called once to embed and once, by another method, to attend."""


@pytest.mark.parametrize(
    "first",
    [
        "mb0/h/input/1",
        "mb0/h/output/0",
        "mb0/wte/input/attend.0",
        "mb0/wte/output/attend.0",
        "mb0/wte/grad_input/attend.0",
        "mb0/h/grad_input/0",
    ],
)
@pytest.mark.parametrize("without", [(), ("wte/input",)])
def test_a_method_comes_where_it_ran_and_not_where_its_module_was_called_first(
    first, without
):
    """All that comes after the first wrong tensor is wrong by it, both ways."""
    texts = [f"step0/{text}" for text in TIED]
    values = np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)
    reference = dict(zip(texts, values, strict=True))
    wrong = texts[texts.index(f"step0/{first}") :]
    candidate = reference | {text: 2 * reference[text] ** 2 for text in wrong}
    reference, candidate = (
        {t: v for t, v in run.items() if not any(part in t for part in without)}
        for run in (reference, candidate)
    )
    (culprit,) = compare(reference, candidate).culprits
    assert culprit.id == next(text for text in wrong if text in reference)
    assert culprit.inputs_agree


AVERAGES = [f"step0/mb0/ema.{name}/output/0" for name in "ab"]


def averaged(wrong: Sequence[str] = (), *, num_steps: int = 2) -> dict[str, np.ndarray]:
    """A run whose script taps averages of the updated parameters behind each step."""
    values = a_step(Part(parts=(LEAF, LEAF)), wrong, num_steps=num_steps, num_mb=1)
    tapped = {}
    for step in range(num_steps):
        at = f"step{step}"
        tapped |= {t: v for t, v in values.items() if t.startswith(f"{at}/")}
        for name in "ab":
            average = values[f"{at}/{name}/updated_param/weight"] * np.float32(0.5)
            text = f"{at}/mb0/ema.{name}/output/0"
            tapped[text] = average * np.linspace(2, 3, 8) if text in wrong else average
    return tapped


@pytest.mark.parametrize(
    "wrong", ["mb0/a/output/0", "mb0/@root/loss", "b/updated_param/weight"]
)
@pytest.mark.parametrize("num_steps", [1, 2])
def test_what_is_tapped_behind_the_update_follows_from_what_failed_before(
    wrong, num_steps
):
    wrong = f"step0/{wrong}"
    report = compare(
        averaged(num_steps=num_steps), averaged([wrong], num_steps=num_steps)
    )
    assert failed(report) & set(AVERAGES)
    (culprit,) = report.culprits
    assert culprit.id == wrong and culprit.inputs_agree
    assert culprit.share == f"all {report.counts.failed} failed tensors"


def test_what_is_tapped_behind_the_update_is_a_place_where_nothing_else_is():
    """Both averages, whose inputs nobody knows: so nothing is said of these."""
    report = compare(averaged(), averaged(AVERAGES))
    (culprit,) = report.culprits
    assert culprit.ids == tuple(AVERAGES)
    assert not culprit.inputs_agree and "agree" not in culprit.sentence
    assert culprit.share == "all 2 failed tensors"


def test_what_is_tapped_before_the_update_is_not_explained_by_the_update():
    """A statistic of gradients fails by itself; parameters are updated otherwise."""
    late = "step0/a/updated_param/weight"
    reference, candidate = averaged(num_steps=1), averaged([late], num_steps=1)
    tapped = "step0/mb0/statistic/output/0"
    runs = []
    for run, factor in ((reference, 1), (candidate, 2)):
        at = list(run).index(late)
        items = list(run.items())
        runs.append(dict([*items[:at], (tapped, ONES * factor), *items[at:]]))
    report = compare(*runs)
    assert places(report) == [tapped, late]


def test_by_a_norm_that_passes_all_gradients_are_clipped():
    """A wrong gradient moves the norm within its tolerance, and that the states."""
    gradients = {
        f"step0/{name}/main_grad/w": np.linspace(1, 2, 8, dtype=np.float32)
        for name in ("a", "b")
    }
    state = {"step0/b/optimizer_state/w.exp_avg_sq": ONES}
    norm = {"step0/@root/grad_norm": np.array(4.0, np.float32)}
    reference = gradients | norm | state
    candidate = dict(reference)
    candidate["step0/a/main_grad/w"] = 1.01 * gradients["step0/a/main_grad/w"]
    candidate["step0/@root/grad_norm"] = np.array(4.0 + 1e-6, np.float32)
    candidate["step0/b/optimizer_state/w.exp_avg_sq"] = 1.01 * ONES
    report = compare(reference, candidate)
    assert failed(report) == {
        "step0/a/main_grad/w",
        "step0/b/optimizer_state/w.exp_avg_sq",
    }
    (culprit,) = report.culprits
    assert culprit.id == "step0/a/main_grad/w"
    # By a norm that is the same to the bit nothing comes to the state.
    same = candidate | norm
    assert len(compare(reference, same).culprits) == 2


def test_an_output_of_whose_inputs_none_was_compared_says_so():
    """As of a map that found no counterpart of them: the module may be innocent."""
    weight = {"step0/dense/param/weight": ONES}
    given, made = "step0/mb0/dense/input/0", "step0/mb0/dense/output/0"

    def run(factor: float, reason: str = ""):
        tensors = {**weight, made: ONES * np.float32(factor)}
        if not reason:
            tensors = {**weight, given: ONES, made: ONES * np.float32(factor)}
        return memory_trace(tensors, skipped={given: reason} if reason else {})

    def sentence(reason: str) -> str:
        report = compare_traces(run(1, reason), run(2, reason), load_backend("numpy"))
        return report.culprits[0].sentence

    said = "none of its inputs was compared"
    why = "ignored by the map: no counterpart was found in the candidate"
    assert (
        f"; {said} (reference: {why}), so that what it is given may be wrong: look at "
        "what computes that, too; explains" in sentence(why)
    )
    assert said not in sentence("ignored by the map: holds what norm/output/0 holds")
    assert said not in sentence("")


def test_routing_of_two_layers_with_as_many_tokens_set_is_not_one_array():
    """Exact, so that its margin is infinite, and as large as that of another layer."""

    def run(wrong: float, tokens: tuple[int, ...]) -> dict[str, np.ndarray]:
        chosen = np.zeros(8, bool)
        chosen[list(tokens)] = True
        return {
            "step0/mb0/a/input/0": ONES * np.float32(1.1),
            "step0/mb0/a/output/0": np.arange(8) < 4,
            "step0/mb0/attention/output/0": np.linspace(1, 2, 8) * wrong,
            "step0/mb0/b/input/0": np.linspace(2, 3, 8) * wrong,
            "step0/mb0/b/output/0": chosen,
        }

    report = compare(run(1, (0, 1, 2, 3)), run(1.4, (2, 3, 4, 5)))
    assert "step0/mb0/b/output/0" in failed(report)
    assert places(report) == ["step0/mb0/attention/output/0"]
