"""Maps applied to traces: what the candidate becomes, and every way not to fit."""

from pathlib import Path

import numpy as np
import pytest

from tests.routed_traces import FULL, ID, routed
from tests.trace_factory import MemoryTrace, Tensor, Tensors, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import MapError, UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.mapping.apply import map_traces
from ttrace.mapping.map_file import parse_map
from ttrace.report.report import Outcome, Report, TensorReport
from ttrace.stages import compare_traces

RANDOM = np.random.default_rng(0)
D, N, E, LAYERS, VOCAB = 8, 4, 3, 3, 10


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


FUSED = values(D, 3 * N * E)
QUERY, KEY, VALUE = FUSED.reshape(D, 3, N, E).transpose(1, 0, 2, 3).copy()
FC = [values(6, D) for _ in range(LAYERS)]
HIDDEN = [values(2, 5, D) for _ in range(LAYERS)]
EMBEDDING = values(VOCAB, D)
PADDED = np.concatenate([EMBEDDING, values(6, D)])
LOSS = np.ones((), np.float32)


def compare(
    text: str, reference: Tensors | MemoryTrace, candidate: Tensors | MemoryTrace
) -> Report:
    """Compares under a map; plain tensors are held whole by one rank."""
    if not isinstance(reference, MemoryTrace):
        reference = memory_trace(reference)
    if not isinstance(candidate, MemoryTrace):
        candidate = memory_trace(candidate)
    map_file = parse_map(text, Path("map.toml"))
    return compare_traces(reference, candidate, NumpyBackend(), map_file=map_file)


def by_id(report: Report) -> dict[str, TensorReport]:
    return {tensor.id: tensor for tensor in report.tensors}


def sharded(full: np.ndarray, dims: str) -> Tensor:
    return Tensor(full=full, dims=dims)


QKV = """
[[tensor]]
reference = "h.{i}.attn/{kind}/weight"
candidate = ["b{i}.q/{kind}/kernel", "b{i}.k/{kind}/kernel", "b{i}.v/{kind}/kernel"]
transform = "d n e -> d (t n e)"
join = "t"
"""
STACKED = """
[[tensor]]
reference = "h.{i}.fc/{kind}/weight"
candidate = "layers.fc/{kind}/kernel"
transform = "i a b -> b a"

[[tensor]]
reference = "h.{i}.fc/{kind}/0"
candidate = "layers.fc/{kind}/0/call{i}"
transform = "b s d -> s b d"
"""
EMBED = """
[[tensor]]
reference = "wte/{kind}/weight"
candidate = "embed/{kind}/embedding"
transform = "v d -> v d"
unpadded = { v = 10 }
"""


def reference_tensors() -> dict[str, np.ndarray]:
    tensors = {"step0/wte/param/weight": EMBEDDING}
    for kind in ("param/weight", "main_grad/weight", "optimizer_state/weight.exp_avg"):
        tensors[f"step0/h.0.attn/{kind}"] = FUSED
    for i in range(LAYERS):
        tensors[f"step0/h.{i}.fc/param/weight"] = FC[i]
        tensors[f"step0/mb0/h.{i}.fc/output/0"] = HIDDEN[i].transpose(1, 0, 2)
    return tensors | {"step0/@root/loss": LOSS}


def candidate_tensors(qkv="d n[tp] e", fc="i a b[tp]", v="v[tp] d", x="b s d"):
    tensors: dict[str, Tensor | np.ndarray] = {
        "step0/embed/param/embedding": sharded(PADDED, v)
    }
    for kind in ("param/kernel", "main_grad/kernel", "optimizer_state/kernel.mu"):
        for name, array in zip("qkv", (QUERY, KEY, VALUE), strict=True):
            tensors[f"step0/b0.{name}/{kind}"] = sharded(array, qkv)
    stack = np.stack(FC).transpose(0, 2, 1).copy()
    tensors["step0/layers.fc/param/kernel"] = sharded(stack, fc)
    for i in range(LAYERS):
        call = f"/call{i}" if i else ""
        tensors[f"step0/mb0/layers.fc/output/0{call}"] = sharded(HIDDEN[i], x)
    return tensors | {"step0/@root/loss": LOSS}


