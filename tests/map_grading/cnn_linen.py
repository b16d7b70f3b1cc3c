"""A residual CNN with batch norm, NCHW of torch against NHWC of flax."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import torch

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes


class Block(torch.nn.Module):
    def __init__(self, given: int, made: int):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(given, made, 3, 2, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(made)
        self.conv2 = torch.nn.Conv2d(made, made, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(made)
        self.down = torch.nn.Conv2d(given, made, 1, 2)
        self.act = torch.nn.ReLU()

    def forward(self, x):
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(y + self.down(x))


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList([Block(8, 12), Block(12, 16)])
        self.fc = torch.nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    pixels = random.normal(size=(4, 3, 16, 16)).astype(np.float32)
    return pixels, random.integers(0, 10, 4)


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


class Stage(nn.Module):
    made: int
    number: int
    bug: str

    @nn.compact
    def __call__(self, x):
        pad = "SAME" if self.bug == "padding" else 1
        eps = 1e-3 if self.bug == "epsilon" else 1e-5

        def conv(name, stride=1, size=3, padding=pad, bias=False):
            return nn.Conv(
                self.made, (size, size), stride, padding, use_bias=bias, name=name
            )

        def norm(name):
            frozen = self.bug == "eval_mode" and name == "norm_2"
            return nn.BatchNorm(frozen, momentum=0.9, epsilon=eps, name=name)

        y = nn.relu(norm("norm_1")(conv("conv_1", 2)(x)))
        if self.bug == "act" and self.number == 1:
            y = nn.gelu(y)
        y = norm("norm_2")(conv("conv_2")(y))
        skip = conv("skip", 2, 1, 0, True)(x)
        if self.bug == "act_order":
            return nn.relu(y) + skip
        if self.bug == "no_skip" and self.number == 1:
            return nn.relu(y + 0 * skip)
        return nn.relu(y + skip)


class Net(nn.Module):
    bug: str

    @nn.compact
    def __call__(self, x):
        x = x[..., ::-1] if self.bug == "channels" else x
        x = nn.Conv(8, (3, 3), padding=1, name="stem")(x)
        for number, made in enumerate((12, 16)):
            x = Stage(made, number, self.bug, name=f"stage_{number}")(x)
        x = x.max((1, 2)) if self.bug == "pooling" else x.mean((1, 2))
        return nn.Dense(10, name="classify", use_bias=self.bug != "no_bias")(x)


def port(weights: Weights, bug: str) -> Port:
    def conv(name):
        kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        if bug == "flipped" and name == "stem":
            kernel = kernel[::-1, ::-1]
        bias = weights.get(f"{name}.bias")
        return {"kernel": kernel} | ({} if bias is None else {"bias": bias})

    params: dict = {"stem": conv("stem")}
    stats: dict = {}
    for n in range(2):
        own = f"blocks.{n}"
        params[f"stage_{n}"] = {
            "conv_1": conv(f"{own}.conv1"),
            "conv_2": conv(f"{own}.conv2"),
            "skip": conv(f"{own}.down"),
        }
        stats[f"stage_{n}"] = {}
        for number in (1, 2):
            norm = f"{own}.bn{number}"
            params[f"stage_{n}"][f"norm_{number}"] = {
                "scale": weights[f"{norm}.weight"],
                "bias": weights[f"{norm}.bias"],
            }
            stats[f"stage_{n}"][f"norm_{number}"] = {
                "mean": jnp.array(weights[f"{norm}.running_mean"]),
                "var": jnp.array(weights[f"{norm}.running_var"]),
            }
    params["classify"] = {
        "kernel": weights["fc.weight"].T,
        "bias": weights["fc.bias"],
    }
    if bug == "no_bias":
        del params["classify"]["bias"]
    module = Net(bug)

    def loss(params, batch):
        variables = {"params": params, "batch_stats": stats}
        pixels = batch[0].transpose(0, 2, 3, 1)
        logits, _ = module.apply(variables, pixels, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return Port(params=params, loss=loss)


PAIR = LibraryPair(
    name="cnn_linen",
    model=Reference,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        padding="blocks.0.conv1",
        epsilon="blocks.0.bn1",
        eval_mode="blocks.0.bn2",
        act="blocks.1.act blocks.1.conv2",
        act_order="blocks.0.act blocks.0",
        pooling="fc",
        flipped="stem",
        channels="stem @root",
        no_skip="blocks.1.act blocks.1",
        no_bias="fc",
    ),
)
