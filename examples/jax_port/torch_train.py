"""Entry point of the reference: trains a model of transformers with AdamW.

``python -m ttrace.examples.jax_port.torch_train --model llama``
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from ttrace.errors import UsageError
from ttrace.examples.jax_port.arguments import model_config, parse_torch_arguments
from ttrace.examples.jax_port.data import Batch, BatchSource
from ttrace.examples.jax_port.parameters import initial_parameters
from ttrace.examples.jax_port.torch_model import (
    build_model,
    cross_entropy,
    parameter_groups,
)
from ttrace.examples.patches import Patch
from ttrace.frontends import torch_capture


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process.

    Args:
        argv: Options; those of the process if None.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    try:
        run(parse_torch_arguments(argv))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Builds the model and trains it; a patch may change it before.

    Raises:
        UsageError: The options or a patch cannot be used.
    """
    patch = Patch(args.patch)
    patch.call("before_build", args)
    config = model_config(args)
    model = build_model(config, initial_parameters(config, seed=args.seed))
    patch.call("after_build", args, [model])
    groups = parameter_groups(model, weight_decay=args.weight_decay)
    optimizer = torch.optim.AdamW(
        groups, lr=args.lr, betas=(0.9, args.adam_beta2), eps=args.adam_eps
    )
    source = BatchSource(
        vocab_size=config.vocab_size,
        seq_length=config.seq_length,
        batch_size=args.global_batch_size,
        uneven_lengths=args.uneven_lengths,
        seed=args.seed,
    )
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(args.train_iters):
            parts = micro_batches(source.batch(step), args.num_microbatches)
            loss = train_step(model, optimizer, parts, trace)
            trace.step()
            print(f"step {step} loss {loss:.7f}")


def micro_batches(batch: Batch, count: int) -> list[dict[str, torch.Tensor]]:
    """The samples of a step in equal parts, as tensors; labels and tokens int64.

    Raises:
        UsageError: The samples cannot be divided evenly.
    """
    num_samples = len(batch["tokens"])
    if count < 1 or num_samples % count:
        raise UsageError(
            "the samples of a step cannot be divided evenly",
            where="--num-microbatches",
            expected=f"a divisor of {num_samples}",
            got=count,
            remedy="change it, or --global-batch-size",
        )
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    tensors = {
        name: value if value.dtype == torch.bool else value.long()
        for name, value in tensors.items()
    }
    parts = {name: value.chunk(count) for name, value in tensors.items()}
    return [{name: parts[name][i] for name in parts} for i in range(count)]


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[dict[str, torch.Tensor]],
    trace: torch_capture.PlainTrace,
) -> float:
    """One step; returns the loss per token over all its micro-batches."""
    num_tokens = torch.stack([part["mask"].sum() for part in parts]).sum()
    total = 0.0
    for part in parts:
        output = model(input_ids=part["tokens"], attention_mask=part["mask"])
        loss = cross_entropy(output.logits, part["labels"], num_tokens)
        trace.loss(loss)
        loss.backward()
        total += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    return total


if __name__ == "__main__":
    sys.exit(main())
