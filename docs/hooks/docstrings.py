"""Docstrings as Markdown: what they have of reStructuredText is taken out of them."""

import re

import griffe

_LITERAL = re.compile(
    r"(?P<before>.?)::\n\n(?P<block>(?:[ ]{4}[^\n]*\n|\n(?=[ ]{4}|\n))+)"
)


def as_markdown(text: str) -> str:
    """A docstring whose indented blocks behind ``::`` are fences of Python."""

    def fenced(match: re.Match[str]) -> str:
        colon = f"{match['before']}:\n\n" if match["before"].strip() else ""
        lines = [line[4:] for line in match["block"].rstrip().splitlines()]
        return "\n".join((f"{colon}```python", *lines, "```", ""))

    return _LITERAL.sub(fenced, text + "\n").rstrip("\n")


class LiteralBlocks(griffe.Extension):
    """Reads every docstring so."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
