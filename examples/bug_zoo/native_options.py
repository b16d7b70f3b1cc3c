"""The example of torch's own parallelism that the bugs are put into."""

SCRIPT = "ttrace.examples.torch_native.train"

_LOSS = ("--loss-per", "step")
_SGD = ("--optimizer", "sgd", "--lr", "0.1", "--weight-decay", "0")
_LLAMA = (*_LOSS, "--num-kv-heads", "2", "--bias")

MODEL = (*_LLAMA, *_SGD)
CLIP = (*MODEL, "--max-grad-norm", "0.1")
"""Below the norm that the gradients have, so that it does something."""

CNN = (*_LOSS, "--model", "cnn", *_SGD)
ADAMW = (*_LLAMA, "--weight-decay", "0.1", "--decay-matrices-only")
MUON = (*_LLAMA, "--optimizer", "muon")
LORA = (*_LLAMA, "--lora", "--weight-decay", "0")

DDP = ("--dp", "ddp", "--reduce-once")
SUM = ("--dp", "sum")
FSDP2 = ("--dp", "fsdp2", "--reduce-once")
HSDP = ("--dp", "hsdp", "--reduce-once")
TP = ("--tp", "2", "--sp")
PP = ("--pp", "2")
