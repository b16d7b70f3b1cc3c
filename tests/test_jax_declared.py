import pytest

from ttrace.errors import LayoutError
from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.ir.tensor_id import Kind, TensorId

DIMS = DeclaredDims.parse(
    {"*.mlp/grad_*": "b h partial[tp]", "*.mlp": "b h[tp]", "out": "b[dp] h"}
)


@pytest.mark.parametrize(
    ("module", "kind", "text"),
    [
        ("h.0.mlp", Kind.OUTPUT, "b h[tp]"),
        ("h.0.mlp", Kind.GRAD_OUTPUT, "b h partial[tp]"),
        ("out", Kind.GRAD_OUTPUT, "b[dp] h"),
        ("elsewhere", Kind.OUTPUT, None),
    ],
)
def test_the_first_pattern_that_matches_counts(module, kind, text):
    dims = DIMS.of(TensorId(step=0, module=module, kind=kind, slot="0"))
    assert (None if dims is None else str(dims)) == text


def test_a_text_that_cannot_be_read_is_refused():
    with pytest.raises(LayoutError):
        DeclaredDims.parse({"*": "b[dp"})
