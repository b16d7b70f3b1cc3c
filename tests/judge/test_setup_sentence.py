"""What is said of the first thing that two runs were given unlike."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.computed_buffers import computed_setting, is_computed
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome
from ttrace.store.memory_trace import MemoryTrace

VALUES = np.arange(1, 9, dtype=np.float32).reshape(2, 4)


def summary(reference: MemoryTrace, candidate: MemoryTrace) -> str:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.verdict is Outcome.ERROR and report.error_kind == "setup"
    return report.summary


def ends(first: str, **fields) -> str:
    """The summary where a tensor differs, behind the reason."""
    pair = ({first: values} for values in (VALUES, VALUES * 2))
    text = summary(*(memory_trace(one, **fields) for one in pair))
    assert text.startswith(
        f"Set-up differs: the two runs were not given the same. First: {first}: "
        "rel_err 1 exceeds the tolerance 0. "
    )
    return text.partition("tolerance 0. ")[2]


def test_a_parameter_may_not_have_been_loaded():
    assert ends("step0/a/param/weight") == (
        "This initial value differs: was it loaded? Start both from the same "
        "parameters; what follows may be a consequence."
    )


def test_a_parameter_that_differs_beside_others_that_one_run_lacks():
    adapters = {
        f"step0/layers.{layer}.up.lora_{name}/param/weight": VALUES
        for layer in range(2)
        for name in "AB"
    }
    text = summary(
        memory_trace({"step0/a/param/weight": VALUES} | adapters),
        memory_trace({"step0/a/param/weight": VALUES * 2}),
    )
    assert text.partition("tolerance 0. ")[2] == (
        "This initial value differs: was it loaded? Besides, 4 parameters are in the "
        "reference only (layers.0.up.lora_A/weight, layers.0.up.lora_B/weight, "
        "layers.1.up.lora_A/weight, layers.1.up.lora_B/weight): build both models with "
        "the same ones, as modules that only one run builds also shift what random "
        "numbers others begin with. Start both from the same parameters; what follows "
        "may be a consequence."
    )


def test_a_buffer_of_no_state_dict_is_a_matter_of_settings():
    computed = computed_setting([("layers.3.rope", "inv_freq"), ("x", "other")])
    assert ends("step0/layers.0.rope/buffer/inv_freq", settings=computed) == (
        "No state dict holds this buffer, layers.0.rope computes it when it is built: "
        "compare what that module is configured with in both runs; what follows may be "
        "a consequence."
    )
    assert ends("step0/layers.0.rope/buffer/scale", settings=computed) == (
        "Load this buffer in both runs from the same state; if no state dict holds it, "
        "compare what layers.0.rope is configured with; what follows may be a "
        "consequence."
    )


def test_computed_buffers_are_a_setting_that_is_not_compared():
    assert computed_setting([]) == {}
    one, other = ({"computed_buffers": text} for text in ("a/b", "a/c"))
    assert is_computed(one, "a", "b") and not is_computed(other, "a", "b")
    tensors = {"step0/a/param/weight": VALUES}
    report = compare_traces(
        memory_trace(tensors, settings=one),
        memory_trace(tensors, settings=other),
        load_backend("numpy"),
    )
    assert not report.setup.differences


def test_inputs_have_the_old_words():
    assert ends("step0/mb0/@root/input/0") == (
        "Start both from the same parameters and data; what follows may be a "
        "consequence."
    )


def of_ranks(*samples: np.ndarray, sizes=None) -> MemoryTrace:
    """A run whose nth rank has the nth samples, as its micro-batch of that number."""
    names = [f"step0/mb{number}/@root/input/0" for number in range(len(samples))]
    trace = memory_trace(
        dict(zip(names, samples, strict=True)), sizes or {"dp": len(samples)}
    )
    tensors = {
        id_: record
        if sizes
        else replace(
            record,
            shards=tuple(s for s in record.shards if s.rank == id_.microbatch),
        )
        for id_, record in trace.info.tensors.items()
    }
    return MemoryTrace(replace(trace.info, tensors=tensors), trace.arrays)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ((0, 0), "in step 0 rank 1 of the candidate has rank 0's samples. First"),
        (
            (0, 1, 0, 1),
            "in step 0 rank 2 of the candidate has rank 0's samples, and 1 more rank "
            "those of another. First",
        ),
    ],
)
def test_ranks_that_have_the_samples_of_others(samples, said):
    own = [VALUES + 10 * number for number in range(len(samples))]
    reference = of_ranks(*own, sizes={"dp": 1})
    text = summary(reference, of_ranks(*(own[number] for number in samples)))
    assert text.startswith(f"Set-up differs: {said}: step0/mb")
    assert text.endswith(
        "Look at the sampler, which is to give every data-parallel rank samples of its "
        "own; where these ranks share their samples, as in tensor parallelism by hand, "
        "describe that; what follows may be a consequence."
    )


def test_ranks_with_other_samples_of_their_own():
    own = [VALUES, VALUES + 10]
    text = summary(of_ranks(*own, sizes={"dp": 1}), of_ranks(VALUES, VALUES + 20))
    assert "sampler" not in text


def with_pairs_along_tp(*samples: np.ndarray) -> MemoryTrace:
    """Four ranks, of which 0 and 1 share micro-batch 0, and 2 and 3 the next one."""
    trace = memory_trace(
        {
            f"step0/mb{number}/@root/input/0": Tensor(
                full=samples[2 * number], holders=(2 * number, 2 * number + 1)
            )
            for number in range(2)
        },
        {"dp": 2, "tp": 2},
    )
    for rank, values in enumerate(samples):
        trace.arrays[rank, f"step0/mb{rank // 2}/@root/input/0"] = values
    return trace


def test_ranks_along_tp_that_were_given_other_samples():
    """What each of them has is in the reference: no sampler leaves it out."""
    own = [np.arange(8 * n, 8 * n + 8).reshape(2, 4) for n in range(4)]
    name = "step0/mb{}/@root/input/0"
    reference = memory_trace(
        {name.format(n): np.concatenate(own[2 * n : 2 * n + 2]) for n in range(2)}
    )
    report = compare_traces(reference, with_pairs_along_tp(*own), load_backend("numpy"))
    assert report.summary.startswith(
        "Set-up differs: ranks along tp must be given the same batch, and rank 1 of "
        "the candidate has other samples than rank 0, and 1 more like it. First: "
        f"{name.format(0)}. Give all ranks of a group over tp the same data, such as "
        "by a sampler that counts data-parallel ranks only; what follows may be a "
        "consequence."
    )
    (failed,) = (one for one in report.tensors if one.status == "failed")
    assert failed.reason.endswith(
        ": rank 1 of the candidate has other samples than rank 0, with which it shares "
        "its micro-batches, and 1 more rank likewise"
    )
    whole = summary(reference, with_pairs_along_tp(own[0], own[0], own[1], own[1]))
    assert "leaves 4 samples out; look at its sampler" in whole
