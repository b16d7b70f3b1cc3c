"""Rates of dropout, as traces write them down."""

import pytest

from ttrace.ir.dropout import (
    collapsed,
    dropout_key,
    effective,
    parse_dropout_key,
    rate_of,
    rate_text,
    stated_rates,
    without_dropout,
)


@pytest.mark.parametrize("attribute", [None, "attention_dropout"])
def test_keys_round_trip(attribute):
    key = dropout_key("layers.0.attn", attribute)
    assert parse_dropout_key(key) == ("layers.0.attn", attribute)
    assert without_dropout({key: 1, "tp": 2}) == {"tp": 2}


@pytest.mark.parametrize(
    ("rate", "is_training", "text"),
    [(0.1, True, "0.1"), (0.1, False, "0 in eval mode"), (0.0, False, "0")],
)
def test_texts(rate, is_training, text):
    assert rate_text(rate, is_training=is_training) == text
    assert effective(text) == (text if is_training else "0")


def test_layers_that_are_alike_are_one():
    keys = [dropout_key(f"layers.{number}.drop") for number in range(3)]
    texts = dict.fromkeys(keys, "0.1")
    assert collapsed(texts) == {dropout_key("layers.*.drop"): "0.1"}
    assert rate_of(keys[1], collapsed(texts)) == "0.1"
    texts[keys[1]] = "0.2"
    assert collapsed(texts) == texts
    assert rate_of(keys[1], texts) == "0.2"


def test_single_modules_of_a_later_step_replace_what_stood_for_all():
    common, single = dropout_key("layers.*.drop"), dropout_key("layers.0.drop")
    ranks = [{common: "0.1", "tp": 2}, {single: "0.1; from step 1 on 0"}]
    assert stated_rates(ranks) == {single: "0.1; from step 1 on 0"}
