"""Activations that lie as the weights do that they are multiplied by."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.map_proposal.proposing import propose_map
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.map_writer import map_text
from ttrace.mapping.rules import TensorRule
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report

HEADS, DIM, D, BATCH, SEQUENCE = 4, 2, 8, 3, 5
PATH = Path("m.toml")


def attention(*, scale: float = 1.0, order: str = "h part d") -> Pair:
    """A fused projection of torch and three of flax, and the output projection.

    Args:
        scale: What the candidate's attention makes of its inner product.
        order: In which the candidate took the fused matrix apart; the reference reads
            it as ``h part d``.
    """
    pair = Pair()
    fused, out = pair.values(3 * D, D), pair.values(D, D)
    given = pair.values(BATCH, SEQUENCE, D)
    pair.reference["step0/a.qkv/param/weight"] = fused
    shape = (HEADS, 3, DIM) if order == "h part d" else (3, HEADS, DIM)
    number = 1 if order == "h part d" else 0
    kernels = np.moveaxis(fused.reshape(*shape, D), number, 0)
    pair.reference["step0/mb0/a/input/0"] = given
    pair.candidate["step0/mb0/b/input/0"] = given.copy()
    pair.reference["step0/mb0/a.qkv/output/0"] = given @ fused.T
    of_reference = (given @ fused.T).reshape(BATCH, SEQUENCE, HEADS, 3, DIM)
    made = []
    for name, kernel in zip("qkv", kernels, strict=True):
        pair.candidate[f"step0/b.{name}/param/kernel"] = kernel.transpose(2, 0, 1)
        head = np.einsum("bsi,hdi->bshd", given, kernel)
        pair.candidate[f"step0/mb0/b.{name}/output/0"] = head
        made.append(head)
    own = [of_reference[:, :, :, part] for part in range(3)]
    inside = (own[0] * own[1] * own[2]).reshape(BATCH, SEQUENCE, D)
    other = np.float32(scale) * made[0] * made[1] * made[2]
    pair.add("a.dense/param/weight", "b.o/param/kernel", out,
             out.T.reshape(HEADS, DIM, D))  # fmt: skip
    pair.add("mb0/a.dense/input/0", "mb0/b.o/input/0", inside, other)
    result = other.reshape(BATCH, SEQUENCE, D) @ out.T
    pair.add("mb0/a.dense/output/0", "mb0/b.o/output/0", inside @ out.T, result)
    pair.add("mb0/a/output/0", "mb0/b/output/0", inside @ out.T, result)
    losses = [np.array(np.abs(x).mean(), np.float32) for x in (inside, other)]
    pair.add("mb0/@root/loss", "mb0/@root/loss", *losses)
    return pair


def proposed(pair: Pair) -> tuple[dict[str, list[TensorRule]], Report]:
    """Rules by the reference's patterns, and what the written map gives."""
    traces = memory_trace(pair.reference), memory_trace(pair.candidate)
    map_file = propose_map(*traces, PATH).map_file
    again = parse_map(map_text(map_file), PATH)
    report = compare_traces(*traces, load_backend("numpy"), map_file=again)
    rules: dict[str, list[TensorRule]] = {}
    for rule in map_file.rules:
        rules.setdefault(str(rule.reference[0]), []).append(rule)
    return rules, report


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_input_lies_as_its_weight_also_where_its_values_differ(scale):
    rules, report = proposed(attention(scale=scale))
    rule = next(r for r in rules["a.dense/{kind}/0"] if "input" in (r.kinds or ()))
    assert rule.verified is (scale == 1.0)
    assert rule.transform is not None
    axes = rule.transform.candidate.dims[2:]
    assert rule.transform.reference.dims[2:] == ((*axes[0], *axes[1]),)
    if scale == 1.0:
        assert report.verdict == "pass" and report.counts.skipped == 0
        return
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/a.dense/input/0"
    assert rule.comment == "lying as the dims of its weight do: its values differ"


def test_features_in_another_order_agree_as_the_weights_do():
    """As of a rotation that takes neighbours for one that takes halves."""
    pair = Pair()
    weight, output = pair.values(D, D), pair.values(BATCH, SEQUENCE, D)

    def turned(array: np.ndarray) -> np.ndarray:
        apart = array.reshape(*array.shape[:-1], 2, 2, 2)
        return apart.swapaxes(-1, -2).reshape(array.shape)

    pair.add("q/param/weight", "q_proj/param/kernel", weight, turned(weight.T))
    pair.add("mb0/q/output/0", "mb0/q_proj/output/0", output, turned(output))
    rules, report = proposed(pair)
    (rule,) = rules["q/{kind}/0"]
    assert rule.verified and rule.transform is not None
    own, other = rule.transform.candidate.dims[2], rule.transform.reference.dims[2]
    assert other == (own[0], own[2], own[1])
    assert report.verdict == "pass"


def test_joined_parts_that_were_taken_apart_in_the_wrong_order_are_to_be_read():
    rules, report = proposed(attention(order="part h d"))
    (rule,) = rules["a.qkv/{kind}/weight"]
    assert not rule.verified
    assert rule.comment == (
        "by content: all elements are equal; but a gives something else, and content "
        "does not tell whether it reads the parts as (part b c), as they lie here, or "
        "as (b part c): look at the code that splits them"
    )
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/a.dense/input/0"
    (rule,) = proposed(attention())[0]["a.qkv/{kind}/weight"]
    assert rule.verified
