"""Parameters that a script writes to after the optimizer's step, or does not."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

START = np.linspace(1, 2, 8, dtype=np.float32)


def run(**written):
    tensors = {}
    for name in ("a", "b", "c"):
        tensors[f"step0/{name}/param/weight"] = START
        tensors[f"step0/{name}/updated_param/weight"] = START / 2
    tensors["step0/k/param/weight"] = START
    for name, values in written.items():
        tensors[f"step0/{name}/written_param/weight"] = values
    return memory_trace(tensors)


def said(reference, candidate) -> list[tuple[str, str]]:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return [(found.code, found.sentence) for found in report.diagnosis]


LOOK = (
    "Compare what the scripts do to parameters between optimizer.step() and "
    "trace.step(), such as clamping, normalising or averaging them"
)


def test_only_one_run_writes():
    clamped = np.sqrt(START)
    writes, leaves = run(a=clamped, b=clamped, c=clamped), run()
    assert said(writes, leaves) == [
        (
            "written_parameters",
            "the reference writes to a.weight, b.weight and 1 more parameter after the "
            "optimizer's step 0, and the candidate does not: at the end of the step "
            f"the runs differ in them; what the optimizers left agrees. {LOOK}",
        )
    ]
    ((_, sentence),) = said(run(), run(a=clamped))
    assert sentence.startswith("the candidate writes to a.weight after the optimizer's")


def test_both_write_other_values():
    ((_, sentence),) = said(run(a=np.sqrt(START)), run(a=np.square(START)))
    assert sentence == (
        "both runs write to a.weight after the optimizer's step 0, and what they write "
        f"differs; what the optimizers left agrees. {LOOK}"
    )


def test_of_a_parameter_that_no_optimizer_holds():
    ((_, sentence),) = said(run(k=np.sqrt(START)), run())
    assert sentence == (
        "the reference writes to k.weight in step 0, beside its optimizer, and the "
        f"candidate does not: at the end of the step the runs differ in it. {LOOK}"
    )


def test_as_the_other_run_writes_nothing_is_said():
    assert said(run(a=np.sqrt(START)), run(a=np.sqrt(START))) == []
