"""A patch for the Megatron example: MLA's shared rotary key gets its whole gradient.

The mend of Megatron-LM PR 6839, for bugs that would be hidden behind that one.
"""


def before_build(args):
    """Sums the key's gradient over tensor-parallel ranks, where nothing else does."""
    from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
    from megatron.core.transformer import multi_latent_attention

    rotate = multi_latent_attention.apply_rotary_pos_emb

    def rotate_summed(tensor, *more, **options):
        # Queries have as many heads as the rank; the shared key has one.
        if tensor.size(-2) == 1 and not args.sequence_parallel:
            tensor = copy_to_tensor_model_parallel_region(tensor)
        return rotate(tensor, *more, **options)

    multi_latent_attention.apply_rotary_pos_emb = rotate_summed
