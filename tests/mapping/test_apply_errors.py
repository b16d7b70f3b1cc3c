"""Maps applied to traces: every way not to fit."""

from pathlib import Path

import pytest

from tests.factories.mapped_models import (
    EMBED,
    EMBEDDING,
    IGNORED,
    LOSS,
    PADDED,
    D,
    compare,
    values,
)
from tests.factories.routed_traces import FULL, ID, routed
from tests.factories.traces import Tensors, memory_trace
from ttrace.errors import MapError, UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.mapping.apply import map_traces
from ttrace.mapping.map_file import parse_map
from ttrace.report.model import Outcome


def error_of(text: str, reference: Tensors, candidate: Tensors) -> MapError:
    with pytest.raises(MapError) as caught:
        compare(text, reference, candidate)
    return caught.value


def test_a_rule_that_matches_nothing():
    reference, candidate = {"step0/a/param/w": LOSS}, {"step0/b.mlp/param/w": LOSS}
    text = '\n[[tensor]]\nreference = "a.x/{kind}/w"\ncandidate = "b.fc/{kind}/w"\n'
    error = error_of(text, reference, candidate)
    assert error.what == "a rule matches nothing in either run"
    assert error.where == "map.toml:2"
    assert error.expected == "a.x/{kind}/w or b.fc/{kind}/w"
    assert error.got == (
        "in the reference for example step0/a/param/w; "
        "in the candidate for example step0/b.mlp/param/w"
    )
    # Nothing is wrong where no tensor of the kind was recorded at all.
    text = '[[tensor]]\nreference = "c/input/0"\ncandidate = "b.mlp/input/0"\n'
    assert compare(text, reference, candidate).counts.unmatched == 2


def test_swapped_sides():
    reference, candidate = {"step0/a/param/w": LOSS}, {"step0/b/param/w": LOSS}
    text = '[[tensor]]\nreference = "b/{kind}/w"\ncandidate = "a/{kind}/w"\n'
    error = error_of(text, reference, candidate)
    assert error.what.startswith("the map's sides are swapped")
    assert error.where == "map.toml:1"


def test_an_entry_that_ignores_nothing():
    tensors = {"step0/a/param/w": LOSS}
    text = IGNORED.format(side="candidate", pattern="b/*")
    error = error_of(text, tensors, tensors)
    assert error.what == "a map ignores what the candidate does not have"
    assert error.where == "map.toml:2"


def test_a_tensor_matched_twice():
    tensors = {"step0/a.b/param/w": LOSS}
    text = (
        '[[tensor]]\nreference = "a.b/{kind}/w"\ncandidate = "a.b/{kind}/w"\n'
        '[[tensor]]\nreference = "{m*}/{kind}/w"\ncandidate = "{m*}/{kind}/w"\n'
    )
    error = error_of(text, tensors, tensors)
    assert error.what == "a tensor of the candidate is matched twice"
    assert error.where == "map.toml:1 and map.toml:4"
    assert str(error.got) == "step0/a.b/param/w"


def test_a_tensor_matched_twice_by_patterns_that_say_as_much():
    tensors = {"step0/a.b/param/w": LOSS, "step0/c.b/param/w": LOSS}
    text = (
        '[[tensor]]\nreference = "{m}.b/{kind}/w"\ncandidate = "{m}.b/{kind}/w"\n'
        '[[tensor]]\nreference = "a.{m}/{kind}/w"\ncandidate = "a.{m}/{kind}/w"\n'
    )
    error = error_of(text, tensors, tensors)
    assert error.what == "a tensor of the candidate is matched twice"
    assert str(error.got) == "step0/a.b/param/w"


def test_two_tensors_that_become_one():
    reference = {"step0/a/param/w": LOSS}
    candidate = {"step0/b/param/w": LOSS, "step0/a/param/w": LOSS}
    text = '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'
    error = error_of(text, reference, candidate)
    assert error.what == "two tensors of the candidate become one of the reference"
    assert "map.toml:1" in str(error.where) and "no rule names" in str(error.where)


