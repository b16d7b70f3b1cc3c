import pytest

from ttrace.errors import LayoutError
from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId

DIMS = DeclaredDims.parse(
    {
        "*.mlp/grad_*": "b h partial[tp]",
        "*.mlp": "b h[tp]",
        "out": "b[dp] ...",
        "*/main_grad/*": "...",
    }
)


def named(module, kind, slot="0"):
    return TensorId(step=0, module=module, kind=kind, slot=slot)


@pytest.mark.parametrize(
    ("module", "kind", "text"),
    [
        ("h.0.mlp", Kind.INPUT, "b h[tp]"),
        ("h.0.mlp", Kind.OUTPUT, "b h[tp]"),
        ("h.0.mlp", Kind.GRAD_OUTPUT, "b h partial[tp]"),
        ("out", Kind.GRAD_OUTPUT, "b[dp] d1"),
        ("out", Kind.GRAD_INPUT, "b[dp] d1"),
        ("out", Kind.MAIN_GRAD, "d0 d1"),
        ("elsewhere", Kind.OUTPUT, None),
    ],
)
def test_the_first_pattern_that_matches_counts(module, kind, text):
    dims = DIMS.of(named(module, kind), 2)
    assert (None if dims is None else str(dims)) == text


@pytest.mark.parametrize(
    "kind",
    [
        Kind.PARAM,
        Kind.PARAM_GRAD,
        Kind.UPDATED_PARAM,
        Kind.OPTIMIZER_STATE,
        Kind.LOSS,
        Kind.GRAD_NORM,
    ],
)
def test_a_pattern_without_a_slash_speaks_of_activations_only(kind):
    assert DIMS.of(named("out", kind), 2) is None
    every = DeclaredDims.parse({"out/*": "..."})
    assert every.of(named("out", kind), 2) is not None


@pytest.mark.parametrize(("num_dims", "text"), [(1, "b[dp]"), (3, "b[dp] d1 d2")])
def test_further_dims_are_written_out(num_dims, text):
    assert str(DIMS.of(named("out", Kind.OUTPUT), num_dims)) == text


def test_patterns_that_match_nothing():
    ids = [named("h.0.mlp", Kind.OUTPUT), named("out", Kind.PARAM)]
    assert DIMS.unmatched(ids) == ("*.mlp/grad_*", "out", "*/main_grad/*")
    later = DeclaredDims.parse({"*": "...", "h.0.mlp": "b h"})
    assert later.unmatched(ids) == ()  # the first one counts; both match


@pytest.mark.parametrize("text", ["b[dp", "... b[dp]"])
def test_a_text_that_cannot_be_read_is_refused(text):
    with pytest.raises(LayoutError) as error:
        DeclaredDims.parse({"good": "b h", "*.mlp": text})
    assert error.value.where == f"jax_capture.trace(dims=...), '*.mlp': {text!r}"
    assert error.value.expected and error.value.got and error.value.remedy
