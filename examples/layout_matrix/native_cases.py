"""The cases of torch's own parallelism, as data."""

from ttrace.examples.layout_matrix.cases import Case

SCRIPT = "ttrace.examples.torch_native.train"

_EIGHT = "--micro-batch-size 8"
_SHUFFLED = "--deal samples --shuffle"

_TABLE = (
    # name, options of both runs, candidate: processes and options by layout name
    (
        "native-llama",
        "",
        {
            "ddp2": (2, "--dp ddp"),
            "ddp2-once": (2, "--dp ddp --reduce-once"),
            "ddp4": (4, "--dp ddp"),
            "fsdp1": (2, "--dp fsdp1"),
            "fsdp1-flat": (2, "--dp fsdp1-flat"),
            "fsdp2": (2, "--dp fsdp2"),
            "fsdp2-once": (2, "--dp fsdp2 --reduce-once"),
            "fsdp4": (4, "--dp fsdp2"),
            "hsdp4": (4, "--dp hsdp"),
            "tp2": (2, "--tp 2"),
            "tp2-sp": (2, "--tp 2 --sp"),
            "tp2-sp-loss": (2, "--tp 2 --sp --loss-parallel"),
            "tp2-fsdp2": (4, "--tp 2 --dp fsdp2"),
            "tp2-sp-fsdp2": (4, "--tp 2 --sp --loss-parallel --dp fsdp2"),
            "pp2-gpipe": (2, "--pp 2 --schedule GPipe"),
            "pp2-1f1b": (2, "--pp 2 --schedule 1F1B"),
            "pp2-tp2": (4, "--pp 2 --tp 2 --schedule GPipe"),
            "pp2-tp2-sp": (4, "--pp 2 --tp 2 --sp"),
            "compile": (1, "--compile aot_eager"),
            "ddp2-compile": (2, "--dp ddp --compile aot_eager"),
            "fsdp2-blocks": (2, "--dp fsdp2 --compile aot_eager --compile-blocks"),
            "wrapper": (1, "--checkpoint wrapper"),
            "fsdp2-wrapper": (2, "--dp fsdp2 --checkpoint wrapper"),
            "ddp2-autocast": (2, "--dp ddp --precision autocast"),
            "fsdp2-mixed": (2, "--dp fsdp2 --precision mixed"),
            "fsdp2-reentrant": (2, "--dp fsdp2 --checkpoint reentrant"),
            "tp2-sp-wrapper": (2, "--tp 2 --sp --checkpoint wrapper"),
        },
    ),
    (
        "native-llama-gqa-tied",
        "--num-kv-heads 2 --tie-embeddings",
        {
            "ddp2": (2, "--dp ddp"),
            "fsdp2": (2, "--dp fsdp2"),
            "fsdp1": (2, "--dp fsdp1"),
        },
    ),
    (
        "native-llama-gqa",
        "--num-kv-heads 2 --num-layers 3 --max-grad-norm 0.1",
        {
            "tp2-sp": (2, "--tp 2 --sp"),
            "fsdp2-reduce-once": (2, "--dp fsdp2 --reduce-once"),
        },
    ),
    (
        "native-llama-autocast",
        "--precision autocast",
        {
            "ddp2": (2, "--dp ddp"),
            "fsdp2": (2, "--dp fsdp2"),
            "tp2-sp": (2, "--tp 2 --sp"),
            "pp2-1f1b": (2, "--pp 2"),
        },
    ),
    (
        "native-llama-mixed",
        "--dp fsdp2 --precision mixed",
        {"fsdp2": (2, ""), "hsdp4": (4, "--dp hsdp"), "tp2-sp": (4, "--tp 2 --sp")},
    ),
    ("native-llama-mixed1", "--dp fsdp1 --precision mixed", {"fsdp1": (2, "")}),
    (
        "native-llama-whole",
        _EIGHT,
        {
            "one-4x2": (1, "--micro-batch-size 2"),
            "ddp4": (4, "--dp ddp --micro-batch-size 2"),
            "fsdp2-2x2": (2, "--dp fsdp2 --micro-batch-size 2 --reduce-once"),
            "ddp2-samples": (2, "--dp ddp --micro-batch-size 4 --deal samples"),
            "tp2-sp": (2, "--tp 2 --sp --micro-batch-size 4"),
        },
    ),
    (
        "native-llama-shuffled",
        _SHUFFLED,
        {"ddp2": (2, "--dp ddp"), "fsdp4": (4, "--dp fsdp2")},
    ),
    (
        "native-llama-step",
        "--loss-per step --num-kv-heads 2 --bias --uneven-lengths --optimizer sgd",
        {
            "sum2": (2, "--dp sum"),
            "fsdp2-once": (2, "--dp fsdp2 --reduce-once"),
            "hsdp4-once": (4, "--dp hsdp --reduce-once"),
            "tp2-sp": (2, "--tp 2 --sp"),
            "pp2-1f1b": (2, "--pp 2"),
        },
    ),
    (
        "native-llama-documents",
        "--documents --decay-matrices-only --warmup 4",
        {"fsdp2": (2, "--dp fsdp2")},
    ),
    (
        "cnn-synced",
        f"{_EIGHT} --model cnn",
        {"ddp2": (2, "--dp ddp --micro-batch-size 4 --sync-batch-norm")},
    ),
    ("cnn", "--model cnn", {"ddp2": (2, "--dp ddp"), "fsdp2": (2, "--dp fsdp2")}),
    (
        "lstm",
        "--model lstm --optimizer sgd",
        {
            "ddp2": (2, "--dp ddp"),
            "fsdp2": (2, "--dp fsdp2"),
            "ddp4-whole": (4, "--dp ddp --deal samples"),
        },
    ),
    (
        "unet",
        "--model unet",
        {
            "ddp2": (2, "--dp ddp"),
            "fsdp2": (2, "--dp fsdp2"),
            "wrapper": (2, "--dp fsdp2 --checkpoint wrapper"),
        },
    ),
    (
        "hf-gpt2",
        "--model hf-gpt2",
        {
            "ddp2": (2, "--dp ddp"),
            "fsdp1": (2, "--dp fsdp1"),
            "fsdp2-wrapper": (2, "--dp fsdp2 --checkpoint wrapper"),
        },
    ),
    ("hf-llama", "--model hf-llama", {"fsdp2": (2, "--dp fsdp2")}),
    (
        "hf-mixtral",
        "--model hf-mixtral",
        {"ddp2": (2, "--dp ddp"), "fsdp2": (2, "--dp fsdp2")},
    ),
    (
        "hf-qwen-moe",
        "--model hf-qwen-moe",
        {"ddp2": (2, "--dp ddp"), "fsdp2": (2, "--dp fsdp2")},
    ),
    (
        "hf-bert",
        "--model hf-bert --max-grad-norm 0.5",
        {"ddp2": (2, "--dp ddp"), "fsdp2": (2, "--dp fsdp2")},
    ),
    (
        "hf-bert-autocast",
        "--model hf-bert --precision autocast",
        {"ddp2": (2, "--dp ddp")},
    ),
    (
        "hf-vit",
        "--model hf-vit",
        {
            "ddp2": (2, "--dp ddp"),
            "fsdp2": (2, "--dp fsdp2"),
            "fsdp4-samples": (4, "--dp fsdp2 --deal samples"),
        },
    ),
    (
        "hf-t5",
        "--model hf-t5",
        {"ddp2": (2, "--dp ddp"), "fsdp2": (2, "--dp fsdp2")},
    ),
)


def native_cases() -> tuple[Case, ...]:
    """Every case, those with the same reference one after the other."""
    return tuple(
        Case(
            name=f"{name}/{layout}/{_precision(options)}/8",
            model=tuple(options.split()),
            layout=tuple(changed.split()),
            world_size=world_size,
            script=SCRIPT,
            needs="transformers" if name.startswith("hf-") else None,
        )
        for name, options, layouts in _TABLE
        for layout, (world_size, changed) in layouts.items()
    )


def _precision(options: str) -> str:
    return "fp32" if "--precision" not in options else "bf16"