@pytest.mark.parametrize(
    ("transform", "what", "says"),
    [
        ("a b -> a b", "a shape contradicts the transform", "[6, 8] from 'a b -> a b'"),
        ("a b c -> c b a", "a shape contradicts the transform", "has 2 dims"),
        ("a b -> b a 1", "a shape contradicts the transform", "has 2 dims"),
        ("(a b) c -> a b c", "a shape contradicts the transform", "has 2 dims"),
        ("(a b) c -> (b a) c", "a shape contradicts the transform", "with c 8"),
    ],
)
def test_a_shape_that_contradicts_the_transform(transform, what, says):
    text = (
        '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'
        f'transform = "{transform}"\n'
    )
    reference = {"step0/a/param/w": values(8, 6)}
    error = error_of(text, reference, {"step0/b/param/w": values(6, 8)})
    assert error.what.startswith(what) and says in str(error)
    assert error.where == "map.toml:1"


def test_sizes_that_contradict_a_shape():
    text = (
        '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'
        'transform = "(a b) c -> a b c"\nsizes = { a = 4 }\n'
    )
    reference = {"step0/a/param/w": values(4, 2, 8)}
    error = error_of(text, reference, {"step0/b/param/w": values(6, 8)})
    assert "length 6, shape [6, 8], where the transform has (a b) with a 4" in str(
        error
    )


def test_runs_of_other_sizes_are_a_divergence_and_no_error_of_the_map():
    text = (
        '[[tensor]]\nreference = "a/{kind}/0"\ncandidate = "b/{kind}/0"\n'
        'transform = "b s -> s b"\n'
    )
    reference = {"step0/mb0/a/output/0": values(4, 3)}
    report = compare(text, reference, {"step0/mb0/b/output/0": values(2, 4)})
    assert report.verdict is Outcome.DIVERGED
    assert "logical shapes differ: [4, 3]" in report.tensors[0].reason


def test_padding_shorter_than_the_tensor():
    text = EMBED.replace("10", "12")
    error = error_of(
        text,
        {"step0/wte/param/weight": EMBEDDING},
        {"step0/embed/param/embedding": PADDED},
    )
    assert error.what == "a tensor is shorter than it should be without padding"


def test_padding_on_both_sides():
    text = EMBED.replace("10", "8")
    other = PADDED.copy()
    other[8:] = 0
    report = compare(
        text,
        {"step0/wte/param/weight": EMBEDDING},
        {"step0/embed/param/embedding": other},
    )
    assert report.verdict is Outcome.PASS and report.tensors[0].shape == (8, D)


def test_a_call_that_is_no_number():
    text = '[[tensor]]\nreference = "a/output/0/call{i}"\ncandidate = "b{i}/output/0"\n'
    error = error_of(
        text, {"step0/mb0/a/output/0": LOSS}, {"step0/mb0/bx/output/0": LOSS}
    )
    assert error.what == "what a rule matched does not make a tensor id"
    assert "i = x" in str(error.got)


def test_rows_in_an_order_of_data_are_renamed_but_not_rearranged():
    candidate = routed({0: range(len(FULL))[::-1]}, {"dp": 1})
    tensor_id = parse_tensor_id(ID)
    name = f"{tensor_id.module}/{tensor_id.kind}/{tensor_id.slot}"
    other = name.replace(tensor_id.module, "other")
    rule = f'[[tensor]]\nreference = "{other}"\ncandidate = "{name}"\n'
    reference = memory_trace({ID.replace(tensor_id.module, "other"): FULL})
    report = compare(rule, reference, candidate)
    assert report.verdict is Outcome.PASS and report.counts.passed == 1
    rule += 'transform = "(a c) b -> (c a) b"\nsizes = { a = 3 }\n'
    report = compare(rule, reference, candidate)
    assert report.counts.skipped == 1
    assert "the order of its rows depends on data" in report.tensors[0].reason


def test_shards_of_another_trace():
    text = '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'
    reference = memory_trace({"step0/a/param/w": LOSS})
    candidate = memory_trace({"step0/b/param/w": LOSS})
    _, mapped = map_traces(parse_map(text, Path("m")), reference, candidate)
    (shard,) = mapped.info.tensors[parse_tensor_id("step0/a/param/w")].shards
    assert mapped.load(shard) == LOSS
    with pytest.raises(UsageError, match="mapped trace that does not hold it"):
        mapped.load(
            candidate.info.tensors[parse_tensor_id("step0/b/param/w")].shards[0]
        )
