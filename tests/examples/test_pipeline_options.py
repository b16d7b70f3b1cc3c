"""Options of pipelines and contexts that contradict each other."""

import argparse

import pytest

from ttrace.errors import UsageError
from ttrace.examples.megatron_gpt.pipeline_options import (
    add_pipeline_options,
    check_interleaving,
    resolve_pipeline_options,
)

PP = "--pipeline-model-parallel-size"
VPP = "--num-layers-per-virtual-pipeline-stage"
FIRST = "--decoder-first-pipeline-num-layers"
LAST = "--decoder-last-pipeline-num-layers"
OVERLAP = "--overlap-p2p-communication"


def resolved(*options: str | int, **more) -> argparse.Namespace:
    """Options of a model of 8 layers and 32 tokens."""
    parser = argparse.ArgumentParser()
    add_pipeline_options(parser.add_argument_group())
    args = parser.parse_args(list(map(str, options)))
    defaults = {
        "num_layers": 8,
        "seq_length": 32,
        "sequence_parallel": False,
        "tensor_model_parallel_size": 1,
        "position_embedding_type": "learned_absolute",
        "num_microbatches": 4,
        "global_batch_size": 8,
    }
    for name, value in {**defaults, **more}.items():
        setattr(args, name, value)
    resolve_pipeline_options(args)
    check_interleaving(args)
    return args


@pytest.mark.parametrize(
    ("options", "num_chunks"),
    [
        ([], None),
        ([PP, 4], None),
        ([PP, 4, VPP, 1], 2),
        ([PP, 2, VPP, 1, OVERLAP], 4),
        ([PP, 2, VPP, 2, OVERLAP], 2),
        ([PP, 2, FIRST, 3], None),
        ([PP, 3, FIRST, 1, LAST, 2], None),
        ([PP, 2, FIRST, 3, LAST, 5], None),
    ],
)
def test_chunks_follow_from_layers_and_stages(options, num_chunks):
    assert resolved(*options).virtual_pipeline_model_parallel_size == num_chunks


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ([PP, 3], {}, "the layers cannot be divided among the stages"),
        ([PP, 2, FIRST, 3, LAST, 4], {}, "the layers cannot be divided"),
        ([PP, 2, FIRST, 8], {}, "the layers cannot be divided"),
        ([VPP, 1], {}, "an option of pipelines without a pipeline"),
        ([FIRST, 1], {}, "an option of pipelines without a pipeline"),
        ([PP, 2, OVERLAP], {}, "only the interleaved schedule overlaps"),
        ([PP, 2, VPP, 1], {}, "two stages exchange several messages per batch"),
        ([PP, 4, VPP, 2], {}, "cannot be divided among several virtual stages"),
        ([PP, 4, VPP, 1, FIRST, 2], {}, "cannot be virtual ones"),
        ([PP, 4, VPP, 1], {"num_microbatches": 6}, "micro-batches in rounds"),
        (["--context-parallel-size", 3], {}, "cannot be cut in zig-zag order"),
        (
            ["--context-parallel-size", 2],
            {
                "sequence_parallel": True,
                "tensor_model_parallel_size": 2,
                "seq_length": 20,
            },
            "a multiple of 8",
        ),
        (["--mtp-num-layers", 1], {}, "does not synchronize learned positions"),
    ],
)
def test_a_contradiction_is_named(options, more, message):
    with pytest.raises(UsageError) as caught:
        resolved(*options, **more)
    assert message in str(caught.value)
