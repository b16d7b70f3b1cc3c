"""Attentions of what agrees that are another function in the candidate."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.places.attention.attention_math import (
    Rotary,
    Traits,
    attend,
    seen_keys,
    turned,
)
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
Q = RNG.normal(size=(3, 8, 32)).astype(np.float32)
K, V = (RNG.normal(size=(3, 8, 16)).astype(np.float32) for _ in "kv")
TOKENS = np.arange(8) < np.array([[8], [6], [5]])
USUAL = Traits(head_size=8, scale=8**-0.5, rotary=Rotary(), keys="tokens")


def attention(traits: Traits) -> np.ndarray:
    keys = {"tokens": TOKENS, "padding": ~TOKENS}.get(traits.keys)
    made = []
    for i in range(3):
        q, k, v = (x[i].astype(np.float64) for x in (Q, K, V))
        made.append(attend(q, k, v, traits, None if keys is None else keys[i][None]))
    return np.stack(made).astype(np.float32)


def run(made: np.ndarray, *, joined=False):
    tensors: dict[str, np.ndarray] = {"step0/mb0/@root/input/mask": TOKENS}
    if joined:
        tensors["step0/mb0/a.qkv/output/0"] = np.concatenate((Q, K, V), axis=-1)
    else:
        tensors |= {
            f"step0/mb0/a.{n}/output/0": x
            for n, x in zip("qkv", (Q, K, V), strict=True)
        }
    return memory_trace(tensors | {"step0/mb0/a.o/input/0": made})


def sentence(ours: np.ndarray, theirs: np.ndarray, **options) -> str | None:
    report = compare_traces(
        run(theirs, **options), run(ours, **options), load_backend("numpy")
    )
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("attention_variant")


def changed(**traits) -> np.ndarray:
    fields = ("head_size", "scale", "rotary", "is_causal", "keys", "is_tiled")
    return attention(Traits(**{f: getattr(USUAL, f) for f in fields} | traits))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("traits", "says"),
    [
        ({"scale": 32**-0.5}, "by 0.1768 (1 / sqrt of 32, the width of all heads)"),
        ({"is_tiled": True}, "repeated as a whole (0 1 0 1)"),
        (
            {"head_size": 4, "scale": 0.5},
            "it has 4 heads of 8 features; in the candidate it has 8 of 4",
        ),
        ({"is_interleaved": True}, "every 4th feature is of one head"),
        ({"keys": "all"}, "in the candidate a query sees all keys up to its own ("),
        ({"keys": "padding"}, "up to its own that are padding"),
        ({"rotary": Rotary(base=5e5)}, "with a base of 500000"),
        ({"rotary": Rotary(in_pairs=True)}, "element 2i with 2i + 1"),
        ({"rotary": Rotary(rounded="both")}, "angles, sines and cosines in bfloat16"),
    ],
)
def test_the_trait_is_named(traits, says, joined):
    found = sentence(changed(**traits), changed(), joined=joined)
    assert found is not None and says in found
    assert found.startswith("input 0 of a.o ")


def test_a_softmax_in_bfloat16():
    """The largest exponential is 1, and the others are rounded beside it."""
    made = []
    for i in range(3):
        q, k, v = (x[i].astype(np.float64).reshape(8, -1, 8) for x in (Q, K, V))
        q, k = turned(q, Rotary()), turned(k, Rotary())
        k, v = np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1)
        scores = np.einsum("qad,kad->aqk", q, k) * USUAL.scale
        seen = seen_keys(8, USUAL, TOKENS[i][None])
        scores = np.where(seen, scores, -1e30)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights.astype(ml_dtypes.bfloat16).astype(np.float64)
        weights /= weights.sum(-1, keepdims=True)
        made.append(np.einsum("aqk,kad->qad", weights, v).reshape(8, -1))
    found = sentence(np.stack(made).astype(np.float32), changed())
    assert found is not None and "numbers of bfloat16, up to a factor" in found


def test_queries_that_are_turned_otherwise():
    def of(rotary):
        heads = Q.astype(np.float64).reshape(3, 8, 4, 8)
        return np.stack([turned(x, rotary) for x in heads]).astype(np.float32)

    found = sentence(of(Rotary(rounded="angles")), of(Rotary()))
    assert found is not None and "with angles in bfloat16" in found


def test_what_is_no_attention_or_differs_by_something_else():
    noise = RNG.normal(size=Q.shape).astype(np.float32)
    assert sentence(changed() + noise, changed()) is None
    assert sentence(changed(scale=1.0) + noise, noise) is None


def joined_run(made: np.ndarray, whole: np.ndarray):
    return memory_trace(
        {"step0/mb0/a.qkv/output/0": whole, "step0/mb0/a.o/input/0": made}
    )


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_joined_projection_that_is_read_otherwise(is_swapped):
    traits = Traits(head_size=8, scale=8**-0.5)
    whole = RNG.normal(size=(3, 8, 96)).astype(np.float32)
    as_wholes = whole.reshape(3, 8, 3, 32).transpose(2, 0, 1, 3)
    by_heads = (
        whole.reshape(3, 8, 4, 3, 8).transpose(3, 0, 1, 2, 4).reshape(3, 3, 8, 32)
    )
    made = [
        np.stack([attend(q[i], k[i], v[i], traits, None) for i in range(3)])
        for q, k, v in (as_wholes, by_heads)
    ]
    words = ["one after the other (3 h d)", "head by head (h 3 d)"]
    if is_swapped:
        made, words = made[::-1], words[::-1]
    theirs, ours = (joined_run(each.astype(np.float32), whole) for each in made)
    report = compare_traces(theirs, ours, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    assert (
        "in the reference queries, keys and values lie in their joined projection "
        f"{words[0]}; in the candidate they lie in it {words[1]} "
        in found["attention_variant"]
    )
