"""Outputs of modules whose weights are parts of one matrix."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from ttrace.ir.side import Side
from ttrace.map_proposal.joined import pair_joined_outputs
from ttrace.map_proposal.recorded_activations import Activations
from ttrace.map_proposal.underived import Underived
from ttrace.map_proposal.units import Pairing
from ttrace.mapping.groups import find_groups
from ttrace.mapping.map_file import parse_map

GROUPED = """
[[tensor]]
reference = ["q/{kind}/w", "k/{kind}/w", "v/{kind}/w"]
candidate = "qkv/{kind}/w"
transform = "(g part) h -> (g part) h"
join = "part"
sizes = { g = 2, part = [12, 3, 3] }
"""


def interleaved() -> Pair:
    """Weights and outputs of query groups, apart and interleaved."""
    pair = Pair()
    weight, output = pair.values(2, 18, 8), pair.values(5, 3, 2, 18)
    pair.candidate["step0/qkv/param/w"] = weight.reshape(36, 8)
    pair.candidate["step0/mb0/qkv/output/0"] = output.reshape(5, 3, 36)
    for name, start, stop in (("q", 0, 12), ("k", 12, 15), ("v", 15, 18)):
        pair.reference[f"step0/{name}/param/w"] = weight[:, start:stop].reshape(-1, 8)
        part = output[..., start:stop].reshape(5, 3, -1)
        pair.reference[f"step0/mb0/{name}/output/0"] = part
    return pair


def joined(pair: Pair, text: str = GROUPED) -> list[Pairing]:
    reference, candidate = memory_trace(pair.reference), memory_trace(pair.candidate)
    map_file = parse_map(text, Path("map.toml"))
    groups = [
        group
        for group in find_groups(map_file, reference.info, candidate.info)
        if group.key.kind == "param"
    ]
    sides = {
        Side.REFERENCE: Activations(reference),
        Side.CANDIDATE: Activations(candidate),
    }
    underived = Underived()
    pairings = pair_joined_outputs(groups, sides, underived)
    assert underived.notes == []
    return pairings


def test_outputs_are_joined_as_the_weights_are():
    (found,) = joined(interleaved())
    assert found.reference == ("q/{kind}/0", "k/{kind}/0", "v/{kind}/0")
    assert found.candidate == ("qkv/{kind}/0",)
    assert str(found.transform) == "x y (g part) -> x y (g part)"
    assert found.part_sizes == (12, 3, 3) and found.sizes["g"] == 2
    assert found.verified and found.to_rule() is not None


def test_the_sequence_may_come_first():
    pair = interleaved()
    name = "step0/mb0/qkv/output/0"
    pair.candidate[name] = pair.candidate[name].transpose(1, 0, 2).copy()
    (found,) = joined(pair)
    assert str(found.transform) == "y x (g part) -> x y (g part)" and found.verified


def test_of_dims_of_equal_length_the_values_tell_the_order():
    pair = Pair()
    weight, output = pair.values(2, 18, 8), pair.values(4, 4, 2, 18)
    pair.candidate["step0/qkv/param/w"] = weight.reshape(36, 8)
    turned = output.transpose(1, 0, 2, 3).reshape(4, 4, 36)
    pair.candidate["step0/mb0/qkv/output/0"] = turned
    for name, start, stop in (("q", 0, 12), ("k", 12, 15), ("v", 15, 18)):
        pair.reference[f"step0/{name}/param/w"] = weight[:, start:stop].reshape(-1, 8)
        part = output[..., start:stop].reshape(4, 4, -1)
        pair.reference[f"step0/mb0/{name}/output/0"] = part
    (found,) = joined(pair)
    assert str(found.transform) == "y x (g part) -> x y (g part)" and found.verified


def test_values_that_differ_are_unsure():
    pair = interleaved()
    pair.candidate["step0/mb0/qkv/output/0"][0] += 1
    (found,) = joined(pair)
    assert not found.verified and "its values differ" in found.comment


@pytest.mark.parametrize("shape", [(5, 3, 35), (5, 36), (5, 3, 2, 9, 2)])
def test_outputs_of_other_dims_are_left(shape):
    pair = interleaved()
    pair.candidate["step0/mb0/qkv/output/0"] = np.ones(shape, np.float32)
    assert joined(pair) == []


def test_without_one_of_the_outputs_nothing_is_joined():
    pair = interleaved()
    del pair.reference["step0/mb0/k/output/0"]
    assert joined(pair) == []


def test_the_joined_axis_may_be_a_dim_of_its_own():
    """Gate and up projection in one kernel, ``[in, 2, out]``."""
    pair = Pair()
    kernel, output = pair.values(6, 2, 7), pair.values(5, 3, 2, 7)
    pair.candidate["step0/wi/param/w"] = kernel
    pair.candidate["step0/mb0/wi/output/0"] = output
    for number, name in enumerate(("gate", "up")):
        pair.reference[f"step0/{name}/param/w"] = kernel[:, number].T.copy()
        pair.reference[f"step0/mb0/{name}/output/0"] = output[:, :, number].copy()
    text = """
    [[tensor]]
    reference = ["gate/{kind}/w", "up/{kind}/w"]
    candidate = "wi/{kind}/w"
    transform = "b part a -> a b"
    join = "part"
    """
    (found,) = joined(pair, text)
    assert str(found.transform) == "x y part a -> x y a" and found.verified


def test_the_joined_axis_may_lie_in_front_of_the_batch():
    """Keys and values of one einsum: ``BSD,2DKH->2BSKH``."""
    pair = Pair()
    weight, output = pair.values(2, 6, 4, 3), pair.values(2, 5, 7, 4, 3)
    pair.candidate["step0/kv/param/w"] = weight
    pair.candidate["step0/mb0/kv/output/0"] = output
    for number, name in enumerate(("k", "v")):
        part = weight[number].reshape(6, 12).T.copy()
        pair.reference[f"step0/{name}/param/w"] = part
        pair.reference[f"step0/mb0/{name}/output/0"] = output[number].reshape(5, 7, 12)
    text = """
    [[tensor]]
    reference = ["k/{kind}/w", "v/{kind}/w"]
    candidate = "kv/{kind}/w"
    transform = "part d k h -> (k h) d"
    join = "part"
    sizes = { h = 3 }
    """
    (found,) = joined(pair, text)
    assert str(found.transform) == "part x y k h -> x y (k h)" and found.verified


def test_an_output_of_other_length_is_not_joined():
    """The whole module of an LSTM gives one gate's length, its matrix has four."""
    pair = Pair()
    gates = [pair.values(8, 5) for _ in range(4)]
    pair.reference["step0/lstm/param/w"] = np.concatenate(gates)
    pair.reference["step0/mb0/lstm/output/0"] = pair.values(2, 12, 8)
    text = "[[tensor]]\nreference = 'lstm/{kind}/w'\ncandidate = ["
    for number, gate in enumerate(gates):
        pair.candidate[f"step0/cell.g{number}/param/w"] = gate.T.copy()
        pair.candidate[f"step0/mb0/cell.g{number}/output/0"] = pair.values(2, 8)
        text += f"'cell.g{number}/{{kind}}/w', "
    assert joined(pair, f"{text}]\ntransform = 'a b -> (p b) a'\njoin = 'p'\n") == []
