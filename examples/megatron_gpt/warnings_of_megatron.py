"""Warnings that Megatron gives in every run of the example, and why to drop them."""

import logging
import warnings

_EXPECTED = (
    # Apex and TransformerEngine are optional; the example uses neither.
    (UserWarning, ".*Apex (is|are) not installed.*"),
    (UserWarning, ".*Transformer Engine and Apex are not installed.*"),
    # Megatron's own imports of its deprecated names.
    (DeprecationWarning, "The following imports from `dynamic_context.py`.*"),
    (DeprecationWarning, r"The 'megatron.core.transformer.custom_layers.*"),
    (DeprecationWarning, r"`torch.jit.script.*` is deprecated.*"),
    # Megatron's layer builds its dense MLP without the size that it asks for.
    (DeprecationWarning, "MLP requires ffn_hidden_size, but it was not provided.*"),
    # Its row-parallel linear passes no group on, and warns of that.
    (DeprecationWarning, "Warning: tp_group is None, using default tp group.*"),
    # The distributed optimizer asks its views of float32 parameters for gradients.
    (UserWarning, "The .grad attribute of a Tensor that is not a leaf.*"),
    # megatron-core 0.15 prepares memory that a GPU and the host share.
    (UserWarning, "Failed to create unified memory mempool.*"),
    # Advice for TransformerEngine.
    (UserWarning, "If you are using transformer_engine as the transformer impl.*"),
    # Megatron still calls them by their old names.
    (FutureWarning, ".*`torch.distributed.(reduce_scatter|all_gather).*deprecated.*"),
    # Linears of a model with sequence parallelism and tensor-parallel size 1.
    (UserWarning, "`sequence_parallel` is set to `True`, but tensor model parallel.*"),
)


def quiet() -> None:
    """Ignores these warnings, and Megatron's log below the level of errors."""
    for category, message in _EXPECTED:
        warnings.filterwarnings("ignore", message=message, category=category)
    # Level "warning" repeats, per group and rank, what was chosen on purpose.
    logging.getLogger("megatron").setLevel(logging.ERROR)
