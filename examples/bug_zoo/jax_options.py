"""The runs that bugs of JAX are put into: ports against torch, layouts against JAX."""

TORCH_SCRIPT = "ttrace.examples.jax_port.torch_train"
SCRIPT = "ttrace.examples.jax_port.jax_train"

GPT2 = ("--model", "gpt2", "--uneven-lengths")
LLAMA = ("--model", "llama", "--uneven-lengths")
"""Models; samples end in padding, so that masks and token counts matter."""

GPT2_EVEN = ("--model", "gpt2")
"""All samples have the same length."""

LINEN = ("--flavor", "linen")
NNX = ("--flavor", "nnx")

ON_2X2 = ("--mesh", "2x2")
STACKED = ("--layout", "scan_remat")
SHARD_MAP = ("--layout", "shard_map")
DROPOUT = ("--dropout", "0.25")
"""Layouts of the ports, and what PyTorch could not be compared with."""
