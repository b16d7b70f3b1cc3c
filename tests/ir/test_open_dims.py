import pytest

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.open_dims import with_rest


@pytest.mark.parametrize(
    ("text", "num_dims", "full"),
    [
        ("...", 0, ""),
        ("...", 2, "d0 d1"),
        ("b[dp] ...", 1, "b[dp]"),
        ("b[dp] ...", 3, "b[dp] d1 d2"),
        ("b ... partial[tp]", 2, "b d1 partial[tp]"),
        ("... partial[tp]", 0, "partial[tp]"),
        ("b[dp] h partial[tp]", 2, "b[dp] h partial[tp]"),
    ],
)
def test_further_dims_are_written_out(text, num_dims, full):
    assert str(parse_dims(with_rest(text, num_dims))) == full


@pytest.mark.parametrize(
    "text", ["... h[tp]", "b ... ...", "... partial", "(b ...)[dp]"]
)
def test_nothing_but_a_sum_follows(text):
    with pytest.raises(LayoutError, match=r"dims follow the \.\.\. of a dims") as error:
        with_rest(text, 3)
    assert error.value.where == repr(text)
    assert error.value.expected == (
        "... as the last dim; only partial[axis] may follow"
    )
    assert "write ... for the others" in error.value.remedy


@pytest.mark.parametrize("text", ["b[dp ...", "b[dp:half] ..."])
def test_the_named_dims_are_read_as_ever(text):
    with pytest.raises(LayoutError, match="not a dims text"):
        with_rest(text, 3)
