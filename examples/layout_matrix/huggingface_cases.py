"""The cases of ``transformers.Trainer`` and Accelerate, as data."""

from ttrace.examples.layout_matrix.cases import Case

_TRAINER = "ttrace.examples.huggingface.trainer_train"
_ACCELERATE = "ttrace.examples.huggingface.accelerate_train"

_TABLE = (
    # name, script, options of both runs, layouts
    ("trainer-llama", _TRAINER, "--model llama --uneven-lengths", "ddp fsdp2"),
    ("trainer-llama-sgd", _TRAINER, "--model llama --optimizer sgd", "ddp fsdp2"),
    ("trainer-llama-bf16", _TRAINER, "--model llama --bf16", "ddp"),
    ("trainer-gpt2", _TRAINER, "--model gpt2 --recompute --evaluate", "ddp fsdp2"),
    ("trainer-mixtral", _TRAINER, "--model mixtral", "ddp fsdp2"),
    ("accelerate-llama", _ACCELERATE, "--model llama --evaluate", "ddp fsdp2"),
    ("accelerate-gpt2", _ACCELERATE, "--model gpt2 --max-grad-norm 0", "ddp fsdp2"),
    ("accelerate-mixtral", _ACCELERATE, "--model mixtral --recompute", "ddp fsdp2"),
)

_GLOBAL_BATCH_SIZE = 8


def huggingface_cases() -> tuple[Case, ...]:
    """Every case, those with the same reference one after the other."""
    return tuple(
        Case(
            name=f"{name}/{layout}/{_precision(options)}/{_GLOBAL_BATCH_SIZE}",
            model=(*options.split(), "--global-batch-size", str(_GLOBAL_BATCH_SIZE)),
            layout=("--layout", layout),
            world_size=2,
            script=script,
            needs="accelerate",
        )
        for name, script, options, layouts in _TABLE
        for layout in layouts.split()
    )


def _precision(options: str) -> str:
    return "bf16" if "--bf16" in options else "fp32"
