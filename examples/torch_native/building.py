"""The model that is asked for, and this rank's part of it."""

import argparse

import torch
from torch import nn

from ttrace.examples.torch_native import (
    data_parallel,
    lora,
    other_models,
    pipeline,
    synced_norms,
    tensor_parallel,
)
from ttrace.examples.torch_native.llama import Llama, LlamaOptions
from ttrace.examples.torch_native.place import Place
from ttrace.examples.torch_native.tasks import Task, language_loss, token_samples


def find_task(args: argparse.Namespace) -> Task:
    """What ``--model`` names."""
    if args.model in other_models.TASKS:
        return other_models.TASKS[args.model]
    if args.model != "llama":
        # Here, as it imports transformers, which the others do without.
        from ttrace.examples.torch_native import transformers_models

        return transformers_models.TASKS[args.model]
    options = LlamaOptions(
        num_layers=args.num_layers,
        num_kv_heads=args.num_kv_heads,
        bias=args.bias,
        tied=args.tie_embeddings,
        lora=args.lora,
        dropout=args.dropout,
    )
    return Task(
        model=lambda: Llama(options),
        samples=token_samples(
            options.vocab_size,
            args.seq_length,
            documents=args.documents,
            uneven_lengths=args.uneven_lengths,
        ),
        loss=language_loss,
        blocks=("Block",),
    )


def build_model(task: Task, args: argparse.Namespace) -> nn.Module:
    """The whole model; every process makes the same one, then takes its part."""
    torch.manual_seed(args.seed)
    model = task.model()
    if args.lora:
        lora.freeze(model)
    return model


def lay_out(
    model: nn.Module, task: Task, args: argparse.Namespace, place: Place
) -> nn.Module:
    """This rank's part of the model, with everything that torch puts around it."""
    if isinstance(model, Llama):
        if args.pp > 1:
            pipeline.keep_stage(model, place)
        if args.tp > 1:
            tensor_parallel.parallelize(
                model,
                place.mesh["tp"],
                is_sequence=args.sp,
                is_loss_parallel=args.loss_parallel,
            )
    model.to(place.device)
    if args.sync_batch_norm:
        synced_norms.synchronize_norms(model)
    data_parallel.recompute(model, task.blocks, args.checkpoint)
    if args.compile and args.compile_blocks:
        for layer in data_parallel.layers_of(model, task.blocks):
            layer.compile(backend=args.compile)
    wrapped = data_parallel.wrap(
        model,
        place,
        args.dp,
        blocks=task.blocks,
        is_mixed=args.precision == "mixed",
        reduce_dtype=getattr(torch, args.reduce_dtype),
    )
    if args.compile and not args.compile_blocks:
        wrapped.compile(backend=args.compile)
    return wrapped
