"""What is odd about a comparison: said once, and only where it is known."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import CAME_TWICE, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.trace import TraceInfo
from ttrace.ir.unheld_parameters import unheld_setting
from ttrace.judge.runs.remarks import parameters_of_no_optimizer, repeats_in
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import compare_traces

ONES = np.ones(8, np.float32)
HINT = "Is trace.step() missing?"
GRADIENT, MAIN = "step0/mb0/D/param_grad/weight", "step0/D/main_grad/weight"
GIVEN = "step0/mb0/D/output/0"
PARAM, UPDATED = "step0/fc/param/weight", "step0/fc/updated_param/weight"
INPUT, OUTPUT = "step0/mb0/@root/input/0", "step0/mb0/fc/output/0"
STEP = {PARAM: ONES, UPDATED: ONES * 2}


def remarks(reference, candidate, framework="torch", **fields) -> tuple[str, ...]:
    traces = (
        memory_trace(reference),
        memory_trace(candidate, framework=framework, **fields),
    )
    return compare_traces(*traces, load_backend("numpy")).remarks


@pytest.mark.parametrize(
    ("framework", "remedy"),
    [
        ("torch", "give the trace call the very model that the loop runs"),
        (
            "jax",
            "give jax_capture.trace the function that calls the model, and name what "
            "plain JAX computes by jax.named_scope or ttrace.tap",
        ),
    ],
)
def test_no_module_of_one_run_ran(framework, remedy):
    given = {INPUT: ONES}  # plain JAX records what its step is given
    (remark,) = remarks({**STEP, **given, OUTPUT: ONES}, {**STEP, **given}, framework)
    assert remark == (
        "no module of the candidate ran in a recorded step, as far as ttrace knows: it "
        f"has no input or output of any, and the reference has 1; {remedy}"
    )


def test_where_it_is_known_not_to_be_so_nothing_is_said():
    whole = {**STEP, OUTPUT: ONES}
    assert remarks(whole, whole) == ()
    assert remarks(STEP, STEP) == ()
    assert remarks(whole, STEP, capture={"kinds": "param,updated_param"}) == ()


def run(*twice, framework="torch", without=()):
    tensors = dict.fromkeys((GIVEN, GRADIENT, MAIN), ONES)
    return memory_trace(
        {text: values for text, values in tensors.items() if text not in without},
        skipped={f"{text}/call1": f"{CAME_TWICE}. {HINT}" for text in twice},
        framework=framework,
    )


def test_several_backward_passes_of_a_step():
    """As of a GAN, whose second loss goes through the discriminator, too."""
    report = compare_traces(run(GRADIENT), run(GRADIENT), load_backend("numpy"))
    assert report.remarks == (
        "in both runs 1 tensor came twice, and only the first is recorded. Several "
        "backward passes of one micro-batch reach 1 parameter: param_grad is that of "
        "the first of them, and main_grad what the optimizer is given. That is nothing "
        "to mend where it is meant, as with the two losses of a GAN; else look for a "
        "backward() too many",
    )
    assert report.counts.skipped_reasons == {f"reference: {CAME_TWICE}": 1}


def test_main_grad_is_named_where_it_was_recorded():
    said = repeats_in(run(GRADIENT, without=(MAIN,)).info)
    assert said is not None and "main_grad" not in said


@pytest.mark.parametrize(
    "trace", [run(GRADIENT, MAIN), run(GIVEN), run(GRADIENT, framework="jax")]
)
def test_steps_that_ran_together(trace):
    said = repeats_in(trace.info)
    assert said is not None and said.endswith(f"is recorded. {HINT}")


def test_each_run_is_named_where_it_is_not_the_same_in_both():
    report = compare_traces(run(GRADIENT), run(), load_backend("numpy"))
    (remark,) = report.remarks
    assert remark.startswith("in the reference 1 tensor came twice")
    report = compare_traces(run(GRADIENT), run(GIVEN), load_backend("numpy"))
    assert [remark[:16] for remark in report.remarks] == [
        "in the reference",
        "in the candidate",
    ]


def test_parameters_under_other_names_get_a_map():
    old = {f"step0/block_{n}.up/param/kernel": ONES for n in range(2)}
    new = {"step0/blocks.up/param/kernel": np.stack([ONES, ONES])}
    (remark,) = remarks({**STEP, **old}, {**STEP, **new})
    assert remark == (
        "2 parameters (block_0.up/kernel, ...) of the reference and 1 parameter "
        "(blocks.up/kernel) of the candidate have no counterpart of the same name: if "
        "they are the same under other names, or stacked or split, 'ttrace map in "
        "memory in memory' proposes a map, for --map"
    )


def test_a_parameter_that_is_gone_has_no_other_name():
    assert remarks({**STEP, "step0/fc/param/bias": ONES}, STEP) == ()


def test_under_a_map_no_other_map_is_proposed(tmp_path):
    path = tmp_path / "map.toml"
    path.write_text(
        'version = 1\n[[tensor]]\nreference = "a/{kind}/0"\ncandidate = "b/{kind}/0"\n'
    )
    step = "step0/mb0/{}/output/0"
    runs = [
        memory_trace({step.format(module): ONES, f"step0/{name}/param/weight": ONES})
        for module, name in (("a", "old"), ("b", "new"))
    ]
    report = compare_traces(
        runs[0], runs[1], load_backend("numpy"), map_file=read_map(path)
    )
    (remark,) = [r for r in report.remarks if "counterpart" in r]
    assert remark == (
        "1 parameter (old/weight) of the reference and 1 parameter (new/weight) of the "
        "candidate have no counterpart by the map: if they are the same, write a rule "
        "for them; a proposal leaves a parameter out that begins with other values, as "
        "one that was not loaded"
    )


def test_a_kind_that_no_rule_of_a_map_pairs(tmp_path):
    (tmp_path / "map.toml").write_text(
        'version = 1\n[[tensor]]\nreference = "fc/{kind}/weight"\n'
        'candidate = "fc/{kind}/kernel"\n'
    )
    reference = {PARAM: ONES, "step0/bn/updated_buffer/running_mean": ONES}
    candidate = {
        "step0/fc/param/kernel": ONES,
        "step0/bn/updated_buffer/batch_stats.mean": ONES,
    }
    report = compare_traces(
        memory_trace(reference),
        memory_trace(candidate),
        load_backend("numpy"),
        map_file=read_map(tmp_path / "map.toml"),
    )
    (remark,) = report.remarks
    assert remark.startswith(
        "no rule of the map pairs any updated_buffer, of which 1 are in the reference "
        "and 1 in the candidate: a map that was proposed of runs without them does not "
        "know them; 'ttrace map "
    )


def _unheld_info(*names: tuple[tuple[str, str], ...]) -> TraceInfo:
    info = memory_trace(
        {f"step0/{module}/param/weight": ONES for module in "ab"}, {"dp": len(names)}
    ).info
    return replace(
        info,
        ranks=tuple(
            replace(rank, settings=unheld_setting(of_rank))
            for rank, of_rank in zip(info.ranks, names, strict=True)
        ),
    )


def test_what_another_rank_steps_is_held():
    a, b = ("a", "weight"), ("b", "weight")
    assert parameters_of_no_optimizer(_unheld_info((a,), (b,))) is None
    assert parameters_of_no_optimizer(_unheld_info((), ())) is None
    said = parameters_of_no_optimizer(_unheld_info((a, b), (b,)))
    assert said is not None and said.startswith(
        "no optimizer that was given to trace() on any rank holds b.weight, so that no"
    )
    said = parameters_of_no_optimizer(_unheld_info((a, b), (a, b)))
    assert said is not None and "holds a.weight and 1 more parameters, so" in said
