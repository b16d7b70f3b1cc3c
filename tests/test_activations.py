"""Modules paired by their parameters, and what they take and give."""

from pathlib import Path

import numpy as np
import pytest

from tests.port_factory import Pair
from tests.trace_factory import memory_trace
from ttrace.mapping.groups import Group, find_groups
from ttrace.mapping.proposal.activations import ActivationMatcher, links_of
from ttrace.mapping.proposal.proposing import propose_map
from ttrace.mapping.proposal.recorded_activations import Instance
from ttrace.mapping.rules import MapFile
from ttrace.store.reader import Trace


def made(pair: Pair) -> tuple[Trace, Trace, MapFile, list[Group]]:
    """Both traces, the proposed map, and its groups of parameters."""
    reference, candidate = memory_trace(pair.reference), memory_trace(pair.candidate)
    map_file = propose_map(reference, candidate, Path("m.toml")).map_file
    groups = [
        group
        for group in find_groups(map_file, reference.info, candidate.info)
        if group.key.kind == "param"
    ]
    return reference, candidate, map_file, groups


def rules(pair: Pair) -> dict[str, str]:
    """The candidate's patterns by those of the reference."""
    _, _, map_file, _ = made(pair)
    return {str(r.reference[0]): str(r.candidate[0]) for r in map_file.rules}


def nested() -> Pair:
    """A linear within two modules of the reference, and within one of the port."""
    pair = Pair()
    pair.add("top.block.fc/param/w", "body.up/param/w", pair.values(5, 3))
    pair.add("top.head/param/w", "out/param/w", pair.values(4, 4))
    pair.activation("top.block.fc", "body.up", "output")
    pair.activation("top.block", "body", "output")
    return pair


def test_a_container_is_what_holds_the_same_modules():
    assert rules(nested())["top.block/{kind}/0"] == "body/{kind}/0"


def test_of_several_containers_the_one_with_the_same_output():
    pair = nested()
    outer = pair.values(2, 5, 8)
    pair.reference["step0/mb0/top.block.inner/output/0"] = outer
    pair.add("top.block.inner.fc2/param/w", "body.deep.up2/param/w", pair.values(6, 3))
    pair.candidate["step0/mb0/body.deep/output/0"] = outer.transpose(1, 0, 2).copy()
    found = rules(pair)
    assert found["top.block.inner/{kind}/0"] == "body.deep/{kind}/0"
    assert found["top.block/{kind}/0"] == "body/{kind}/0"


def test_links_of_stacked_layers_are_calls():
    pair = Pair()
    layers = pair.values(2, 5, 3)
    for i in range(2):
        pair.reference[f"step0/h.{i}.fc/param/w"] = layers[i]
    pair.candidate["step0/layers.fc/param/w"] = layers
    _, _, _, groups = made(pair)
    links = links_of(groups)
    assert {(link.reference, link.candidate) for link in links} == {
        (Instance(module=f"h.{i}.fc"), Instance(module="layers.fc", call=i))
        for i in range(2)
    }
    assert not any(link.is_joined for link in links)


@pytest.mark.parametrize(
    ("change", "expected"), [(0.0, True), (1e-6, True), (0.1, False), (None, None)]
)
def test_whether_outputs_agree(change, expected):
    pair = nested()
    name = "step0/mb0/body.up/output/0"
    if change is None:
        del pair.candidate[name]
    else:
        pair.candidate[name] = (pair.candidate[name] * (1 + change)).astype(np.float32)
    matcher = ActivationMatcher(
        memory_trace(pair.reference), memory_trace(pair.candidate)
    )
    assert matcher.outputs_agree("top.block.fc", "body.up") is expected


def test_a_slot_of_the_same_name_comes_first():
    """Of several equal inputs any would agree."""
    pair = nested()
    same = pair.values(2, 5, 8)
    for slot in ("x", "y", "z"):
        pair.add(f"mb0/top.block/input/{slot}", f"mb0/body/input/{slot}", same)
    found = rules(pair)
    assert {found[f"top.block/{{kind}}/{s}"] for s in "xyz"} == {
        f"body/{{kind}}/{s}" for s in "xyz"
    }
    assert found["top.block/{kind}/y"] == "body/{kind}/y"


def test_modules_whose_weights_are_joined_are_no_children():
    """A module without parameters gives what the query projection gives."""
    pair = Pair()
    weight, output = pair.values(8, 2, 6), pair.values(2, 5, 2, 6)
    pair.reference["step0/attn.qk/param/w"] = weight.reshape(8, 12)
    pair.reference["step0/mb0/attn.qk/output/0"] = output.reshape(2, 5, 12)
    pair.reference["step0/mb0/attn.identity/output/0"] = output[:, :, 0].copy()
    for number, name in enumerate(("q", "k")):
        pair.candidate[f"step0/self.{name}/param/w"] = weight[:, number].copy()
        part = output[:, :, number].copy()
        pair.candidate[f"step0/mb0/self.{name}/output/0"] = part
    hidden = pair.values(2, 5, 8)
    pair.add("mb0/attn/output/0", "mb0/self/output/0", hidden)
    assert rules(pair) == {
        "attn.qk/{kind}/w": "self.q/{kind}/w",
        "attn.qk/{kind}/0": "self.q/{kind}/0",
        "attn/{kind}/0": "self/{kind}/0",
    }
