import dataclasses

import pytest

from ttrace.errors import TensorIdError
from ttrace.frontends.jax_parts.taps.sites import (
    TAPPED_KINDS,
    TapSite,
    clean_name,
    next_serial,
    parse_tap_name,
    value_site,
)
from ttrace.ir.kinds import GRADIENT_OF, Kind
from ttrace.ir.tensor_id import ROOT_MODULE


def test_a_site_is_a_static_value():
    site = value_site("blocks.3", Kind.OUTPUT, "0", spec=("dp", None))
    assert site == dataclasses.replace(site)
    assert hash(site) == hash(dataclasses.replace(site))
    assert str(site.tensor_id(Kind.GRAD_OUTPUT)) == "step0/blocks.3/grad_output/0"


@pytest.mark.parametrize("kind", sorted(TAPPED_KINDS))
def test_a_site_knows_the_gradient_of_its_kind(kind):
    site = value_site("m", kind, None)
    assert site.grad == GRADIENT_OF.get(kind)
    assert site.noise == (kind is Kind.OUTPUT)


def test_the_model_itself_is_the_root():
    assert value_site("", Kind.INPUT, "0", noise=True) == TapSite(
        module=ROOT_MODULE,
        kind=Kind.INPUT,
        slot="0",
        grad=Kind.GRAD_INPUT,
        noise=True,
    )


@pytest.mark.parametrize("kind", sorted(set(Kind) - TAPPED_KINDS))
def test_gradients_and_ops_are_not_tapped_by_themselves(kind):
    with pytest.raises(TensorIdError, match="value of this kind cannot be tapped"):
        TapSite(module="m", kind=kind)


def test_a_site_refuses_what_is_no_tensor_id():
    with pytest.raises(TensorIdError, match="the module of a tensor id is malformed"):
        TapSite(module="a b", kind=Kind.OUTPUT)


@pytest.mark.parametrize(
    ("text", "name"),
    [("a b", "a_b"), ("a/b", "a_b"), ("call3", "call3_"), ("", "_"), ("ok", "ok")],
)
def test_names_are_made_fit_for_ids(text, name):
    assert clean_name(text) == name


@pytest.mark.parametrize(
    ("name", "kind", "parsed"),
    [
        ("blocks.3", None, ("blocks.3", Kind.OUTPUT, None)),
        ("blocks.3", Kind.INPUT, ("blocks.3", Kind.INPUT, None)),
        ("b/input", None, ("b", Kind.INPUT, None)),
        ("b/param/kernel", None, ("b", Kind.PARAM, "kernel")),
        ("b/param/kernel", Kind.PARAM, ("b", Kind.PARAM, "kernel")),
    ],
)
def test_names_of_taps(name, kind, parsed):
    assert parse_tap_name(name, kind) == parsed


@pytest.mark.parametrize(
    "name", ["", "/output", "a/b", "a/output/0/1", "a/grad_output"]
)
def test_malformed_names_of_taps(name):
    with pytest.raises(TensorIdError, match="a tap has a malformed name"):
        parse_tap_name(name, None)


def test_a_tap_has_one_kind():
    with pytest.raises(TensorIdError, match="two kinds") as caught:
        parse_tap_name("b/input", Kind.OUTPUT)
    assert (caught.value.expected, caught.value.got) == ("input", "kind=output")


def test_serials_differ():
    assert next_serial() != next_serial()
