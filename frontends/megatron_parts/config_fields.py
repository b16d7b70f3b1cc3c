"""What each field of Megatron's ``TransformerConfig`` is to a comparison.

All fields of megatron-core 0.15.3 to 0.16.1 stand here, those of
``MLATransformerConfig`` too; a test holds that. ``model_settings`` writes them down.
"""

from collections.abc import Mapping

OF_MODULES: Mapping[str, frozenset[str]] = {
    "*Router": frozenset(
        {
            "moe_aux_loss_coeff",
            "moe_enable_routing_replay",
            "moe_expert_capacity_factor",
            "moe_input_jitter_eps",
            "moe_pad_expert_input_to_capacity",
            "moe_router_bias_update_rate",
            "moe_router_enable_expert_bias",
            "moe_router_force_load_balancing",
            "moe_router_group_topk",
            "moe_router_load_balancing_type",
            "moe_router_num_groups",
            "moe_router_pre_softmax",
            "moe_router_score_function",
            "moe_router_topk_limited_devices",
            "moe_router_topk_scaling_factor",
            "moe_token_drop_policy",
            "moe_token_dropping",
            "moe_z_loss_coeff",
        }
    ),
    "BaseMoELayer": frozenset({"moe_shared_expert_gate"}),
    "MLP|GroupedMLP|TEGroupedMLP|SequentialMLP": frozenset(
        {
            "activation_func",
            "activation_func_clamp_value",
            "gated_linear_unit",
            "glu_linear_offset",
            "moe_apply_probs_on_input",
        }
    ),
    "Attention": frozenset(
        {
            "attention_output_gate",
            "mrope_section",
            "no_rope_freq",
            "qk_l2_norm",
            "qk_layernorm",
            "rotary_interleaved",
        }
    ),
    "MultiLatentAttention": frozenset(
        {
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "original_max_position_embeddings",
            "qk_head_dim",
            "qk_pos_emb_head_dim",
            "rope_type",
            "rotary_base",
            "rotary_percent",
            "rotary_scaling_factor",
        }
    ),
    "*DotProductAttention|DSAttention": frozenset(
        {
            "apply_query_key_layer_scaling",
            "dsa_indexer_loss_coeff",
            "dsa_indexer_topk",
            "dsa_indexer_use_sparse_loss",
            "kv_channels",
            "qk_clip",
            "qk_clip_alpha",
            "qk_clip_threshold",
            "softmax_scale",
            "softmax_type",
            "window_attn_skip_freq",
            "window_size",
        }
    ),
    "*Norm*": frozenset({"layernorm_zero_centered_gamma"}),
    "TransformerLayer": frozenset(
        {
            "apply_residual_connection_post_layernorm",
            "linear_attention_freq",
            "moe_layer_freq",
            "normalization",
        }
    ),
    "MambaMixer": frozenset(
        {"mamba_head_dim", "mamba_num_groups", "mamba_num_heads", "mamba_state_dim"}
    ),
}
"""What changes the mathematics of modules, by names of their classes."""

OF_MODEL = frozenset(
    {
        "calculate_per_token_loss",
        "experimental_attention_variant",
        "hidden_size",
        "mtp_loss_scaling_factor",
        "mtp_num_layers",
        "multi_latent_attention",
        "num_attention_heads",
        "num_layers",
        "num_moe_experts",
        "num_query_groups",
        "moe_router_topk",
    }
)
"""What changes the mathematics of the model as a whole, or its size."""

OF_PRECISION = frozenset(
    {
        "activation_func_fp8_input_store",
        "attention_softmax_in_fp32",
        "autocast_dtype",
        "bf16",
        "disable_bf16_reduced_precision_matmul",
        "enable_autocast",
        "first_last_layers_bf16",
        "fp16",
        "fp32_residual_connection",
        "fp4",
        "fp4_param",
        "fp4_recipe",
        "fp8",
        "fp8_amax_compute_algo",
        "fp8_amax_history_len",
        "fp8_dot_product_attention",
        "fp8_interval",
        "fp8_margin",
        "fp8_multi_head_attention",
        "fp8_param",
        "fp8_recipe",
        "fp8_wgrad",
        "moe_router_dtype",
        "num_layers_at_end_in_bf16",
        "num_layers_at_start_in_bf16",
        "params_dtype",
        "pipeline_dtype",
        "tp_only_amax_red",
    }
)
"""In which dtypes the same is computed."""

OF_IMPLEMENTATION = frozenset(
    {
        "apply_rope_fusion",
        "attention_backend",
        "batch_invariant_mode",
        "bias_activation_fusion",
        "bias_dropout_fusion",
        "cp_comm_type",
        "cross_entropy_fusion_impl",
        "cross_entropy_loss_fusion",
        "cuda_graph_impl",
        "deterministic_mode",
        "enable_cuda_graph",
        "external_cuda_graph",
        "fused_single_qkv_rope",
        "gradient_accumulation_fusion",
        "kitchen_attention_backend",
        "masked_softmax_fusion",
        "memory_efficient_layer_norm",
        "moe_grouped_gemm",
        "moe_permute_fusion",
        "moe_router_fusion",
        "moe_shared_expert_overlap",
        "moe_token_dispatcher_type",
        "moe_use_legacy_grouped_gemm",
        "persist_layer_norm",
        "recompute_granularity",
        "recompute_method",
        "recompute_modules",
        "recompute_num_layers",
        "sequence_parallel",
        "transformer_impl",
        "use_fused_weighted_squared_relu",
        "use_kitchen",
        "use_kitchen_attention",
        "use_mamba_mem_eff_path",
        "use_te_activation_func",
    }
)
"""By which code the same is computed."""

