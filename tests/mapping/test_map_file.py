"""Map files: what is read, and what is refused with the line."""

from pathlib import Path

import pytest

from tests.paths import ROOT
from ttrace.errors import MapError
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.mapping import map_file
from ttrace.mapping.map_file import parse_map, read_map

PATH = Path("map.toml")
WHOLE = """\
version = 1

[[tensor]]
reference = "h.{i}.attn/{kind}/weight"
candidate = ["h.{i}.q/{kind}/kernel", "h.{i}.k/{kind}/kernel"]
kinds = ["param", "main_grad"]
transform = "d n -> d (t n)"
join = "t"

  [[ tensor ]]  # indented
reference = "wte/{kind}/weight"
candidate = "embed/{kind}/embedding"
transform = "(v w) d -> (v w) d"
sizes = { w = 2 }
unpadded = { v = 5 }
verified = false

[[ignore]]
side = "candidate"
pattern = "*.rotary/*"
reason = "computed elsewhere"

[states]
exp_avg = "momentum"
"""


def test_everything_that_a_file_can_say():
    found = parse_map(WHOLE, PATH)
    first, second = found.rules
    assert [str(pattern) for pattern in first.candidate] == [
        "h.{i}.q/{kind}/kernel",
        "h.{i}.k/{kind}/kernel",
    ]
    assert first.kinds == {Kind.PARAM, Kind.MAIN_GRAD} and first.join == "t"
    assert str(first.transform) == "d n -> d (t n)"
    assert (first.place, second.place) == ("map.toml:3", "map.toml:10")
    assert second.sizes == {"w": 2} and second.unpadded == {"v": 5}
    assert first.verified and not second.verified and found.num_unverified == 1
    (ignored,) = found.ignored
    assert ignored.side is Side.CANDIDATE and ignored.reason == "computed elsewhere"
    assert ignored.place == "map.toml:18"
    assert found.states == {"exp_avg": "momentum"}


def test_the_examples_of_the_docstring():
    text = (map_file.__doc__ or "").partition("::\n")[2].partition("\nKeys of")[0]
    found = parse_map(text, PATH)
    assert len(found.rules) == 4 and len(found.ignored) == 1


def test_the_examples_of_the_docs():
    page = ROOT / "docs" / "maps.md"
    text = page.read_text().partition("```toml\n")[2].partition("```")[0]
    found = parse_map(text, PATH)
    assert len(found.rules) == 6 and len(found.ignored) == 1
    assert found.rules[2].part_sizes == (4, 1, 1)


def test_entries_written_inline_have_no_line():
    text = 'tensor = [{ reference = "a/param/w", candidate = "b/param/w" }]'
    (rule,) = parse_map(text, PATH).rules
    assert rule.place == "map.toml"


