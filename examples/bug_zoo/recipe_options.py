"""The recipe with torch's own parallelism that the bugs are put into."""

SCRIPT = "ttrace.examples.torch_recipe.train"

DDP = ("--layout", "ddp")
SUM = ("--layout", "sum")
FSDP2 = ("--layout", "fsdp2")
HSDP = ("--layout", "hsdp")
TP = ("--layout", "tp")
PP = ("--layout", "pp")

CLIP = ("--max-grad-norm", "0.1")
"""Below the norm that the gradients have, so that it does something."""

ADAMW = ("--optimizer", "adamw", "--lr", "0.01", "--weight-decay", "0.1")
LORA = ("--lora", "--optimizer", "adamw", "--lr", "0.01")
