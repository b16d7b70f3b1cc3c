"""Maps written and read back."""

from dataclasses import replace
from pathlib import Path

from tests.mapping.test_map_file import WHOLE
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.map_writer import map_text
from ttrace.mapping.rules import MapFile

PATH = Path("map.toml")


def bare(map_file: MapFile) -> MapFile:
    """Without places, which differ by the lines of comments."""
    return replace(
        map_file,
        rules=tuple(replace(rule, place="", comment="") for rule in map_file.rules),
        ignored=tuple(replace(entry, place="") for entry in map_file.ignored),
    )


def test_what_is_written_is_read_back():
    first = parse_map(WHOLE, PATH)
    text = map_text(first)
    assert bare(parse_map(text, PATH)) == bare(first)
    assert map_text(parse_map(text, PATH)) == text


def test_part_sizes_are_written():
    text = """
    [[tensor]]
    reference = "a/{kind}/w"
    candidate = ["b/{kind}/w", "c/{kind}/w"]
    transform = "(g n) h -> (g n) h"
    join = "n"
    sizes = { g = 2, n = [4, 1] }
    """
    first = parse_map(text, PATH)
    assert bare(parse_map(map_text(first), PATH)) == bare(first)


def test_comments_and_quotes():
    (rule,) = parse_map(
        '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"', PATH
    ).rules
    (entry,) = parse_map(
        '[[ignore]]\nside = "reference"\npattern = "*"\nreason = \'a "b" \\ c\'', PATH
    ).ignored
    first = MapFile(
        path=PATH,
        rules=(replace(rule, comment="by content\nof both"),),
        ignored=(entry,),
        states={"exp_avg": "a b"},
    )
    text = map_text(first, header=["proposed", ""])
    assert text.startswith("# proposed\n#\nversion = 1\n\n# by content\n# of both\n[[t")
    again = parse_map(text, PATH)
    assert again.ignored[0].reason == 'a "b" \\ c'
    assert again.states == {"exp_avg": "a b"}
