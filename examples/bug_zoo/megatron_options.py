"""Models and layouts of the Megatron example that the bugs are put into."""

DENSE = tuple(
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --global-batch-size 4".split()
)
"""GPT-2's kind: learned positions, layernorm, GELU, biases, tied embeddings."""

EXPERTS = (*DENSE, *"--num-experts 4 --disable-bias-linear".split())
"""The same with four experts per layer, two of them for each token."""

TP2 = tuple("--tensor-model-parallel-size 2".split())
TP2_SP = (*TP2, "--sequence-parallel")
EP2 = tuple("--expert-model-parallel-size 2 --expert-tensor-parallel-size 1".split())
ETP1 = tuple("--expert-model-parallel-size 1 --expert-tensor-parallel-size 1".split())
DP2 = ()
"""What the sizes leave of the processes is data parallelism."""

FULL_RECOMPUTE = tuple(
    "--recompute-granularity full --recompute-method uniform "
    "--recompute-num-layers 1".split()
)
"""Every layer's forward is computed again for its backward."""

PP2 = tuple("--pipeline-model-parallel-size 2".split())
CP2 = tuple("--context-parallel-size 2".split())
ZERO = ("--use-distributed-optimizer",)

MULTI_QUERY = (*DENSE, "--num-query-groups", "1")
"""One head of keys and values, which all tensor-parallel ranks use."""

LATENT = (
    *DENSE,
    *"--multi-latent-attention --normalization RMSNorm --disable-bias-linear".split(),
)
"""Multi-latent attention whose down projections are column-parallel."""

WHOLE_DOWN = ("--duplicated-down-projections",)
"""Its down projections are whole on every tensor-parallel rank."""

DELTA_NET = (
    *DENSE,
    *"--experimental-attention-variant gated_delta_net --swiglu".split(),
    *"--normalization RMSNorm --disable-bias-linear".split(),
)
"""Gated DeltaNet in the first of two layers."""

SPARSE = (
    *LATENT,
    *WHOLE_DOWN,
    *"--experimental-attention-variant dsa --qk-layernorm --swiglu".split(),
)
"""Sparse attention, whose indexer chooses the keys that a query sees."""

SINKS = (
    *DENSE,
    *"--softmax-type learnable --window-size 6".split(),
    *"--position-embedding-type rope".split(),
)
"""Attention with sinks, and a window."""

PREDICTION = (*DENSE, *"--mtp-num-layers 1 --position-embedding-type rope".split())
"""One layer of multi-token prediction."""
