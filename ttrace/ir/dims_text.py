"""Reading dims texts."""

import re
from collections.abc import Iterator
from dataclasses import replace

from ttrace.errors import LayoutError
from ttrace.ir.dims import Dims
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.layout import ShardLayout
from ttrace.ir.splits import (
    AXIS_NAME,
    DIM_NAME,
    INDEX,
    PARTIAL,
    Dim,
    FlatCut,
    Modifier,
    Split,
)

_PARTIAL_TEXT = re.compile(rf"(?:^|(?<=\s)){PARTIAL}\[(?P<axes>[^\[\]]*)\]$")
_FLAT_TEXT = re.compile(r"\((?P<dims>.*)\)\[(?P<cuts>[^\[\]]*)\]", re.DOTALL)
_DIM_TEXT = re.compile(
    rf"\s*(?P<name>{DIM_NAME.pattern})(?:\[(?P<splits>[^\[\]]*)\])?(?=\s|$)"
)
_CUT_TEXT = re.compile(
    rf"\s*(?:(?P<start>\d+)\s*:\s*(?P<stop>\d+)|(?P<axis>{AXIS_NAME.pattern})"
    r"(?:\s*:\s*(?P<modifier>[a-z]+)(?P<call>\((?P<numbers>[^()]*)\))?)?)\s*(?:,|$)"
)


def parse_dims(text: str) -> Dims:
    """Reads a dims text; the grammar is in the docstring of ``ttrace.ir.dims``.

    Raises:
        LayoutError: The text does not follow the grammar, or names an axis twice.
    """
    body = text.strip()
    partial_axes: tuple[str, ...] = ()
    if match := _PARTIAL_TEXT.search(body):
        partial_axes = tuple(axis.strip() for axis in match["axes"].split(","))
        body = body[: match.start()].rstrip()
        if not all(map(AXIS_NAME.fullmatch, partial_axes)):
            raise _syntax_error(text, match[0], "partial[axis] or partial[a,b]")
    flat_cuts: tuple[Split | FlatCut, ...] = ()
    if body.startswith("("):
        match = _FLAT_TEXT.fullmatch(body)
        if match is None:
            raise _syntax_error(
                text, body, "(dims)[axis], with nothing before or after"
            )
        body = match["dims"]
        flat_cuts = tuple(_parse_cuts(match["cuts"], text))
    return Dims(
        dims=tuple(_parse_dim_list(body, text)),
        flat_cuts=flat_cuts,
        partial_axes=partial_axes,
    )


def flat_part(layout: ShardLayout, start: int, stop: int) -> ShardLayout:
    """``flat_range`` of a layout, with the dims text that says it.

    Args:
        layout: Layout of the unflattened shard.
        start: First element of the range, in the flattened local array.
        stop: One past the last element.

    Raises:
        LayoutError: The range reaches outside the shard, or the shard is itself flat.
    """
    flat = flat_range(layout, start, stop)
    if not layout.dims:
        return flat
    dims = parse_dims(layout.dims)
    cuts = (*dims.flat_cuts, FlatCut(start=start, stop=stop))
    return replace(flat, dims=str(replace(dims, flat_cuts=cuts)))


def _parse_dim_list(body: str, text: str) -> Iterator[Dim]:
    position = 0
    while body[position:].strip():
        match = _DIM_TEXT.match(body, position)
        if match is None:
            raise _syntax_error(
                text,
                body[position:].strip(),
                "dims separated by blanks: name, name[axis] or name[axis:modifier]",
            )
        if match["name"] == PARTIAL:
            raise _syntax_error(
                text, match[0].strip(), "partial[axis] as the last word"
            )
        splits = []
        is_indexed = (match["splits"] or "").strip() == INDEX
        if match["splits"] is not None and not is_indexed:
            for cut in _parse_cuts(match["splits"], text):
                if isinstance(cut, FlatCut):
                    raise _syntax_error(text, str(cut), "an axis")
                splits.append(cut)
        yield Dim(name=match["name"], splits=tuple(splits), is_indexed=is_indexed)
        position = match.end()


def _parse_cuts(cuts: str, text: str) -> Iterator[Split | FlatCut]:
    position = 0
    while True:
        match = _CUT_TEXT.match(cuts, position)
        if match is None:
            raise _syntax_error(text, f"[{cuts}]", "axis or axis:modifier, with commas")
        if match["start"] is not None:
            yield FlatCut(start=int(match["start"]), stop=int(match["stop"]))
        else:
            yield _parse_split(match, text)
        if not match[0].endswith(","):
            return
        position = match.end()


def _parse_split(match: re.Match[str], text: str) -> Split:
    word = match["modifier"]
    if word is None:
        return Split(axis=match["axis"])
    words = [modifier.value for modifier in Modifier if modifier is not Modifier.EVEN]
    if word not in words:
        raise _syntax_error(text, word, f"a modifier out of {', '.join(words)}")
    numbers = match["numbers"].split(",") if match["call"] else []
    if not all(re.fullmatch(r"\s*\d+\s*", number) for number in numbers):
        raise _syntax_error(text, match["call"], "whole numbers in parentheses")
    return Split(
        axis=match["axis"], modifier=Modifier(word), numbers=tuple(map(int, numbers))
    )


def _syntax_error(text: str, got: str, expected: str) -> LayoutError:
    return LayoutError(
        "not a dims text",
        where=repr(text),
        expected=expected,
        got=repr(got),
        remedy="write it like 's[cp:zigzag,tp] b h' or '(f[tp] h)[dp:chunk]'",
    )
