"""The cases: layouts x models x precisions, as data."""

from dataclasses import dataclass

_SIZES = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --train-iters 1"
)
_LLAMA = (
    "--swiglu --normalization RMSNorm --position-embedding-type rope --qk-layernorm "
    "--num-query-groups 2 --untie-embeddings-and-output-weights --disable-bias-linear "
    "--vocab-size 61 --make-vocab-size-divisible-by 4"
)
_MOE = "--num-experts 4 --disable-bias-linear"
_MOE_GATHER = f"{_MOE} --moe-token-dispatcher-type allgather"
_MLA = (
    "--multi-latent-attention --qk-layernorm --swiglu --normalization RMSNorm "
    "--disable-bias-linear"
)
_GDN = (
    "--experimental-attention-variant gated_delta_net --swiglu --normalization RMSNorm "
    "--disable-bias-linear"
)
_DSA = f"{_MLA} --experimental-attention-variant dsa --duplicated-down-projections"
_SINKS = "--softmax-type learnable --window-size 6 --position-embedding-type rope"
_SHARED = f"{_MOE} --moe-shared-expert-intermediate-size 32 --moe-shared-expert-gate"
_MTP = "--mtp-num-layers 1 --position-embedding-type rope"
_FULL = (
    "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
)
_BLOCK = (
    "--recompute-granularity full --recompute-method block --recompute-num-layers 1"
)

MODELS = {
    "gpt": "",
    "gpt-sgd": "--optimizer sgd",
    "llama": _LLAMA,
    "mqa": "--num-query-groups 1",
    "llama-mqa": f"{_LLAMA} --num-query-groups 1",
    "llama-gqa": _LLAMA,
    "moe": _MOE,
    "moe-gather": _MOE_GATHER,
    "moe-llama": f"{_LLAMA} {_MOE}",
    "gpt-full": _FULL,
    "gpt-block": _BLOCK,
    "gpt-selective": "--recompute-granularity selective",
    "llama-full": f"{_LLAMA} {_FULL}",
    "moe-full": f"{_MOE} {_FULL}",
    "moe-aux": f"{_MOE} --moe-aux-loss-coeff 0.01",
    "gpt4": "--num-layers 4",
    "llama4": f"{_LLAMA} --num-layers 4",
    "gpt4-full": f"--num-layers 4 {_FULL}",
    "gpt3": "--num-layers 3",
    # Parameters that are gathered while the next forward runs need a next forward.
    "gpt-2steps": "--train-iters 2",
    "gpt4-2steps": "--num-layers 4 --train-iters 2",
    "gpt-masked": "--calculate-per-token-loss --loss-mask uneven",
    "gpt-even": "--loss-mask even",
    "mtp": _MTP,
    "mtp-tokens": f"{_MTP} --calculate-per-token-loss",
    "mtp2-tokens": f"{_MTP} --mtp-num-layers 2 --calculate-per-token-loss",
    "mla": _MLA,
    "mla-dup": f"{_MLA} --duplicated-down-projections",
    "mla-dup-yarn": f"{_MLA} --duplicated-down-projections --rope-type yarn",
    "mla-no-q-lora": f"{_MLA} --no-q-lora --duplicated-down-projections",
    "mla-no-norm": "--multi-latent-attention --duplicated-down-projections",
    "mla-full": f"{_MLA} --duplicated-down-projections {_FULL}",
    "mla-moe": f"{_MLA} --duplicated-down-projections {_SHARED}",
    "mla-mtp": f"{_MLA} --duplicated-down-projections {_MTP}",
    "gdn": _GDN,
    "gdn4": f"{_GDN} --num-layers 4",
    "gdn-moe": f"{_GDN} {_SHARED}",
    "dsa": _DSA,
    "sinks": _SINKS,
    "sinks-one": f"{_SINKS} --softmax-type off-by-one",
    "shared": _SHARED,
    "shared-overlap": f"{_SHARED} --moe-shared-expert-overlap",
    "latent-experts": f"{_MOE} --moe-latent-size 16",
    "sigmoid": f"{_SHARED} --moe-router-score-function sigmoid "
    "--moe-router-enable-expert-bias",
    # Where tokens that count are spread unevenly over context-parallel ranks, only a
    # loss per token is that of one process; Megatron then scales auxiliary losses by
    # the ranks (PR 5047).
    "padded": f"{_MOE} --moe-aux-loss-coeff 0.1 --padding 3",
    "padded-tokens": f"{_MOE} --padding 3 --calculate-per-token-loss",
    "gated-attention": f"{_LLAMA} --attention-output-gate --qk-l2-norm",
    "masked-attention": "--attention-mask",
}
"""Options that reference and candidate share."""

