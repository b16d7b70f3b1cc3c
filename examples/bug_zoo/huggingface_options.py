"""The examples of Trainer and Accelerate that the bugs are put into."""

TRAINER = "ttrace.examples.huggingface.trainer_train"
ACCELERATE = "ttrace.examples.huggingface.accelerate_train"

MODEL = ("--model", "llama", "--global-batch-size", "8")
"""Several micro-batches in a step: gradients accumulate on two processes, too."""

UNEVEN = (*MODEL, "--uneven-lengths")
"""Samples of different lengths."""

DDP = ("--layout", "ddp")