@pytest.mark.parametrize(
    "dims",
    [
        {},
        {"qkv": "d[tp] n e", "fc": "i[tp:uneven] a b", "v": "v d[tp]"},
        {"qkv": "(d n e)[tp:chunk]", "fc": "(i a b)[tp:chunk]", "v": "(v d)[tp:chunk]"},
        {"qkv": "d n e partial[tp]", "v": "v[tp:padded(4)] d", "x": "b[tp] s d"},
    ],
)
def test_a_port_in_any_layout(dims):
    candidate = memory_trace(candidate_tensors(**dims), {"tp": 2})
    report = compare(QKV + STACKED + EMBED, reference_tensors(), candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total == len(reference_tensors())
    assert {tensor.num_unequal for tensor in report.tensors} == {0}
    assert report.setup.map is not None
    assert (report.setup.map.path, report.setup.map.num_rules) == ("map.toml", 4)


def swapped(text: str) -> str:
    """The same map with its sides exchanged."""
    parsed = parse_map(text, Path("map.toml"))
    lines = []
    for rule in parsed.rules:
        assert rule.transform is not None
        lines += [
            "[[tensor]]",
            f"reference = {[str(p) for p in rule.candidate]}",
            f"candidate = {[str(p) for p in rule.reference]}",
            f'transform = "{rule.transform.inverse()}"',
            *([f'join = "{rule.join}"'] if rule.join else []),
            *(["unpadded = { v = 10 }"] if rule.unpadded else []),
        ]
    return "\n".join(lines)


def test_the_same_map_the_other_way_round():
    text = swapped(QKV + STACKED + EMBED)
    candidate = {
        name: sharded(array, {0: "", 2: "a[tp:chunk] b", 3: "a b c"}[array.ndim])
        for name, array in reference_tensors().items()
    }
    reference = {
        name: tensor.full if isinstance(tensor, Tensor) else tensor
        for name, tensor in candidate_tensors().items()
    }
    report = compare(text, reference, memory_trace(candidate, {"tp": 2}))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == len(reference)


def test_an_error_is_placed_in_the_reference():
    candidate = candidate_tensors()
    wrong = KEY.copy()
    wrong[5, 2, 1] += 1
    candidate["step0/b0.k/main_grad/kernel"] = sharded(wrong, "d n[tp] e")
    report = compare(QKV, *pair(candidate, "attn", "b0."))
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/h.0.attn/main_grad/weight"
    tensor = by_id(report)["step0/h.0.attn/main_grad/weight"]
    assert tensor.max_abs_err_at == (5, N * E + 2 * E + 1)
    assert tensor.num_unequal == 1 and tensor.layouts is not None
    assert tensor.layouts[1] == "d n e -> d (t n e) (2 ranks)"


def pair(candidate: dict, of_reference: str, of_candidate: str):
    """Both sides, with only the tensors that contain a text."""
    return (
        {k: v for k, v in reference_tensors().items() if of_reference in k},
        memory_trace(
            {k: v for k, v in candidate.items() if of_candidate in k}, {"tp": 2}
        ),
    )


def test_interleaved_query_groups():
    """Megatron's QKV against separate projections, whose sizes say how many heads."""
    groups, heads, dim = 2, 4, 3
    fused = values(groups * (heads + 2) * dim, D)
    by_group = fused.reshape(groups, heads + 2, dim, D)
    parts = {
        "q": by_group[:, :heads].reshape(-1, D),
        "k": by_group[:, heads : heads + 1].reshape(-1, D),
        "v": by_group[:, heads + 1 :].reshape(-1, D),
    }
    text = """
    [[tensor]]
    reference = ["a.q/{kind}/weight", "a.k/{kind}/weight", "a.v/{kind}/weight"]
    candidate = "a.qkv/{kind}/weight"
    transform = "(g n d) h -> (g n d) h"
    join = "n"
    sizes = { g = 2, d = 3 }
    """
    reference = {f"step0/a.{k}/param/weight": v for k, v in parts.items()}
    whole: Tensors = {"step0/a.qkv/param/weight": sharded(fused, "f[tp] h")}
    report = compare(text, reference, memory_trace(whole, {"tp": 4}))
    assert report.verdict is Outcome.PASS and report.counts.passed == 3
    stated = text.replace("d = 3", "d = 3, n = [4, 1, 1]")
    report = compare(stated, reference, memory_trace(whole, {"tp": 2}))
    assert report.verdict is Outcome.PASS and report.counts.passed == 3
    report = compare(
        swapped_interleaved(text), {"step0/a.qkv/param/weight": fused}, reference
    )
    assert report.verdict is Outcome.PASS and report.counts.passed == 1


def swapped_interleaved(text: str) -> str:
    return (
        text.replace("reference =", "x")
        .replace("candidate", "reference")
        .replace("x", "candidate =")
    )


def test_stages_of_a_pipeline_hold_parts_of_a_stack():
    whole = {"step0/layers/param/kernel": np.stack(FC)}
    parts: Tensors = {
        f"step0/h.{i}/param/weight": Tensor(full=FC[i], holders=(min(i, 1),))
        for i in range(LAYERS)
    }
    text = """
    [[tensor]]
    reference = "layers/{kind}/kernel"
    candidate = "h.{i}/{kind}/weight"
    transform = "a b -> i a b"
    """
    report = compare(text, whole, memory_trace(parts, {"pp": 2}))
    assert report.verdict is Outcome.PASS and report.counts.passed == 1


@pytest.mark.parametrize("missing", [1, 2])
def test_a_layer_less_is_no_pass(missing):
    whole = {"step0/layers/param/kernel": np.stack(FC)}
    parts = {f"step0/h.{i}/param/weight": FC[i] for i in range(LAYERS) if i != missing}
    text = """
    [[tensor]]
    reference = "layers/{kind}/kernel"
    candidate = "h.{i}/{kind}/weight"
    transform = "a b -> i a b"
    """
    report = compare(text, whole, parts)
    (tensor,) = report.tensors
    if missing == 1:
        assert tensor.status == "unmatched"
        assert tensor.reason.startswith("48 elements are missing in the candidate")
    else:
        assert tensor.status == "failed" and "logical shapes differ" in tensor.reason
    text = """
    [[tensor]]
    reference = "h.{i}/{kind}/weight"
    candidate = "layers/{kind}/kernel"
    transform = "i a b -> a b"
    """
    fewer = {"step0/layers/param/kernel": np.stack(FC[:missing])}
    reference = {f"step0/h.{i}/param/weight": FC[i] for i in range(LAYERS)}
    report = compare(text, reference, fewer)
    assert report.counts.passed == missing
    assert report.counts.unmatched == LAYERS - missing


def test_without_a_part_of_a_list_nothing_is_made_up():
    candidate = candidate_tensors()
    del candidate["step0/b0.k/main_grad/kernel"]
    report = compare(QKV, *pair(candidate, "attn", "b0."))
    assert report.counts.unmatched == 1 and report.counts.passed == 2
    status = by_id(report)["step0/h.0.attn/main_grad/weight"]
    assert status.status == "unmatched" and "are missing" in status.reason


def test_of_unknown_length_the_parts_keep_their_names():
    text = """
    [[tensor]]
    reference = "whole/{kind}/w"
    candidate = ["a/{kind}/w", "b/{kind}/w", "c/{kind}/w"]
    transform = "n -> n"
    join = "n"
    """
    reference = {f"step0/whole/{k}/w": values(9) for k in ("param", "main_grad")}
    candidate = {f"step0/{x}/param/w": values(3) for x in "abc"}
    candidate["step0/a/main_grad/w"] = values(3)
    report = compare(text, reference, candidate)
    statuses = {tensor.id: tensor.status for tensor in report.tensors}
    assert statuses["step0/a/main_grad/w"] == "unmatched"
    assert statuses["step0/whole/main_grad/w"] == "unmatched"
    assert statuses["step0/whole/param/w"] == "failed"


def test_what_a_part_was_skipped_for():
    candidate = candidate_tensors()
    del candidate["step0/b0.k/main_grad/kernel"]
    reference, trace = pair(candidate, "attn", "b0.")
    trace = memory_trace(
        {k: v for k, v in candidate.items() if "b0." in k},
        {"tp": 2},
        skipped={"step0/b0.k/main_grad/kernel": "no layout rule"},
    )
    report = compare(QKV, reference, trace)
    tensor = by_id(report)["step0/h.0.attn/main_grad/weight"]
    assert tensor.status == "skipped" and tensor.reason.endswith("no layout rule")
    assert report.counts.total == len(reference)


def test_parts_that_do_not_belong_together_are_skipped():
    candidate = candidate_tensors()
    candidate["step0/b0.k/param/kernel"] = sharded(KEY.astype(np.float16), "d n[tp] e")
    candidate["step0/b0.k/main_grad/kernel"] = sharded(KEY, "d n e partial[tp]")
    report = compare(QKV, *pair(candidate, "attn", "b0."))
    reasons = {tensor.id.split("/")[2]: tensor.reason for tensor in report.tensors}
    assert "parts that a map joins differ in dtype" in reasons["param"]
    assert "differ in their layouts' partial_axes" in reasons["main_grad"]
    assert report.counts.skipped == 2 and report.counts.passed == 1


def test_state_of_other_dims_than_its_parameter_is_skipped():
    text = """
    [[tensor]]
    reference = "a/{kind}/weight"
    candidate = "b/{kind}/kernel"
    transform = "a b -> b a"
    """
    reference = {
        "step0/a/param/weight": values(3, 4),
        "step0/a/optimizer_state/weight.step": LOSS,
        "step0/a/optimizer_state/weight.row": values(3),
    }
    candidate = {
        "step0/b/param/kernel": reference["step0/a/param/weight"].T,
        "step0/b/optimizer_state/kernel.step": LOSS,
        "step0/b/optimizer_state/kernel.row": values(4),
    }
    report = compare(text, reference, candidate)
    statuses = {tensor.id.split("/")[-1]: tensor for tensor in report.tensors}
    assert statuses["weight"].status == statuses["weight.step"].status == "passed"
    assert statuses["weight.row"].status == "skipped"
    assert "other dims than its parameter" in statuses["weight.row"].reason


def test_names_of_states():
    text = """
    [[tensor]]
    reference = "a/{kind}/weight"
    candidate = "b/{kind}/kernel"
    [states]
    exp_avg = "first"
    """
    reference = {
        f"step0/a/optimizer_state/weight.{name}": values(2)
        for name in ("exp_avg", "exp_avg_sq", "nu2")
    }
    names = ("first", "nu", "nu2")
    candidate = {
        f"step0/b/optimizer_state/kernel.{name}": array
        for name, array in zip(names, reference.values(), strict=True)
    }
    report = compare(text, reference, candidate)
    assert report.counts.passed == 3
    same = {k.replace("/a/", "/b/").replace("weight", "kernel"): v
            for k, v in reference.items()}  # fmt: skip
    report = compare(text.replace("first", "exp_avg"), reference, same)
    assert report.counts.passed == 3


IGNORED = """
[[ignore]]
side = "{side}"
pattern = "{pattern}"
reason = "not in both"
"""


def test_ignored_tensors_are_skipped_with_the_reason():
    reference = {"step0/a/param/w": LOSS, "step0/a.x/param/w": LOSS}
    candidate = {"step0/b/param/w": LOSS, "step0/b.y/param/w": LOSS}
    text = (
        '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'
        + IGNORED.format(side="candidate", pattern="b.y/*")
        + IGNORED.format(side="reference", pattern="*.x/param/*")
    )
    report = compare(text, reference, candidate)
    assert report.verdict is Outcome.PASS
    assert report.counts.passed == 1 and report.counts.skipped == 2
    reason = "ignored by the map: not in both"
    assert {reason in key for key in report.counts.skipped_reasons} == {True}
    # What a rule renames is skipped under the name of the reference.
    text = text.replace("b.y/*", "b*/*")
    report = compare(text, reference, candidate)
    assert by_id(report)["step0/a/param/w"].status == "skipped"
    assert "step0/b/param/w" not in by_id(report)


def test_filters_speak_the_names_of_their_own_side():
    text = """
    [[tensor]]
    reference = "h.{i}/{kind}/weight"
    candidate = "layer{i}/{kind}/kernel"
    """
    reference = {f"step0/h.{i}/param/weight": FC[i] for i in range(LAYERS)}
    reference["step0/other/param/weight"] = LOSS
    candidate = memory_trace(
        {"step0/layer1/param/kernel": FC[1]}, capture={"modules": "layer1"}
    )
    report = compare(text, memory_trace(reference), candidate)
    assert report.verdict is Outcome.PASS and report.counts.passed == 1
    assert report.counts.skipped_reasons == {
        "candidate: left out by a capture filter": 3
    }
    unfiltered = memory_trace({"step0/layer1/param/kernel": FC[1]})
    assert compare(text, reference, unfiltered).counts.unmatched == 3


def error_of(text: str, reference: Tensors, candidate: Tensors) -> MapError:
    with pytest.raises(MapError) as caught:
        compare(text, reference, candidate)
    return caught.value


def test_a_rule_that_matches_nothing():
    reference, candidate = {"step0/a/param/w": LOSS}, {"step0/b.mlp/param/w": LOSS}
    text = '\n[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b.fc/{kind}/w"\n'
    error = error_of(text, reference, candidate)
    assert error.what == "a rule matches nothing in the candidate"
    assert error.where == "map.toml:2" and error.expected == "b.fc/{kind}/w"
    assert error.got == "for example step0/b.mlp/param/w"
    text = '[[tensor]]\nreference = "c/param/w"\ncandidate = "b.mlp/param/w"\n'
    error = error_of(text, reference, candidate)
    assert error.what == "a rule matches nothing in the reference"
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
    assert error.what == "a rule makes no tensor id of what it matched"
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