_TP2 = "--tensor-model-parallel-size 2"
_SP = "--sequence-parallel"
_TP4 = "--tensor-model-parallel-size 4"
_EP2 = "--expert-model-parallel-size 2"
_ETP1 = "--expert-tensor-parallel-size 1"
_ETP2 = "--expert-tensor-parallel-size 2"
_PP2 = "--pipeline-model-parallel-size 2"
_VPP2 = "--num-layers-per-virtual-pipeline-stage 1 --overlap-p2p-communication"
_CP2 = "--context-parallel-size 2"
_ZERO = "--use-distributed-optimizer"
_OVERLAP = "--overlap-grad-reduce --ddp-bucket-size 3000"  # several buckets per chunk
_ZERO_OVERLAP = f"{_ZERO} {_OVERLAP} --overlap-param-gather"
_INSTANCES2 = f"{_ZERO} --num-distributed-optimizer-instances 2"

LAYOUTS = {
    "tp2": (2, _TP2),
    "tp2-sp": (2, f"{_TP2} {_SP}"),
    "dp2": (2, ""),
    "tp4": (4, _TP4),
    "tp4-sp": (4, f"{_TP4} {_SP}"),
    "tp2-sp-dp2": (4, f"{_TP2} {_SP}"),
    "dp4": (4, ""),
    "ep2": (2, _EP2),
    "tp2-sp-ep2-etp1": (2, f"{_TP2} {_SP} {_EP2} {_ETP1}"),
    "tp2-sp-etp2": (2, f"{_TP2} {_SP} {_ETP2}"),
    "tp2-sp-dp2-ep2-etp1": (4, f"{_TP2} {_SP} {_EP2} {_ETP1}"),
    "tp2-sp-dp2-ep2-etp2": (4, f"{_TP2} {_SP} {_EP2} {_ETP2}"),
    "pp2": (2, _PP2),
    "pp2-uneven": (2, f"{_PP2} --decoder-first-pipeline-num-layers 1"),
    "pp2-vpp2": (2, f"{_PP2} {_VPP2}"),
    "pp4": (4, "--pipeline-model-parallel-size 4"),
    "pp2-dp2": (4, _PP2),
    "tp2-sp-pp2": (4, f"{_TP2} {_SP} {_PP2}"),
    "ep2-pp2": (4, f"{_EP2} {_PP2}"),
    "cp2": (2, _CP2),
    "cp2-dp2": (4, _CP2),
    "cp2-pp2": (4, f"{_CP2} {_PP2}"),
    "tp2-sp-cp2": (4, f"{_TP2} {_SP} {_CP2}"),
    "dp2-overlap": (2, "--overlap-grad-reduce"),
    "dp2-zero": (2, _ZERO),
    "dp2-zero-overlap": (2, f"{_ZERO} --overlap-grad-reduce --overlap-param-gather"),
    "tp2-sp-dp2-zero": (4, f"{_TP2} {_SP} {_ZERO}"),
    "pp2-dp2-zero": (4, f"{_PP2} {_ZERO}"),
    "ep2-zero": (2, f"{_EP2} {_ZERO}"),
    "ep2-dp2-zero-instances2": (4, f"{_EP2} {_INSTANCES2}"),
    "cp2-zero": (2, f"{_CP2} {_ZERO}"),
    "cp2-zero-overlap": (2, f"{_CP2} {_ZERO_OVERLAP}"),
    "dp4-zero-instances2": (4, _INSTANCES2),
    "dp4-zero-instances2-overlap": (
        4,
        f"{_INSTANCES2} {_OVERLAP} --overlap-param-gather",
    ),
    "cp2-dp2-zero-instances2": (4, f"{_CP2} {_INSTANCES2}"),
    "pp2-dp2-zero-overlap": (4, f"{_PP2} {_ZERO_OVERLAP}"),
    "pp2-vpp2-dp2-overlap": (4, f"{_PP2} {_VPP2} {_OVERLAP}"),
    "pp2-vpp2-dp2-zero": (4, f"{_PP2} {_VPP2} {_ZERO}"),
    "pp2-vpp2-dp2-zero-overlap": (4, f"{_PP2} {_VPP2} {_ZERO_OVERLAP}"),
    "cp2-ep2": (2, f"{_CP2} {_EP2}"),
    "cp2-dp2-ep2": (4, f"{_CP2} {_EP2}"),
    "cp2-dp2-ep4": (4, f"{_CP2} --expert-model-parallel-size 4"),
    "tp2-sp-cp2-ep2-etp1": (4, f"{_TP2} {_SP} {_CP2} {_EP2} {_ETP1}"),
}
"""Number of processes, and options that only the candidate gets."""

