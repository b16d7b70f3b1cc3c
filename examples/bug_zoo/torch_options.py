"""The plain torch example's parallelisms that the bugs are put into."""

SCRIPT = "ttrace.examples.torch_parallel.train"

MODEL = ("--micro-batch-size", "2", "--global-batch-size", "8")
"""Four micro-batches in a step: gradients accumulate in every layout."""

UNEVEN = (*MODEL, "--uneven-lengths")
"""Samples of different lengths."""

DATA = ("--parallelism", "data")
ULYSSES = ("--parallelism", "ulysses")
RING = ("--parallelism", "ring")
TENSOR = ("--parallelism", "tensor")
PIPELINE = ("--parallelism", "pipeline")