SHOWN_OTHERWISE = frozenset(
    {
        # The shapes and names of parameters, and their initial values.
        "add_bias_linear",
        "add_qkv_bias",
        "dsa_indexer_head_dim",
        "dsa_indexer_n_heads",
        "embedding_init_method",
        "embedding_init_method_std",
        "ffn_hidden_size",
        "heterogeneous_block_specs",
        "init_method",
        "init_method_std",
        "init_model_with_meta_device",
        "is_hybrid_model",
        "kv_lora_rank",
        "linear_conv_kernel_dim",
        "linear_key_head_dim",
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_value_head_dim",
        "moe_ffn_hidden_size",
        "moe_latent_size",
        "moe_shared_expert_intermediate_size",
        "output_layer_init_method",
        "perform_initialization",
        "q_lora_rank",
        "use_cpu_initialization",
        "v_head_dim",
        # What modules keep under names of their own: rates of dropout, ``eps``.
        "attention_dropout",
        "hidden_dropout",
        "layernorm_epsilon",
        # The meshes of the run, and what is recorded on which stage.
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "context_parallel_size",
        "expert_model_parallel_size",
        "expert_tensor_parallel_size",
        "hierarchical_context_parallel_sizes",
        "hybrid_context_parallel",
        "max_seqlen_per_dp_cp_rank",
        "microbatch_group_size_per_vp_stage",
        "moe_extended_tp",
        "mtp_standalone",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
        "pipeline_model_parallel_layout",
        "pipeline_model_parallel_size",
        "tensor_model_parallel_size",
        "virtual_pipeline_model_parallel_size",
    }
)
"""What a trace shows by itself."""

WITHOUT_EFFECT = frozenset(
    {
        # When and by which means ranks communicate.
        "async_tensor_model_parallel_allreduce",
        "barrier_with_L1_time",
        "batch_p2p_comm",
        "batch_p2p_sync",
        "defer_embedding_wgrad_compute",
        "delay_wgrad_compute",
        "ep_overlap_early_attn_memory_release",
        "moe_deepep_num_sms",
        "moe_enable_deepep",
        "moe_flex_dispatcher_backend",
        "moe_hybridep_num_sms",
        "moe_router_padding_for_fp8",
        "moe_router_padding_for_quantization",
        "overlap_moe_expert_parallel_comm",
        "overlap_p2p_comm",
        "overlap_p2p_comm_warmup_flush",
        "pipeline_model_parallel_comm_backend",
        "symmetric_ar_type",
        "tp_comm_atomic_ag",
        "tp_comm_atomic_rs",
        "tp_comm_bootstrap_backend",
        "tp_comm_bulk_dgrad",
        "tp_comm_bulk_wgrad",
        "tp_comm_overlap",
        "tp_comm_overlap_ag",
        "tp_comm_overlap_disable_fc1",
        "tp_comm_overlap_disable_qkv",
        "tp_comm_overlap_rs",
        "tp_comm_overlap_rs_dgrad",
        "tp_comm_split_ag",
        "tp_comm_split_rs",
        "use_ring_exchange_p2p",
        "variable_seq_lengths",
        "wgrad_deferral_limit",
        # What is kept in memory, and where.
        "_cpu_offloading_context",
        "clone_scatter_output_in_embedding",
        "cpu_offloading",
        "cpu_offloading_activations",
        "cpu_offloading_double_buffering",
        "cpu_offloading_num_layers",
        "cpu_offloading_weights",
        "cuda_graph_retain_backward_graph",
        "cuda_graph_scope",
        "cuda_graph_use_single_mempool",
        "cuda_graph_warmup_steps",
        "deallocate_pipeline_outputs",
        "disable_parameter_transpose_cache",
        "distribute_saved_activations",
        "fine_grained_activation_offloading",
        "min_offloaded_tensor_size",
        "moe_layer_recompute",
        "num_microbatches_with_partial_activation_checkpoints",
        "offload_modules",
        # Inference, logs, checkpoints, random numbers of dropout.
        "cache_mla_latents",
        "config_logger_dir",
        "flash_decode",
        "hetereogenous_dist_checkpoint",
        "inference_fuse_tp_communication",
        "inference_rng_tracker",
        "inference_sampling_seed",
        "log_max_attention_logit",
        "mlp_chunks_for_prefill",
        "moe_per_layer_logging",
        "test_mode",
        "timers",
        "use_inference_optimized_layers",
        "use_te_rng_tracker",
        # Functions that training puts there, and recipes that are objects.
        "finalize_model_grads_func",
        "fp4_quantizer_factory",
        "fp8_quantizer_factory",
        "grad_scale_func",
        "grad_sync_func",
        "no_sync_func",
        "param_sync_func",
        "quant_recipe",
    }
)
"""What changes no number of a training step, or is nothing that can be compared."""
