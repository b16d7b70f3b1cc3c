"""An attention, or what turns queries by their positions, that is another function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.places.attention.attention_math import (
    Rotary,
    Traits,
    attend,
    seen_keys,
    turned,
)
from ttrace.judge.places.attention.attention_sources import (
    Sources,
    flat,
    given_masks,
    other_readings,
    sources_of,
)
from ttrace.judge.places.attention.attention_traits import (
    BASES,
    other_traits,
    other_turns,
    turn_words,
    usual_traits,
)
from ttrace.judge.places.attention.attention_weights import are_coarse
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.earlier_outputs import outputs_before
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_FEW_TOKENS = 64
"""Of a causal attention, that are enough to see what it is not."""

_MOST_TOKENS = 1024
_MOST_SCORES = 1 << 26
"""Pairs of tokens, of all samples and heads, that are computed to see what it is."""

_MOST_ROTATED = 4
"""Outputs before, that may be turned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionVariant:
    """A tensor that is one attention in one run, and another one in the other.

    Of queries, keys and values that agree; or queries or keys that are turned by their
    positions.

    Attributes:
        id: The tensor.
        reference: The trait in which they differ, as it is there, in words.
        candidate: Likewise.
        is_rotary: It is what turns by positions.
    """

    id: TensorId
    reference: str
    candidate: str
    is_rotary: bool


