"""A patch for the torch example: checksums of every parameter at the end."""

import hashlib
from typing import Any

import torch


def after_training(args: Any, models: list[torch.nn.Module]) -> None:
    """Prints a line for each parameter of this rank."""
    for model in models:
        for name, parameter in model.named_parameters():
            content = parameter.detach().contiguous().numpy().tobytes()
            print(f"bits {name}: {hashlib.sha256(content).hexdigest()}")
