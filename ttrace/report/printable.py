"""Text of others on a terminal: what would steer it is shown as a mark instead."""

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

_MARK = "\ufffd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Printable:
    """A renderable whose text holds no control characters and no changes of direction.

    Names come from traces of others; an escape sequence among them could recolour,
    hide or retitle what the terminal shows. Styles are no text, and stay.

    Attributes:
        content: What to render.
    """

    content: RenderableType

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        for segment in console.render(self.content, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def printable(text: str) -> str:
    """The text with a mark for every character that is no line end and not shown."""
    if text.isprintable():  # nearly all texts are
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else _MARK for char in text
    )
