"""A small network of convolutions, one of recurrent cells, one with skips: no Llama.

All take samples ``x`` and are small enough for a matrix of many layouts.
"""

import torch
from torch import nn

from ttrace.examples.torch_native.tasks import Samples, Task, class_loss, squared_loss

CLASSES = 5


class ConvBlock(nn.Module):
    """Convolution, normalization, ReLU."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(num_out)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Cnn(nn.Module):
    """Classifies images ``[b, 3, h, w]``, with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            ConvBlock(3, 8), nn.MaxPool2d(2), ConvBlock(8, 16), nn.AvgPool2d(2)
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean(dim=(2, 3)))


class Tagger(nn.Module):
    """Classifies sequences ``[b, s, 6]`` by what a two-layer LSTM remembers of them."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.lstm(x)
        return self.head(self.norm(outputs[:, -1]))


class Twice(nn.Module):
    """Two convolutions with GroupNorm."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, padding=1)
        self.norm = nn.GroupNorm(num_groups=num_out // 4, num_channels=num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(nn.functional.silu(self.norm(self.conv1(x))))


class UNet(nn.Module):
    """Denoises images ``[b, 3, h, w]``: down, up, and a skip between."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = Twice(3, 8), Twice(8, 16)
        self.pool = nn.AvgPool2d(2)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge = Twice(16, 8)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down1(x)
        low = self.down2(self.pool(skip))
        return self.out(self.merge(torch.cat((skip, self.up(low)), dim=1)))


def _images(num_samples: int, generator: torch.Generator) -> Samples:
    return {
        "x": torch.randn(num_samples, 3, 8, 8, generator=generator),
        "labels": torch.randint(CLASSES, (num_samples,), generator=generator),
    }


def _noisy_images(num_samples: int, generator: torch.Generator) -> Samples:
    x, target = torch.randn(2, num_samples, 3, 8, 8, generator=generator)
    return {"x": x, "target": target}


def _sequences(num_samples: int, generator: torch.Generator) -> Samples:
    return {
        "x": torch.randn(num_samples, 7, 6, generator=generator),
        "labels": torch.randint(CLASSES, (num_samples,), generator=generator),
    }


TASKS = {
    "cnn": Task(model=Cnn, samples=_images, loss=class_loss, blocks=("ConvBlock",)),
    "lstm": Task(model=Tagger, samples=_sequences, loss=class_loss, blocks=("LSTM",)),
    "unet": Task(
        model=UNet, samples=_noisy_images, loss=squared_loss, blocks=("Twice",)
    ),
}
