"""What of a run's configuration decides how its tensors are laid out."""

from dataclasses import dataclass, replace

from ttrace.errors import UsageError
from ttrace.frontends.megatron_parts.meshes import MegatronMeshes
from ttrace.ir.splits import Dim, Modifier, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingContext:
    """The facts that layout rules may look at.

    Attributes:
        meshes: Where this rank stands.
        sequence_parallel: Activations between the tensor-parallel regions are cut
            along the sequence; false where the tensor-parallel size is 1.
        gated_linear_unit: The first linear of an MLP holds gate and up projection.
        num_query_groups: Number of key and value heads of the model.
        vocab_size: Rows of the vocabulary that stand for tokens.
        padded_vocab_size: Rows that the model has; the last ones may be padding.
        copied_modules: Paths of the modules whose parameters the last pipeline stage
            has too: the embedding, for tied logits or multi-token prediction.
        hidden_size: Features of a token between the layers; None if it is not known.
    """

    meshes: MegatronMeshes
    sequence_parallel: bool = False
    gated_linear_unit: bool = False
    num_query_groups: int = 1
    vocab_size: int = 1
    padded_vocab_size: int = 1
    copied_modules: frozenset[str] = frozenset()
    hidden_size: int | None = None

    def __post_init__(self):
        if not 0 < self.vocab_size <= self.padded_vocab_size:
            raise UsageError(
                "the vocabulary is larger than the model's embedding",
                where="vocab_size",
                expected=f"1..{self.padded_vocab_size}",
                got=self.vocab_size,
                remedy="give trace() the number of tokens before padding",
            )

    @property
    def holds_everything(self) -> bool:
        """Neither tp nor cp shards what a rank has: activations are whole."""
        return self.meshes.tp == 1 and self.meshes.cp == 1

    @property
    def num_kv_holders(self) -> int:
        """Tensor-parallel ranks that hold the same key and value heads.

        Neighbours: Megatron gives rank r the head ``r // num_kv_holders``.
        """
        return max(1, self.meshes.tp // self.num_query_groups)

    @property
    def vocabulary_dim(self) -> Dim:
        """A vocabulary dim that is sharded over ``tp``, padding told apart."""
        split = Split(axis="tp")
        if self.vocab_size != self.padded_vocab_size:
            share = self.padded_vocab_size // self.meshes.tp
            split = replace(split, modifier=Modifier.PADDED, numbers=(share,))
        return Dim(name="v", splits=(split,))
