"""Writes a map as a file for people, which ``ttrace.mapping.map_file`` reads back."""

import json
from collections.abc import Iterable, Mapping, Sequence

from ttrace.mapping.map_file import VERSION
from ttrace.mapping.rules import IgnoreRule, MapFile, TensorRule


def map_text(map_file: MapFile, *, header: Sequence[str] = ()) -> str:
    """The text of a map file.

    Args:
        map_file: What it says.
        header: Lines of comment for its beginning.
    """
    parts = [
        "\n".join((*(f"# {line}".rstrip() for line in header), f"version = {VERSION}"))
    ]
    parts += map(_rule, map_file.rules)
    parts += map(_ignore, map_file.ignored)
    if map_file.states:
        lines = (f"{_key(a)} = {_text(b)}" for a, b in map_file.states.items())
        parts.append("\n".join(("[states]", *lines)))
    return "\n\n".join(parts) + "\n"


def _rule(rule: TensorRule) -> str:
    lines = [f"# {line}".rstrip() for line in rule.comment.splitlines()]
    lines.append("[[tensor]]")
    lines.append(f"reference = {_texts(map(str, rule.reference))}")
    lines.append(f"candidate = {_texts(map(str, rule.candidate))}")
    if rule.kinds is not None:
        # Written in the order of a step.
        kinds = [
            kind.value for kind in type(next(iter(rule.kinds))) if kind in rule.kinds
        ]
        lines.append(f"kinds = [{', '.join(map(_text, kinds))}]")
    if rule.transform is not None:
        lines.append(f"transform = {_text(str(rule.transform))}")
    if rule.join is not None:
        lines.append(f"join = {_text(rule.join)}")
    sizes: dict[str, object] = dict(rule.sizes)
    if rule.part_sizes is not None and rule.join is not None:
        sizes[rule.join] = list(rule.part_sizes)
    if sizes:
        lines.append(f"sizes = {_table(sizes)}")
    if rule.unpadded:
        lines.append(f"unpadded = {_table(rule.unpadded)}")
    if not rule.verified:
        lines.append("verified = false")
    return "\n".join(lines)


def _ignore(rule: IgnoreRule) -> str:
    return "\n".join(
        (
            "[[ignore]]",
            f"side = {_text(rule.side.value)}",
            f"pattern = {_text(rule.pattern)}",
            f"reason = {_text(rule.reason)}",
        )
    )


def _text(value: str) -> str:
    # A JSON string is a TOML basic string, once it has no character above U+FFFF.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(values: Iterable[str]) -> str:
    texts = list(map(_text, values))
    if len(texts) == 1:
        return texts[0]
    return "[\n" + "".join(f"    {text},\n" for text in texts) + "]"


def _table(values: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{_key(k)} = {v}" for k, v in values.items()) + " }"


def _key(name: str) -> str:
    bare = name.replace("_", "").replace("-", "")
    return name if bare.isascii() and bare.isalnum() else _text(name)
