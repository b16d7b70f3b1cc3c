"""A small model in Lightning's loop, and in a plain one, with a mistake to switch on.

A worker of ``examples/worker_pool.py`` runs ``main``. Each process has every nth
sample, whatever the process group: Lightning's own sampler shuffles.
"""

import logging
import os
import warnings
from collections.abc import Sequence

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset

from ttrace.frontends import torch_capture
from ttrace.frontends.torch_training_loops import lightning_callback

STEPS, MICROBATCHES, SAMPLES, LIMIT = 2, 4, 3, 0.05


class Module(LightningModule):
    def __init__(self, clips_early: bool = False):
        super().__init__()
        self.net = make_net()
        self._clips_early = clips_early

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.net(batch).square().mean()
        if self._clips_early:  # before the backward pass that makes the gradients
            clip_grad_norm_(self.parameters(), LIMIT)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.net(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Tensors(Dataset[torch.Tensor]):
    def __init__(self, tensors: torch.Tensor):
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._tensors[index]


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))


def batches() -> torch.Tensor:
    """``[steps * micro-batches, samples, 4]``, the same everywhere."""
    shape = (STEPS * MICROBATCHES, SAMPLES, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def fit(module: Module, *, part: str | None = None) -> None:
    """Trains under Lightning; accumulates, clips, and evaluates in the middle."""
    # Of what Lightning advises: more workers of the data loader, a logger.
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    world_size, rank = (int(os.environ.get(n, d)) for n, d in _PLACE)
    clips = not module._clips_early
    trainer = Trainer(
        max_steps=STEPS,
        accumulate_grad_batches=MICROBATCHES // world_size,
        gradient_clip_val=LIMIT if clips else None,
        val_check_interval=MICROBATCHES // world_size,
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        # Or it would start processes of its own.
        plugins=[TorchElasticEnvironment()] if world_size > 1 else None,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[lightning_callback(part=part)],
    )
    own = batches()[rank::world_size]
    loader, evaluated = (
        DataLoader(Tensors(part), batch_size=None) for part in (own, own[:1])
    )
    trainer.fit(module, loader, evaluated)


_PLACE = (("WORLD_SIZE", 1), ("RANK", 0))


def train_plainly(net: nn.Module) -> None:
    """What Lightning does, in a loop of plain torch."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    with torch_capture.trace(net, optimizer) as trace:
        for step in batches().split(MICROBATCHES):
            for batch in step:
                loss = net(batch).square().mean()
                trace.loss(loss)
                (loss / MICROBATCHES).backward()
            clip_grad_norm_(net.parameters(), LIMIT)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()


def main(argv: Sequence[str]) -> int:
    fit(Module(clips_early="clips-early" in argv))
    return 0
