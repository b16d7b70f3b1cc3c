"""Which outputs without counterpart lie behind the place where two runs part."""

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.beyond_agreement import Anchor, beyond_agreement
from ttrace.map_proposal.recorded_activations import Activations


def beyond(reference: list[str], candidate: list[str], same: dict[str, str]):
    """What is left of outputs of either run, where some are the same in both."""
    pair = Pair()
    texts = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    runs = {Side.REFERENCE: pair.reference, Side.CANDIDATE: pair.candidate}
    for side in Side:
        for text in texts[side]:
            runs[side][f"step0/mb0/{text}"] = pair.values(2, 3)
    for own, other in same.items():
        value = pair.reference[f"step0/mb0/{own}"]
        pair.candidate[f"step0/mb0/{other}"] = value.copy()
    sides = {side: Activations(memory_trace(runs[side])) for side in Side}
    ids = {
        side: {
            str(id_): (instance, id_)
            for instance in sides[side].instances()
            for id_ in sides[side].slots(instance, Kind.OUTPUT).values()
        }
        for side in Side
    }
    anchors = [
        Anchor(
            reference=parse_tensor_id(f"step0/mb0/{own}"),
            candidate=parse_tensor_id(f"step0/mb0/{other}"),
        )
        for own, other in same.items()
    ]
    known = {str(a.reference) for a in anchors} | {str(a.candidate) for a in anchors}
    left = {
        side: [found for text, found in ids[side].items() if text not in known]
        for side in Side
    }
    places = {side: sides[side].order() for side in Side}
    found = beyond_agreement(sides, left, anchors, places)
    return tuple([str(id_)[10:] for _, id_ in outputs] for outputs in found)


def layers(*parts: str) -> list[str]:
    return [f"h.{n}.{part}/output/0" for n in range(3) for part in parts]


def calls(*scopes: str) -> list[str]:
    suffix = ("", "/call1", "/call2")
    return [f"{scope}/output/0{suffix[n]}" for n in range(3) for scope in scopes]


def test_what_lies_within_something_that_agrees_has_no_counterpart_in_any_layer():
    own, other = beyond(
        layers("attn.q", "attn", "mlp.down"),
        calls("attn.scores", "attn", "mlp"),
        {"h.0.attn/output/0": "attn/output/0"},
    )
    assert own == [
        "h.0.mlp.down/output/0",
        "h.1.attn/output/0",
        "h.1.mlp.down/output/0",
        "h.2.attn/output/0",
        "h.2.mlp.down/output/0",
    ]
    assert sorted(other) == [
        "attn/output/0/call1",
        "attn/output/0/call2",
        "mlp/output/0",
        "mlp/output/0/call1",
        "mlp/output/0/call2",
    ]


def test_nothing_that_agrees_tells_nothing():
    names = layers("attn.q", "attn"), calls("attn.scores", "attn")
    assert [sorted(left) for left in beyond(*names, {})] == [*map(sorted, names)]


def test_on_top_only_what_comes_behind_is_left():
    own, _ = beyond(
        ["embed/output/0", "norm/output/0", "head/output/0"],
        ["stem/output/0", "out/output/0"],
        {"norm/output/0": "stem/output/0"},
    )
    assert own == ["head/output/0"]
