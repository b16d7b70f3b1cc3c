"""How the tolerances of a report came about."""

from dataclasses import replace

from tests.factories.reports import FAILED, PASSED, some_report
from ttrace.report.html.tolerances import tolerance_origins, tolerances_by_kind


def test_origins_of_tolerances():
    origins = tolerance_origins(some_report(tensors=(PASSED, FAILED, FAILED)))
    assert [(row.name, row.count) for row in origins] == [
        ("perturbed", 2),
        ("uncalibrated", 1),
    ]
    assert origins[0].example == FAILED.tolerance_derivation
    assert origins[1].words.startswith("a guess from the dtype")


def test_by_kind_in_the_order_of_a_step():
    measured = replace(
        PASSED,
        tolerance_from="perturbed",
        tolerance=2e-6,
        tolerance_least=1e-6,
        tolerance_per_multiplier=5e-7,
        noise_share=5e-7,
    )
    at_least = replace(measured, tolerance=1e-6, noise_share=1e-8)
    exact = replace(PASSED, kind="param", tolerance_from="exact", tolerance=0.0)
    report = some_report(tensors=(FAILED, measured, at_least, PASSED, exact))
    param, output, main_grad = tolerances_by_kind(report)
    assert (param.kind, output.kind, main_grad.kind) == ("param", "output", "main_grad")
    assert (param.exact, param.smallest, param.at_least) == (1, None, 0)
    assert (output.measured, output.at_least, output.uncalibrated) == (2, 1, 1)
    assert output.smallest == 1e-6 and output.median == 2e-6
    assert output.largest == PASSED.tolerance and output.largest_share == 5e-7
    assert main_grad.at_least is None, "a report that does not say it"