PRECISIONS = {
    "fp32": "",
    "bf16": "--bf16",
    "fp16": "--fp16 --initial-loss-scale 1024",
    # The first step overflows and halves the scale, the second one does not.
    "fp16-overflow": "--fp16 --initial-loss-scale 917504 --hysteresis 1 "
    "--train-iters 2",
}

_BATCH = "--micro-batch-size 1 --global-batch-size {}"

_TABLE = (
    # model, layouts, precisions, global batch size
    ("gpt", "tp2 tp2-sp dp2 tp4-sp tp2-sp-dp2 dp4", "fp32 bf16", 4),
    ("gpt", "tp4", "fp32", 4),
    ("gpt", "tp2-sp dp2", "fp32", 8),
    ("gpt-sgd", "tp2-sp dp2", "fp32 bf16", 4),
    ("llama", "tp2 tp2-sp dp2 tp2-sp-dp2", "fp32 bf16", 4),
    ("llama", "dp4", "fp32", 4),
    ("mqa", "tp2 tp2-sp", "fp32 bf16", 4),
    ("mqa", "tp4-sp", "fp32", 4),
    ("llama-mqa", "tp2-sp tp4-sp", "fp32", 4),
    ("llama-gqa", "tp4-sp", "fp32", 4),
    ("moe", "dp2 ep2 tp2-sp-ep2-etp1 tp2-sp-etp2", "fp32 bf16", 4),
    ("moe", "tp2-sp-dp2-ep2-etp1 tp2-sp-dp2-ep2-etp2", "fp32", 4),
    ("moe-gather", "dp2 ep2 tp2-sp-ep2-etp1 tp2-sp-etp2", "fp32", 4),
    ("moe-llama", "ep2 tp2-sp-ep2-etp1", "fp32 bf16", 4),
    ("gpt-full", "tp2 tp2-sp dp2", "fp32", 4),
    ("gpt-full", "tp2-sp", "bf16", 4),
    ("gpt-block", "tp2-sp", "fp32", 4),
    ("gpt-selective", "tp2 tp2-sp", "fp32", 4),
    ("llama-full", "tp2-sp-dp2", "fp32", 4),
    ("moe-full", "tp2-sp-ep2-etp1 ep2", "fp32", 4),
    ("moe-aux", "dp2 ep2 tp2-sp-ep2-etp1", "fp32", 4),
    ("gpt", "tp2-sp dp2 pp2", "fp16", 4),
    ("gpt", "tp2-sp pp2", "fp16-overflow", 4),
    ("gpt", "pp2 pp2-dp2 tp2-sp-pp2", "fp32 bf16", 4),
    ("gpt", "cp2 cp2-dp2 tp2-sp-cp2 cp2-pp2", "fp32", 4),
    ("gpt", "cp2", "bf16", 4),
    ("gpt", "dp2-overlap dp2-zero dp2-zero-overlap", "fp32 bf16", 4),
    ("gpt", "tp2-sp-dp2-zero pp2-dp2-zero", "fp32", 4),
    ("gpt", "dp2-zero", "fp16", 4),
    ("gpt3", "pp2-uneven", "fp32", 4),
    ("gpt4", "pp2-vpp2 pp4", "fp32 bf16", 4),
    ("gpt4-full", "pp2-vpp2", "fp32", 4),
    ("llama", "pp2 cp2 tp2-sp-cp2 tp2-sp-pp2", "fp32", 4),
    ("llama", "pp2 cp2 dp2-zero", "bf16", 4),
    ("llama4", "pp2-vpp2", "fp32", 4),
    ("moe", "ep2-pp2 pp2 ep2-zero", "fp32", 4),
    ("mtp", "tp2 tp2-sp dp2 pp2", "fp32", 4),
    ("gpt-masked", "dp2 cp2 tp2-sp-pp2", "fp32", 4),
    ("gpt-even", "dp2 cp2", "fp32", 4),
    ("gpt", "cp2-zero dp4-zero-instances2 cp2-dp2-zero-instances2", "fp32", 4),
    ("gpt", "pp2-dp2-zero", "fp16", 4),
    ("gpt", "cp2-zero dp4-zero-instances2", "bf16", 4),
    ("gpt4", "pp2-vpp2-dp2-zero pp2-vpp2-dp2-overlap", "fp32", 4),
    ("gpt4-2steps", "pp2-vpp2-dp2-zero-overlap", "fp32", 4),
    (
        "gpt-2steps",
        "pp2-dp2-zero-overlap cp2-zero-overlap dp4-zero-instances2-overlap",
        "fp32",
        4,
    ),
    ("mla", "dp2 pp2 cp2", "fp32", 4),
    ("mla-dup", "tp2-sp tp4-sp pp2 cp2 tp2-sp-cp2 tp2-sp-pp2", "fp32", 4),
    ("mla-dup", "tp2-sp", "bf16", 4),
    ("mla-dup-yarn", "tp2-sp cp2", "fp32", 4),
    ("mla-no-q-lora", "tp2-sp cp2", "fp32", 4),
    ("mla-no-norm", "tp2-sp", "fp32", 4),
    ("mla-full", "tp2-sp", "fp32", 4),
    ("mla-moe", "tp2-sp-ep2-etp1 ep2", "fp32", 4),
    ("mla-mtp", "tp2-sp pp2", "fp32", 4),
    ("gdn", "tp2-sp dp2 pp2", "fp32", 4),
    ("gdn", "tp2-sp", "bf16", 4),
    ("gdn4", "tp2-sp-pp2 pp4", "fp32", 4),
    ("gdn-moe", "tp2-sp-ep2-etp1 ep2", "fp32", 4),
    ("dsa", "tp2-sp dp2 pp2", "fp32", 4),
    ("sinks", "tp2 tp2-sp dp2 pp2 cp2", "fp32", 4),
    ("sinks-one", "tp2-sp", "fp32", 4),
    ("shared", "tp2-sp-ep2-etp1 tp2-sp-etp2 ep2 cp2 ep2-pp2", "fp32", 4),
    ("shared-overlap", "tp2-sp-ep2-etp1 ep2", "fp32", 4),
    ("latent-experts", "tp2-sp-ep2-etp1 ep2 cp2", "fp32", 4),
    ("sigmoid", "ep2 tp2-sp-ep2-etp1", "fp32", 4),
    ("padded", "ep2 tp2-sp-ep2-etp1 pp2", "fp32", 4),
    ("padded-tokens", "cp2 cp2-ep2", "fp32", 4),
    ("gated-attention", "tp2 tp2-sp cp2", "fp32", 4),
    ("masked-attention", "tp2-sp cp2 pp2", "fp32", 4),
    ("mtp-tokens", "cp2 cp2-pp2 tp2-sp-cp2", "fp32", 4),
    ("mtp2-tokens", "pp2 cp2", "fp32", 4),
    ("moe", "cp2 cp2-ep2 cp2-dp2-ep2 cp2-dp2-ep4 cp2-pp2", "fp32", 4),
    ("moe", "tp2-sp-cp2-ep2-etp1 ep2-dp2-zero-instances2", "fp32", 4),
    ("moe", "cp2-ep2", "bf16", 4),
    ("moe-gather", "cp2-dp2-ep2", "fp32", 4),
    ("moe-aux", "cp2-ep2", "fp32", 4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A correct layout of a model.

    Attributes:
        name: Model, layout, precision and number of samples, e.g.
            ``gpt/tp2-sp/bf16/4``.
        model: Options of reference and candidate, precision included.
        layout: Options that only the candidate gets.
        world_size: Its number of processes.
        script: Module whose ``main(argv)`` trains.
        needs: Package that has to be installed for it, if not every developer has it.
    """

    name: str
    model: tuple[str, ...]
    layout: tuple[str, ...]
    world_size: int
    script: str = "ttrace.examples.megatron_gpt.train"
    needs: str | None = None

    @property
    def package(self) -> str:
        """That of the script."""
        return self.script.rpartition(".")[0]


def all_cases() -> tuple[Case, ...]:
    """Every case of Megatron-Core; those with the same reference and size together."""
    return tuple(
        _case(model, layout, precision, num_samples)
        for model, layouts, precisions, num_samples in _TABLE
        for precision in precisions.split()
        for layout in layouts.split()
    )


def _case(model: str, layout: str, precision: str, num_samples: int) -> Case:
    world_size, options = LAYOUTS[layout]
    shared = (_SIZES, MODELS[model], PRECISIONS[precision], _BATCH.format(num_samples))
    return Case(
        name=f"{model}/{layout}/{precision}/{num_samples}",
        model=tuple(" ".join(shared).split()),
        layout=tuple(options.split()),
        world_size=world_size,
    )
