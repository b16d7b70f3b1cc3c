import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.errors import TensorIdError
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId, parse_tensor_id

names = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="/"),
    min_size=1,
)
tricky = st.sampled_from(["mb1", "output", "call1", "recompute", "step0", "0", "mb"])


@given(st.data())
def test_the_text_round_trips(data):
    parts = {
        "step": data.draw(st.integers(0, 99)),
        "module": data.draw(names | tricky),
        "kind": data.draw(st.sampled_from(Kind)),
        "microbatch": data.draw(st.none() | st.integers(0, 99)),
        "slot": data.draw(st.none() | names | tricky),
        "call": data.draw(st.integers(0, 3)),
        "pass_": data.draw(st.sampled_from(Pass)),
    }
    try:
        id_ = TensorId(**parts)
    except TensorIdError as error:
        assert "reserved" in error.what
        return
    assert parse_tensor_id(str(id_)) == id_


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        (
            TensorId(
                step=0,
                microbatch=1,
                module="decoder.layers.3.mlp",
                kind=Kind.OUTPUT,
                slot="0",
            ),
            "step0/mb1/decoder.layers.3.mlp/output/0",
        ),
        (
            TensorId(
                step=2,
                microbatch=0,
                module="m",
                kind=Kind.GRAD_INPUT,
                slot="1.mask",
                call=2,
                pass_=Pass.RECOMPUTE,
            ),
            "step2/mb0/m/grad_input/1.mask/call2/recompute",
        ),
        (
            TensorId(step=1, module=ROOT_MODULE, kind=Kind.GRAD_NORM),
            "step1/@root/grad_norm",
        ),
        (
            TensorId(step=1, module="m", kind=Kind.LOSS, pass_=Pass.RECOMPUTE),
            "step1/m/loss/recompute",
        ),
    ],
)
def test_text_of_an_id(id_, text):
    assert str(id_) == text
    assert parse_tensor_id(text) == id_


def test_patterns_span_slashes():
    id_ = parse_tensor_id("step0/mb1/decoder.layers.3.mlp/output/0")
    assert id_.matches("step0/*/output/*")
    assert id_.matches("*layers.3*")
    assert not id_.matches("*Layers.3*")
    assert not id_.matches("layers.3*")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step0",
        "step0/m",
        "step0/m/outputs",
        "stepx/m/output",
        "step0/m/output/0/1",
        "step-1/m/output",
        "step0//output",
        "step0/m/output/0\n",
        "step0/a b/output",
    ],
)
def test_text_that_is_no_id(text):
    with pytest.raises(TensorIdError) as error:
        parse_tensor_id(text)
    kinds = ", ".join(kind.value for kind in Kind)
    assert str(error.value) == (
        "not a tensor id\n"
        "  expected: step<n>[/mb<n>]/<module>/<kind>[/<slot>][/call<n>][/recompute], "
        f"with a kind out of {kinds}\n"
        f"  got:      {text!r}\n"
        "  to do:    copy an id from 'ttrace show' or from a report"
    )


@pytest.mark.parametrize("part", ["module", "slot"])
@pytest.mark.parametrize("value", ["", "a/b", "a b"])
def test_a_malformed_part(part, value):
    parts = {"module": "m", part: value}
    with pytest.raises(TensorIdError) as error:
        TensorId(step=0, kind=Kind.OUTPUT, **parts)
    assert str(error.value) == (
        f"the {part} of a tensor id is malformed\n"
        "  expected: one or more characters, no '/' and no white space\n"
        f"  got:      {value!r}\n"
        f"  to do:    give the {part} another name in the frontend"
    )


@pytest.mark.parametrize(
    ("part", "value"), [("module", "mb3"), ("slot", "call1"), ("slot", "recompute")]
)
def test_a_reserved_word(part, value):
    parts = {"module": "m", part: value}
    with pytest.raises(TensorIdError) as error:
        TensorId(step=0, kind=Kind.OUTPUT, **parts)
    assert str(error.value) == (
        f"the {part} of a tensor id is a reserved word\n"
        f"  where:    {parts['module']}\n"
        "  expected: not 'mb<n>' as module, not 'call<n>' or 'recompute' as slot\n"
        f"  got:      {value!r}\n"
        f"  to do:    give the {part} another name in the frontend"
    )


@pytest.mark.parametrize(
    ("step", "microbatch", "call"), [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
)
def test_counts_start_at_zero(step, microbatch, call):
    with pytest.raises(TensorIdError) as error:
        TensorId(
            module="m", kind=Kind.OUTPUT, step=step, microbatch=microbatch, call=call
        )
    assert str(error.value) == (
        "a tensor id counts below zero\n"
        "  where:    m\n"
        f"  got:      step {step}, micro-batch {microbatch}, call {call}\n"
        "  to do:    count steps, micro-batches and calls from 0"
    )
