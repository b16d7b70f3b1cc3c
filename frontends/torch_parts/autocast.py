"""Whether torch casts operands by itself where a module runs, and to what."""

import torch

OFF = "off"


def autocast_state() -> str:
    """E.g. ``bfloat16 on cpu``, or ``off``."""
    devices = ["cpu"]
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        devices += [] if accelerator is None else [accelerator.type]
    states = [
        f"{str(torch.get_autocast_dtype(device)).removeprefix('torch.')} on {device}"
        for device in devices
        if torch.is_autocast_enabled(device)
    ]
    return ", ".join(states) or OFF
