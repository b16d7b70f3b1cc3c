"""Modules of two runs that belong together."""

from pathlib import Path

from tests.factories.ports import Pair, make_nested
from tests.factories.traces import memory_trace
from ttrace.ir.side import Side
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.modules import Link, links_of, pair_modules
from ttrace.map_proposal.proposing import propose_map
from ttrace.map_proposal.recorded_activations import Activations, Instance
from ttrace.mapping.groups import find_groups


def paired(pair: Pair) -> tuple[list[Link], dict[str, str]]:
    """What the parameters tell, and the candidate's modules by the reference's."""
    reference, candidate = memory_trace(pair.reference), memory_trace(pair.candidate)
    map_file = propose_map(reference, candidate, Path("m.toml")).map_file
    groups = find_groups(map_file, reference.info, candidate.info)
    links = links_of(group for group in groups if group.key.kind == "param")
    sides = {
        Side.REFERENCE: Activations(reference),
        Side.CANDIDATE: Activations(candidate),
    }
    modules = pair_modules(links, Agreements(sides))
    return links, {own.module: other.module for own, other in modules.items()}


def test_a_container_is_what_holds_the_same_modules():
    _, modules = paired(make_nested())
    assert modules == {
        "top.block.fc": "body.up",
        "top.head": "out",
        "top.block": "body",
    }


def test_of_several_containers_the_one_with_the_same_output():
    pair = make_nested()
    outer = pair.values(2, 5, 8)
    pair.reference["step0/mb0/top.block.inner/output/0"] = outer
    pair.add("top.block.inner.fc2/param/w", "body.deep.up2/param/w", pair.values(6, 3))
    pair.candidate["step0/mb0/body.deep/output/0"] = outer.transpose(1, 0, 2).copy()
    _, modules = paired(pair)
    assert modules["top.block.inner"] == "body.deep"
    assert modules["top.block"] == "body"


def test_links_of_stacked_layers_are_calls():
    pair = Pair()
    layers = pair.values(2, 5, 3)
    for i in range(2):
        pair.reference[f"step0/h.{i}.fc/param/w"] = layers[i]
    pair.candidate["step0/layers.fc/param/w"] = layers
    links, _ = paired(pair)
    assert {(link.reference, link.candidate) for link in links} == {
        (Instance(module=f"h.{i}.fc"), Instance(module="layers.fc", call=i))
        for i in range(2)
    }
    assert not any(link.is_joined for link in links)


def test_children_without_parameters_by_what_they_give():
    pair = make_nested()
    pair.activation("top.block.act", "body.gelu", "output")
    pair.activation("top.block.other", "elsewhere", "output")
    _, modules = paired(pair)
    assert modules["top.block.act"] == "body.gelu"
    assert "top.block.other" not in modules


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
    links, modules = paired(pair)
    assert all(link.is_joined for link in links)
    assert modules == {"attn": "self"}


def test_a_parameter_of_the_model_itself_makes_it_no_module_of_the_other_run():
    """Such as positions: an embedding's weight here, the whole model's own there."""
    pair = make_nested()
    pair.add("top.pos/param/weight", "@root/param/pos", pair.values(7, 3))
    pair.reference["step0/mb0/top.pos/output/0"] = pair.values(2, 5, 3)
    pair.candidate["step0/mb0/@root/output/0"] = pair.values(2, 3, 5)
    _, modules = paired(pair)
    assert modules["top.head"] == "out"
    assert "top.pos" not in modules
