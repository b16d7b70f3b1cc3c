"""The ids that a pattern may match, found without trying all."""

import pytest

from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.mapping.id_index import IdIndex
from ttrace.mapping.names import parse_pattern

IDS = tuple(
    map(
        parse_tensor_id,
        (
            "step0/a.b/param/w",
            "step0/a.b/optimizer_state/w.exp_avg",
            "step0/a.b/optimizer_state/w.g.mu",
            "step0/a.c/param/w",
            "step0/a.c/param/w.g",
            "step0/mb0/a.b/output/0/call1",
            "step0/mb0/@root/loss",
        ),
    )
)


@pytest.mark.parametrize(
    "text",
    [
        "a.b/{kind}/w",
        "a.{i}/{kind}/w",
        "{m*}/{kind}/w",
        "a.c/{kind}/w.g",
        "a.b/{kind}/w.g",
        "a.b/{kind}/{s}",
        "a.b/output/0/call{i}",
        "@root/loss",
        "x/{kind}/w",
    ],
)
def test_all_that_match_are_found_in_order(text):
    pattern = parse_pattern(text)
    found = [id_ for id_ in IdIndex(IDS).that_may_match(pattern) if pattern.match(id_)]
    assert found == [id_ for id_ in IDS if pattern.match(id_)]


def test_a_name_leads_to_few():
    assert tuple(IdIndex(IDS)) == IDS
    found = IdIndex(IDS).that_may_match(parse_pattern("a.c/{kind}/w"))
    assert list(found) == [IDS[3]]