def find_attention_variant(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> AttentionVariant | None:
    """Looks for the traits that explain both runs, all but one of them alike.

    Args:
        values: Of the first divergence, an activation.
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
    """
    if values is None or values.id.kind not in (Kind.INPUT, Kind.OUTPUT):
        return None
    shape = values.theirs.shape
    if values.theirs.ndim < 3 or max(shape[:2]) > _MOST_TOKENS:
        return None
    found = _turned_otherwise(values, verdicts, reference)
    if found is not None:
        return found
    for sources in sources_of(values.id, shape, verdicts, reference):
        theirs = flat(values.theirs, sources.samples_dim)
        if not sources.query.shape[:2] == theirs.shape[:2]:
            continue
        keys = _keys(values.id, theirs.shape, verdicts, reference)
        trial = _Trial(sources, keys, values, theirs)
        traits = next(
            (t for t in usual_traits(sources, keys) if trial.fits_reference(t)), None
        )
        if traits is None:
            continue
        of_keys = sources.key.shape[-1]
        for words, other in other_traits(traits, theirs.shape[-1], of_keys, keys):
            if trial.fits_candidate(other):
                return AttentionVariant(
                    id=values.id,
                    reference=words[0],
                    candidate=words[1],
                    is_rotary=other.rotary != traits.rotary,
                )
        for read in other_readings(sources, traits.head_size):
            if _Trial(read, keys, values, theirs).fits_candidate(traits):
                return AttentionVariant(
                    id=values.id,
                    reference="queries, keys and values lie in their joined "
                    f"projection {sources.reading}",
                    candidate=f"they lie in it {read.reading}",
                    is_rotary=False,
                )
        if not traits.is_tiled and trial.has_coarse_weights(traits):
            return AttentionVariant(
                id=values.id,
                reference="its weights are not rounded to bfloat16",
                candidate="they are: all that the values tell are numbers of bfloat16, "
                "up to a factor for each query, as where the softmax is computed in it",
                is_rotary=False,
            )
        return None
    return None


class _Trial:
    """Attentions of some traits beside what both runs have.

    Args:
        sources: Queries, keys and values.
        keys: Which keys are seen, bool ``[samples, queries or 1, keys]``, by name.
        values: The first divergence.
        theirs: The reference's, ``[samples, tokens, features]``.
    """

    def __init__(
        self,
        sources: Sources,
        keys: Mapping[str, np.ndarray],
        values: DivergedValues,
        theirs: np.ndarray,
    ):
        self._sources = sources
        self._keys = keys
        self._values = values
        self._theirs = theirs
        self._ours = flat(values.ours, sources.samples_dim)

    def fits_reference(self, traits: Traits) -> bool:
        """Whether it is what the reference has, on all elements."""
        return self._fits(traits, self._theirs, self._values.tolerated)

    def fits_candidate(self, traits: Traits) -> bool:
        """Whether it is what the candidate has, far nearer than the reference's."""
        return self._fits(traits, self._ours, self._values.limit)

    def has_coarse_weights(self, traits: Traits) -> bool:
        """Whether all weights are numbers of bfloat16, in the candidate alone."""
        keys = self._keys.get(traits.keys)
        known = []
        for sample, value in enumerate(self._sources.value):
            own = None if keys is None else keys[sample]
            seen = seen_keys(len(value), traits, own)
            ours, theirs = (
                are_coarse(made[sample], value, seen, traits.head_size)
                for made in (self._ours, self._theirs)
            )
            if ours is False or theirs:
                return False
            known.append(ours)
        return any(known)

    def _fits(self, traits: Traits, expected: np.ndarray, limit: float) -> bool:
        num_samples, num_tokens, width = expected.shape
        heads = width // traits.head_size
        if num_samples * heads * num_tokens**2 > _MOST_SCORES:
            return False
        # What is masked behind a token makes no difference to those before it.
        few = min(num_tokens, _FEW_TOKENS) if traits.is_causal else num_tokens
        if self._rest(traits, expected, 0, few) > limit:
            return False
        rests = [
            self._rest(traits, expected, sample, num_tokens)
            for sample in range(num_samples)
        ]
        return float(np.linalg.norm(rests)) <= limit

    def _rest(
        self, traits: Traits, expected: np.ndarray, sample: int, num_tokens: int
    ) -> float:
        keys = self._keys.get(traits.keys)
        made = attend(
            self._sources.query[sample, :num_tokens],
            self._sources.key[sample, :num_tokens],
            self._sources.value[sample, :num_tokens],
            traits,
            None if keys is None else keys[sample][:num_tokens, :num_tokens],
        )
        return float(np.linalg.norm(made - expected[sample, :num_tokens]))


def _keys(
    made: TensorId,
    shape: tuple[int, ...],
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> Mapping[str, np.ndarray]:
    """Which keys masks let through, by name; ``[samples, queries or 1, keys]``."""
    num_samples, num_tokens = shape[:2]
    found: dict[str, np.ndarray] = {}
    for id_, mask in given_masks(made, verdicts, reference):
        if mask.shape == (num_samples, num_tokens) and "tokens" not in found:
            found["tokens"] = mask[:, None]
            found["padding"] = ~mask[:, None]
        is_of_pairs = mask.shape[-2:] == (num_tokens, num_tokens) and mask.ndim > 2
        if id_.module == made.module and is_of_pairs and "given" not in found:
            whole = mask.reshape(mask.shape[0], -1, num_tokens, num_tokens)
            if whole.shape[1] == 1 and num_samples % len(whole) == 0:
                found["given"] = np.repeat(whole[:, 0], num_samples // len(whole), 0)
                found["masked"] = ~found["given"]
    return found


def _turned_otherwise(
    values: DivergedValues, verdicts: Sequence[TensorVerdict], reference: TraceSource
) -> AttentionVariant | None:
    """Heads that are an output before, turned otherwise."""
    if values.theirs.ndim != 4:
        return None
    shape = values.theirs.shape
    for id_ in outputs_before(values.id, verdicts)[:_MOST_ROTATED]:
        source = values_of(id_, reference)
        if source is None or source.shape[:2] != shape[:2]:
            continue
        if source.size != values.theirs.size or shape[-1] % 2:
            continue
        for tokens_first in (False, True):
            heads, theirs, ours = (
                v.reshape(shape)
                if not tokens_first
                else np.swapaxes(v.reshape(shape), 0, 1)
                for v in (source, values.theirs, values.ours)
            )

            def rest(rotary: Rotary | None, expected: np.ndarray, x=heads) -> float:
                made = x if rotary is None else np.stack([turned(s, rotary) for s in x])
                return float(np.linalg.norm(made - expected))

            usual = [
                Rotary(base=base, in_pairs=in_pairs)
                for base, in_pairs in product(BASES, (False, True))
            ]
            own = next((r for r in usual if rest(r, theirs) <= values.tolerated), None)
            if own is None:
                continue
            for other in other_turns(own):
                if rest(other, ours) <= values.limit:
                    return AttentionVariant(
                        id=values.id,
                        reference=turn_words(own),
                        candidate=turn_words(other),
                        is_rotary=True,
                    )
    return None
