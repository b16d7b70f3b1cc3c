"""Modules that only one run has: what is said of them, and when they do not count."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.verdicts.structure import StructureDifference, layers_left_out
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

ONES = np.ones(8, np.float32)
KINDS = ("input", "output", "grad_output", "grad_input")


def a_model(*extra, drop=False, **values):
    """Two blocks with an attention each; with dropout in it, or with other modules."""
    modules = []
    for layer in "01":
        block = f"blocks.{layer}"
        if drop:
            modules.append(f"{block}.attn.drop")
        modules += [*(f"{block}.{name}" for name in extra), f"{block}.attn", block]
    tensors = {f"step0/blocks.{n}.attn/param/weight": ONES for n in "01"}
    for module in (*modules, "@root"):
        for kind in KINDS:
            tensors[f"step0/mb0/{module}/{kind}/0"] = ONES
    for text, value in values.items():
        tensors[text] = value
    return tensors


def compare(reference, candidate, **options) -> Report:
    return compare_traces(
        memory_trace(reference),
        memory_trace(candidate),
        load_backend("numpy"),
        **options,
    )


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_module_without_parameters_that_changes_nothing(side):
    pair = (a_model(drop=True), a_model())
    report = compare(*(pair if side == "reference" else pair[::-1]))
    assert report.verdict is Outcome.PASS
    assert report.structure == (
        StructureDifference(
            modules="blocks.*.attn.drop",
            present=side,
            around="blocks.*.attn",
            num_tensors=8,
        ),
    )
    assert report.summary.endswith(
        f"Structure differs: blocks.*.attn.drop in the {side} only, while "
        "blocks.*.attn around it agrees."
    )
    assert report.counts.skipped_reasons == {
        f"structure differs: blocks.*.attn.drop is in the {side} only; input and "
        "output of blocks.*.attn, around it, agree": 8
    }
    assert Report.from_json(report.to_json()) == report


NESTED = ("attn.drop", "attn.drop.a", "attn.drop.a.b")
"""Modules one within the other, of which one run has none."""


def test_modules_within_each_other_are_said_by_the_outermost():
    report = compare(a_model(*NESTED), a_model())
    (found,) = report.structure
    assert (found.modules, found.num_inside) == ("blocks.*.attn.drop", 2)
    assert found.num_tensors == 2 * 3 * len(KINDS)
    assert report.summary.endswith(
        "Structure differs: blocks.*.attn.drop, with 2 modules inside, in the "
        "reference only, while blocks.*.attn around it agrees."
    )
    assert list(report.counts.skipped_reasons.values()) == [found.num_tensors]
    strict = compare(a_model(*NESTED), a_model(), strict_structure=True)
    assert (
        "24 exist in the reference only (blocks.*.attn.drop and 2 modules inside)"
        in (strict.summary)
    )


def test_strict_structure():
    report = compare(a_model(drop=True), a_model(), strict_structure=True)
    assert report.verdict is Outcome.DIVERGED and report.structure == ()
    assert report.summary == (
        "22 compared tensors agree; 8 exist in the reference only "
        "(blocks.*.attn.drop). If that is intended: --allow '*/blocks.*.attn.drop/*'."
    )
    allowed = compare(
        a_model(drop=True),
        a_model(),
        strict_structure=True,
        allow=["*/blocks.*.attn.drop/*"],
    )
    assert allowed.verdict is Outcome.PASS


@pytest.mark.parametrize("kind", KINDS)
def test_surroundings_that_do_not_agree(kind):
    candidate = a_model()
    candidate[f"step0/mb0/blocks.1.attn/{kind}/0"] = ONES * 2
    report = compare(a_model(drop=True), candidate)
    assert report.verdict is Outcome.DIVERGED
    assert report.counts.unmatched == 4  # blocks.1.attn.drop; that of block 0 agrees
    assert [difference.num_tensors for difference in report.structure] == [4]


@pytest.mark.parametrize("kind", ["input", "output"])
def test_surroundings_that_were_not_compared(kind):
    reference, candidate = a_model(drop=True), a_model()
    for tensors in (reference, candidate):
        for layer in "01":
            del tensors[f"step0/mb0/blocks.{layer}.attn/{kind}/0"]
    assert compare(reference, candidate).counts.unmatched == 8


def test_modules_with_parameters_are_no_matter_of_structure():
    reference = a_model("norm")
    reference["step0/blocks.0.norm/main_grad/weight"] = ONES
    report = compare(reference, a_model())
    assert report.verdict is Outcome.DIVERGED
    assert {t.id.split("/")[-3] for t in report.tensors if t.status == "unmatched"} == {
        "blocks.0.norm"
    }


def test_modules_above_parameters_are_none_either():
    reference = a_model("wrap")
    reference["step0/blocks.0.wrap.inner/param/weight"] = ONES
    assert compare(reference, a_model()).counts.unmatched == 5


def test_a_module_that_is_called_more_often_is_there():
    reference = a_model()
    reference["step0/mb0/blocks.0.attn/output/0/call1"] = ONES
    report = compare(reference, a_model())
    assert report.verdict is Outcome.DIVERGED
    assert report.summary.endswith(
        "; 1 exists in the reference only (blocks.*.attn). If that is intended: "
        "--allow '*/blocks.*.attn/output*'."
    )


def test_the_model_itself_is_around_what_lies_in_nothing():
    reference = a_model()
    reference |= {f"step0/mb0/act/{kind}/0": ONES for kind in KINDS}
    report = compare(reference, a_model())
    assert report.verdict is Outcome.PASS
    assert "act in the reference only, while the model around it" in report.summary


def test_both_sides_and_parts_are_told_apart():
    reference = a_model("norm")
    reference["step0/blocks.0.norm/param/weight"] = ONES
    candidate = a_model()
    candidate["step0/extra/param/weight"] = ONES
    report = compare(reference, candidate, strict_structure=True)
    assert report.summary == (
        "22 compared tensors agree; 9 exist in the reference only (blocks.*.norm); 1 "
        "exists in the candidate only (extra). If that is intended: --allow "
        "'*/blocks.*.norm/*' --allow '*/extra/*'."
    )


def test_many_patterns_are_cut():
    reference = a_model() | {f"step0/m{n}x/param/weight": ONES for n in range(9)}
    summary = compare(reference, a_model()).summary
    assert "m5x and 3 more). If" in summary
    assert summary.endswith(
        "--allow '*/m5x/*' and 3 more patterns, for what the report lists."
    )


def test_layers():
    assert layers_left_out("blocks.12.attn.0") == "blocks.*.attn.*"
    assert layers_left_out("3.conv2d.h1") == "*.conv2d.h1"
    assert layers_left_out("3") == "3"  # a pattern would be one of all modules
    assert layers_left_out("3.0") == "3.0"


WEIGHTS = {
    f"step{step}/mb0/blocks.{layer}.attn/{kind}/1": ONES
    for step in (0, 1)
    for layer in "01"
    for kind in ("output", "grad_output")
}


def two_steps(**values):
    tensors = a_model()
    again = {t.replace("step0", "step1"): v for t, v in tensors.items() if "mb" in t}
    return {**tensors, **again, **values}


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_an_output_that_one_run_does_not_return(side):
    pair = (two_steps(**WEIGHTS), two_steps())
    report = compare(*(pair if side == "reference" else pair[::-1]))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.structure == (
        StructureDifference(
            modules="blocks.*.attn/output/1",
            present=side,
            around="blocks.*.attn",
            num_tensors=8,
        ),
    )
    assert report.summary.endswith(
        f"Structure differs: blocks.*.attn/output/1 in the {side} only, while all else "
        "of blocks.*.attn agrees."
    )
    assert report.counts.skipped_reasons == {
        f"structure differs: blocks.*.attn returns output 1 in the {side} only; its "
        "inputs and its other outputs agree": 8
    }
    strict = compare(*pair, strict_structure=True)
    assert strict.verdict is Outcome.DIVERGED and strict.counts.unmatched == 8


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_more_of_a_module_that_does_not_agree(kind):
    candidate = two_steps(**{f"step1/mb0/blocks.1.attn/{kind}/0": ONES * 2})
    report = compare(two_steps(**WEIGHTS), candidate)
    assert report.verdict is Outcome.DIVERGED
    assert report.counts.unmatched == 4  # of blocks.1


def test_the_first_output_is_not_missing_for_nothing():
    reference = two_steps(**WEIGHTS)
    candidate = {t: v for t, v in reference.items() if not t.endswith("output/0")}
    report = compare(reference, candidate)
    assert report.verdict is Outcome.DIVERGED and report.structure == ()


def test_an_output_that_is_missing_in_one_step_is_unmatched():
    candidate = two_steps(**{t: v for t, v in WEIGHTS.items() if "step0" in t})
    report = compare(two_steps(**WEIGHTS), candidate)
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched == 4


def test_an_output_more_in_either_run_may_be_one_under_two_names():
    renamed = {t.replace("put/1", "put/2"): v for t, v in WEIGHTS.items()}
    report = compare(two_steps(**WEIGHTS), two_steps(**renamed))
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched == 16


def plain_jax(*more: str):
    """A model without modules: its inputs, its loss, and what it does to parameters."""
    return {
        "step0/mb0/@root/input/tokens": ONES,
        **{f"step0/mb0/{name}/output/0": ONES for name in more},
        "step0/mb0/@root/loss": ONES[:1],
        "step0/mb0/@root/param_grad/w": ONES,
        "step0/@root/main_grad/w": ONES,
    }


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_products_of_plain_jax_that_one_run_writes_otherwise(side):
    pair = (plain_jax("td,edh->teh", "router"), plain_jax("router"))
    report = compare(*(pair if side == "reference" else pair[::-1]))
    assert report.verdict is Outcome.PASS, report.summary
    (difference,) = report.structure
    assert (difference.modules, difference.present) == ("td,edh->teh", side)
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        f"structure differs: td,edh->teh is in the {side} only; inputs, loss and "
        "gradients of the model, and all else, agree"
    )


@pytest.mark.parametrize("missing", ["input/tokens", "loss", "param_grad/w"])
def test_products_of_a_model_of_which_too_little_was_compared(missing):
    left_out = f"step0/mb0/@root/{missing}"
    reference = plain_jax("td,edh->teh")
    candidate = plain_jax()
    for tensors in (reference, candidate):
        del tensors[left_out]
    assert compare(reference, candidate).counts.unmatched == 1


@pytest.mark.parametrize("wrong", ["step0/@root/main_grad/w", "step0/mb0/b/output/0"])
def test_products_beside_what_fails_are_unmatched(wrong):
    candidate = plain_jax("b") | {wrong: ONES * 2}
    report = compare(plain_jax("td,edh->teh", "b"), candidate)
    assert report.counts.unmatched == 1 and report.verdict is Outcome.DIVERGED
