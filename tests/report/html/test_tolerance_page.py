"""The page of a tolerance file."""

from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.report.html.tolerance_page import by_kind, render_tolerance


def table(**draws):
    return ToleranceTable(
        noise={
            parse_tensor_id(f"step0/mb0/{name}/output/0"): NoiseEstimate(
                draws=values, reference_norm=2.0
            )
            for name, values in draws.items()
        }
    )


def test_by_kind():
    (row,) = by_kind(table(a=(0.0, 0.0), b=(0.01, 0.02), c=(1.0, 0.5)))
    assert (row.kind, row.words) == ("output", "what a module returns")
    assert (row.num_tensors, row.num_silent, row.num_dominated) == (3, 1, 1)
    assert (row.median, row.largest) == (0.01, 0.5)


def test_the_noisiest_comes_first_and_is_said():
    text = render_tolerance(table(a=(0.01,), b=(1.0,)), name="tolerance.json")
    assert text.index("/<wbr>b/<wbr>output") < text.index("/<wbr>a/<wbr>output")
    assert "tolerance.json: what rounding noise did to 2 tensors in 1 noise run" in text
    assert "1 tensor have" not in text
    assert "1 tensor has noise of more than 0.1 of its own size" in text


def test_a_file_without_noise():
    text = render_tolerance(ToleranceTable(), name="none.json")
    assert "what rounding noise did to 0 tensors" in text
