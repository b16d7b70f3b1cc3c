"""The traits of attentions that are tried, and what they are called."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from ttrace.judge.places.attention.attention_math import Rotary, Traits
from ttrace.judge.places.attention.attention_sources import HEAD_SIZES, Sources

BASES = (1e4, 5e5, 1e6, 1e5, 1e3, 1e2, 5e4, 2e4, 8e6, 1e7)
"""Of rotary positions, the usual ones first."""


def usual_traits(sources: Sources, keys: Mapping[str, np.ndarray]) -> Iterator[Traits]:
    """What the reference may be."""
    width, of_keys = sources.query.shape[-1], sources.key.shape[-1]
    turns: list[Rotary | None] = [None]
    turns += [
        Rotary(base=base, in_pairs=in_pairs)
        for base, in_pairs in product(BASES[:3], (False, True))
    ]
    # With a mask that says it all first, and what sees all last.
    seen = [(False, name) for name in ("given", "masked") if name in keys]
    seen += [(True, name) for name in ("tokens", "given", "masked") if name in keys]
    seen += [(True, "all"), *((False, n) for n in ("tokens",) if n in keys)]
    seen.append((False, "all"))
    sizes = HEAD_SIZES if sources.head_size is None else (sources.head_size,)
    for size, rotary, (is_causal, name) in product(sizes, turns, seen):
        if width % size == 0 == of_keys % size:
            yield Traits(
                head_size=size,
                scale=size**-0.5,
                rotary=rotary,
                is_causal=is_causal,
                keys=name,
            )


def other_traits(
    traits: Traits, width: int, of_keys: int, keys: Mapping[str, np.ndarray]
) -> Iterator[tuple[tuple[str, str], Traits]]:
    """The same but for one trait, which is named as it is in both.

    Args:
        traits: What the reference is.
        width: Features of all heads of the queries.
        of_keys: Features of those of the keys.
        keys: Names of masks, with what they let through.
    """
    size = traits.head_size
    is_scale = f"scores are multiplied by {traits.scale:.4g} (1 / sqrt of {size}, the "
    is_scale += "size of a head)"
    for scale, words in (
        (width**-0.5, f"1 / sqrt of {width}, the width of all heads"),
        (1.0, "they are not scaled"),
        (1.0 / size, f"1 / {size}"),
        ((2 * size) ** -0.5, f"1 / sqrt of {2 * size}"),
        ((size / 2) ** -0.5, f"1 / sqrt of {size / 2:g}"),
        (size**-0.25, "the root is taken twice"),
    ):
        if scale != traits.scale:
            yield (is_scale, f"by {scale:.4g} ({words})"), replace(traits, scale=scale)
    for other in HEAD_SIZES:
        if other != size and width % other == 0 == of_keys % other:
            yield (
                (
                    f"it has {width // size} heads of {size} features",
                    f"it has {width // other} of {other}",
                ),
                replace(traits, head_size=other, scale=other**-0.5),
            )
    yield (
        (
            "neighbouring features are of one head",
            f"every {width // size}th feature is of one head",
        ),
        replace(traits, is_interleaved=True),
    )
    yield (
        (
            "heads of keys and values are each repeated in a row (0 0 1 1)",
            "they are repeated as a whole (0 1 0 1)",
        ),
        replace(traits, is_tiled=True),
    )
    names = {
        "all": "",
        "tokens": "that are no padding",
        "padding": "that are padding",
        "given": "that its mask is set for",
        "masked": "that its mask is not set for",
    }
    for is_causal, name in product((True, False), ("all", *keys)):
        if (is_causal, name) == (traits.is_causal, traits.keys):
            continue
        words = [
            f"a query sees all keys {'up to its own ' if causal else ''}{names[which]}"
            for causal, which in (
                (traits.is_causal, traits.keys),
                (is_causal, name),
            )
        ]
        yield (
            (words[0].strip(), words[1].strip()),
            replace(traits, is_causal=is_causal, keys=name),
        )
    for rotary in other_turns(traits.rotary):
        yield (
            (turn_words(traits.rotary), turn_words(rotary)),
            replace(traits, rotary=rotary),
        )


def other_turns(rotary: Rotary | None) -> Iterator[Rotary | None]:
    if rotary is None:
        for base, in_pairs in product(BASES, (False, True)):
            yield Rotary(base=base, in_pairs=in_pairs)
        return
    yield None
    yield replace(rotary, in_pairs=not rotary.in_pairs)
    for base in BASES:
        if base != rotary.base:
            yield replace(rotary, base=base)
    for rounded in ("angles", "tables", "both"):
        yield replace(rotary, rounded=rounded)


def turn_words(rotary: Rotary | None) -> str:
    if rotary is None:
        return "queries and keys are not turned by their positions"
    pairs = "2i with 2i + 1" if rotary.in_pairs else "i with i + half"
    rounded = {
        "": "",
        "angles": ", with angles in bfloat16",
        "tables": ", with sines and cosines in bfloat16",
        "both": ", with angles, sines and cosines in bfloat16",
    }
    return (
        f"positions turn element {pairs}, with a base of {rotary.base:g}"
        f"{rounded[rotary.rounded]}"
    )
