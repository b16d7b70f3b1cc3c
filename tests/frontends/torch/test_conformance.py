"""The torch frontend runs the suite that ships with ttrace, in one process."""

from collections.abc import Mapping

import torch
from torch import nn

from ttrace.frontends import torch_capture
from ttrace.testing import FrontendSuite, Training, in_environment

WIDTH = 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x):
        self.largest = torch.maximum(self.largest, x.detach().abs().max())
        return x + self.dropout(self.down(nn.functional.gelu(self.up(self.norm(x)))))


class TestOneProcess(FrontendSuite):
    """AdamW, dropout, two micro-batches a step, clipped gradients."""

    records_operations = True

    def train(self, layout: str, environment: Mapping[str, str]) -> Training:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(11, WIDTH), Block(), Block())
        model.append(nn.Linear(WIDTH, 11))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        losses = []
        traced = torch_capture.trace(model, optimizer)
        with in_environment(environment), traced as trace:
            for _ in range(self.num_steps):
                for _ in range(2):
                    tokens = torch.randint(0, 11, (4, 6))
                    logits = model(tokens[:, :-1]).flatten(0, 1)
                    loss = nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
                    loss.backward()
                    trace.loss(loss)
                    losses.append(loss.detach())
                trace.main_grads()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
                trace.step()
        parameters = {
            name: value.detach().clone() for name, value in model.named_parameters()
        }
        return Training(losses=losses, parameters=parameters)
