"""What the two models are like: small random GPT-2 and Llama, in numbers only."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ttrace.errors import UsageError


class Architecture(StrEnum):
    """The models that exist in transformers and as ports."""

    GPT2 = "gpt2"
    LLAMA = "llama"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model; hashable, so that a flax module can carry it.

    Attributes:
        architecture: Which one.
        num_layers: Number of blocks.
        hidden_size: Width between the blocks.
        num_heads: Heads of the queries.
        num_kv_heads: Heads of keys and values; GPT-2 has as many as of queries.
        mlp_size: Width inside the MLP.
        vocab_size: Number of tokens.
        seq_length: Tokens per sample, and positions that GPT-2 learns.
        norm_epsilon: Added to the variance in the norms.
        rope_theta: Base of Llama's rotary frequencies.
        dropout: Rate after the token embedding; for pairs of JAX runs only.
        stacked: One block with stacked parameters, scanned over and rematerialised,
            stands for all layers.
    """

    architecture: Architecture
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    vocab_size: int
    seq_length: int
    norm_epsilon: float
    rope_theta: float = 10_000.0
    dropout: float = 0.0
    stacked: bool = False

    def __post_init__(self):
        for what, value, divisor in (
            ("hidden size", self.hidden_size, 2 * self.num_heads),
            ("number of heads", self.num_heads, self.num_kv_heads),
        ):
            if value < 1 or value % divisor:
                raise UsageError(
                    f"the {what} of the model cannot be divided",
                    where=self.architecture.value,
                    expected=f"a multiple of {divisor}",
                    got=value,
                    remedy="change it, or the number of heads",
                )

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads


def small_config(
    architecture: Architecture,
    *,
    num_layers: int = 2,
    hidden_size: int = 64,
    num_heads: int = 8,
    vocab_size: int = 128,
    seq_length: int = 16,
    dropout: float = 0.0,
    stacked: bool = False,
) -> ModelConfig:
    """A model of toy size, in the proportions of the real ones."""
    is_llama = architecture is Architecture.LLAMA
    return ModelConfig(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=max(num_heads // 2, 1) if is_llama else num_heads,
        mlp_size=(2 if is_llama else 4) * hidden_size,
        vocab_size=vocab_size,
        seq_length=seq_length,
        norm_epsilon=1e-6 if is_llama else 1e-5,
        dropout=dropout,
        stacked=stacked,
    )


def map_path(name: str) -> Path:
    """The map file of a port, e.g. ``gpt2_linen`` or ``llama_nnx_stacked``."""
    return Path(__file__).with_name("maps") / f"{name}.toml"