def rule(**changed: str) -> str:
    keys = {"reference": '"a/{kind}/w"', "candidate": '"b/{kind}/w"'} | changed
    return "[[tensor]]\n" + "\n".join(f"{k} = {v}" for k, v in keys.items())


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("[[tensor]\n", "a map file is not TOML", "map.toml"),
        ("version = 2\n", "a map file of another version", "map.toml"),
        ("tensors = 1\n", "a key that it cannot have", "map.toml"),
        ("tensor = 1\n", "the map's tensor is missing or of another type", "map.toml"),
        ("tensor = [1]\n", "an entry of tensor is no table", "map.toml"),
        ("[states]\nmu = 1\n", "a name of an optimizer's state is no text", "map.toml"),
        ("[[tensor]]\n", "the map's reference is missing", "map.toml:1"),
        (rule(candidate="1"), "the map's candidate is missing or of an", "map.toml:3"),
        (rule(candidate="[]"), "the map's candidate is missing or of an", "map.toml:3"),
        (rule(reference='"a"'), "not a pattern of tensor ids", "map.toml:2"),
        (rule(colour='"red"'), "a key that it cannot have", "map.toml:4"),
        (rule(kinds='["parm"]'), "names a kind that there is not", "map.toml:4"),
        (rule(transform='"a b"'), "a transform is malformed", "map.toml:4"),
        (rule(sizes="{ a = 0 }"), "a size is not a positive number", "map.toml:4"),
        (rule(sizes="{ a = true }"), "a size is not a positive number", "map.toml:4"),
        (rule(sizes="{ a = [1, 2] }"), "only a joined axis has a size", "map.toml:4"),
        (
            rule(verified="1"),
            "the map's verified is missing or of another",
            "map.toml:4",
        ),
        (rule(candidate='"b/param/w"'), "{kind} in some of its patterns", "map.toml:1"),
        (
            rule(reference='"a/param/w"', candidate='"b/param/w"', kinds='["param"]'),
            "limits the kinds of patterns that name their kind",
            "map.toml:1",
        ),
        (
            rule(candidate='["b/{kind}/w", "c{i}/{kind}/w"]', join='"t"'),
            "the patterns of a list have different placeholders",
            "map.toml:1",
        ),
        (
            rule(candidate='"b.{i}/{kind}/w"'),
            "a placeholder stands on one side only",
            "map.toml:1",
        ),
        (
            rule(candidate='["b/{kind}/w", "c/{kind}/w"]'),
            "a list of tensors and the axis that joins them come together",
            "map.toml:1",
        ),
        (
            rule(
                candidate='["b/{kind}/w", "c/{kind}/w"]',
                reference='["d/{kind}/w", "e/{kind}/w"]',
                join='"t"',
            ),
            "both sides of a rule are lists",
            "map.toml:1",
        ),
        (
            rule(
                candidate='["b/{kind}/w", "c/{kind}/w"]',
                transform='"t a -> a"',
                join='"t"',
            ),
            "the axis that joins a list is none of the whole tensor",
            "map.toml:1",
        ),
        (
            rule(transform='"a b -> a"'),
            "an axis of the transform is on one side only",
            "map.toml:1",
        ),
        (
            rule(transform='"a -> a"', sizes="{ b = 2 }"),
            "gives the size of an axis that its transform does not have",
            "map.toml:1",
        ),
        (
            rule(
                candidate='["b/{kind}/w", "c/{kind}/w"]',
                transform='"t a -> (t a)"',
                join='"t"',
                sizes="{ t = [1, 2, 3] }",
            ),
            "another number of sizes than the list has tensors",
            "map.toml:1",
        ),
        (
            rule(
                candidate='["b/{kind}/w", "c/{kind}/w"]',
                transform='"t a -> (t a)"',
                join='"t"',
                unpadded="{ t = 3 }",
            ),
            "an axis that lies over several tensors has no padding",
            "map.toml:1",
        ),
        (
            rule(
                candidate='["b/{kind}/w", "c/{kind}/w"]',
                transform='"t a -> (-t a)"',
                join='"t"',
            ),
            "an axis that is flipped lies over several tensors, or is padded",
            "map.toml:1",
        ),
        (
            '[[ignore]]\nside = "left"\npattern = "*"\nreason = "x"\n',
            "names a side that there is not",
            "map.toml:2",
        ),
        (
            '[[ignore]]\nside = "candidate"\npattern = "*"\n',
            "the map's reason is missing",
            "map.toml:1",
        ),
    ],
)
def test_what_is_refused(text, what, where):
    with pytest.raises(MapError) as caught:
        parse_map(text, PATH)
    assert what in caught.value.what
    assert str(caught.value.where) == where
    assert caught.value.remedy


def test_no_file(tmp_path):
    with pytest.raises(MapError, match="a map file cannot be read") as caught:
        read_map(tmp_path / "none.toml")
    assert caught.value.where == tmp_path / "none.toml"
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MapError, match="a map file cannot be read"):
        read_map(tmp_path / "latin.toml")


def test_another_file_of_ttrace_is_named(tmp_path):
    path = tmp_path / "tolerance.json"
    path.write_text('{"policy": {}, "noise": {}}')
    with pytest.raises(MapError, match="a map file is not TOML") as caught:
        read_map(path)
    assert caught.value.got == "a tolerance file"
    assert caught.value.remedy == "give a map file with --map (map=)"
