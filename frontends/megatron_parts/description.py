"""What capture must know of a Megatron model: names, layouts, scales, meshes."""

import functools
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from absl import logging
from megatron.core.utils import get_model_config

from ttrace.frontends.megatron_parts.buffers import buffer_layout
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.experts import ExpertRows
from ttrace.frontends.megatron_parts.loss import LossTensor, loss_tensors
from ttrace.frontends.megatron_parts.matching import is_a
from ttrace.frontends.megatron_parts.meshes import (
    meshes_of_this_rank,
    require_supported_version,
)
from ttrace.frontends.megatron_parts.model_settings import (
    settings_of_model,
    settings_of_modules,
)
from ttrace.frontends.megatron_parts.names import (
    OwnedParameter,
    canonical_parameters,
    unwrap,
)
from ttrace.frontends.megatron_parts.rule_table import RULES
from ttrace.frontends.megatron_parts.rules import (
    HIDDEN,
    SEQUENCE,
    Rule,
    Subject,
    activation_layout,
    rule_layout,
)
from ttrace.frontends.megatron_parts.sharding import (
    parameter_layout,
    parameter_subject,
    unmarked_parameters,
)
from ttrace.frontends.megatron_parts.stages import (
    PlacedModule,
    copied_modules,
    placed_modules,
    require_distinct,
    stages_of,
)
from ttrace.frontends.torch_parts.description import (
    NamedParameter,
    NoLayout,
    RecordedElsewhere,
)
from ttrace.frontends.torch_parts.local_tensor import PlainAnswer
from ttrace.frontends.torch_parts.plain_layouts import PlainLayouts
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.recording.faults import reason_of

_BACKWARD_KINDS = frozenset({Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})

_TOKEN_SLOTS = frozenset({"0", "1", "4", "input_ids", "position_ids", "labels"})
"""Arguments of the model of shape ``[batch, sequence]``."""


class MegatronDescription(PlainLayouts):
    """A ``ModelDescription`` of Megatron's model chunks on one rank.

    Args:
        model_chunks: The chunks of this rank, wrapped or not, or a single one.
        optimizer: Megatron's optimizer, asked for its loss scale; None if there is
            none yet.
        rules: Layout rules that are asked before Megatron's own.
        vocab_size: Number of tokens before the vocabulary was padded; None if it was
            not.

    Raises:
        UsageError: The version, the parallel layout or the model is not supported.
    """

    framework = "megatron"

    def __init__(
        self,
        model_chunks: torch.nn.Module | Sequence[torch.nn.Module],
        *,
        optimizer: Any = None,
        rules: Sequence[Rule] = (),
        vocab_size: int | None = None,
    ):
        require_supported_version()
        chunks = (
            [model_chunks]
            if isinstance(model_chunks, torch.nn.Module)
            else list(model_chunks)
        )
        meshes = meshes_of_this_rank()
        models = list(map(unwrap, chunks))
        stages = stages_of(models, meshes.dense)
        self._config = get_model_config(models[0])
        self._optimizer = optimizer
        self._rules = tuple(rules)
        padded_vocab_size = int(getattr(models[0], "vocab_size", vocab_size or 1))
        self._context = ShardingContext(
            meshes=meshes,
            sequence_parallel=self._config.sequence_parallel and meshes.tp > 1,
            gated_linear_unit=self._config.gated_linear_unit,
            num_query_groups=self._config.num_query_groups or 1,
            vocab_size=padded_vocab_size if vocab_size is None else vocab_size,
            padded_vocab_size=padded_vocab_size,
            copied_modules=copied_modules(models[0], self._config),
            hidden_size=getattr(self._config, "hidden_size", None),
        )
        self._sequence_lengths: set[int] = set()
        ep_rank = meshes.expert.coords["ep"]
        self._modules: dict[torch.nn.Module, PlacedModule] = {
            placed.canonical.module: placed
            for placed in placed_modules(models, stages, ep_rank=ep_rank)
        }
        parameters = [
            owned
            for model in models
            for owned in canonical_parameters(model, ep_rank=ep_rank)
        ]
        require_distinct(parameters)
        self._unused = [owned.named for owned in parameters if owned.is_unused]
        self._parameters: dict[torch.nn.Parameter, OwnedParameter] = {
            owned.named.parameter: owned for owned in parameters if not owned.is_unused
        }
        # Asked for every captured tensor, and the same in every micro-batch and step.
        self._activation_layout = functools.cache(self._find_activation_layout)
        self._parameter_layout = functools.cache(self._find_parameter_layout)
        self._warn_of_unmarked()

    def modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        for module, placed in self._modules.items():
            yield placed.canonical.path, module

    def num_earlier_calls(self, path: str, module: torch.nn.Module) -> int:
        return self._modules[module].stage.num_earlier_calls(path)

    def parameters(self) -> Iterator[NamedParameter]:
        for owned in self._parameters.values():
            yield owned.named

    def activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
        if path == ROOT_MODULE and is_a(module, "GPTModel"):
            self._note_sequence_length(slot, tuple(local_shape))
        try:
            return self._activation_layout(
                path, module, kind, slot, tuple(local_shape), self._sequence_length()
            )
        except Exception as error:  # whatever it is, the run is not to end here
            return _not_described(f"{kind} {slot} of {type(module).__name__}", error)

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        try:
            return self._parameter_layout(named.parameter, kind)
        except Exception as error:  # whatever it is, the run is not to end here
            return _not_described(f"{kind} {named.module}.{named.slot}", error)

    def scale(self, kind: Kind) -> float:
        # The loss of a micro-batch is divided by the number of micro-batches of *this
        # rank*, and the gradients of the ranks are averaged only afterwards. With a
        # loss per token nothing is divided before the very end.
        scale = 1.0
        if kind in _BACKWARD_KINDS:
            scale *= self._loss_scale()
            if not self._config.calculate_per_token_loss:
                scale *= self._context.meshes.dp * self._context.meshes.cp
        elif kind is Kind.MAIN_GRAD:
            # Recorded when the optimizer takes it, before it removes its loss scale.
            scale *= self._loss_scale()
        return scale

    def global_microbatch(self, local: int) -> int:
        dense = self._context.meshes.dense
        return local * dense.sizes["dp"] + dense.coords["dp"]

    def foreign_microbatches(self, num_local: int) -> list[int]:
        """Global indices of the micro-batches of a step that other ranks have.

        Args:
            num_local: Number of micro-batches of this rank.
        """
        own = {self.global_microbatch(local) for local in range(num_local)}
        num_all = num_local * self._context.meshes.dp
        return [index for index in range(num_all) if index not in own]

    def expert_rows(self) -> list[ExpertRows]:
        """The routed experts of this rank, layer by layer."""
        layers = []
        for module, placed in self._modules.items():
            if is_a(module, "BaseMoELayer"):
                path = f"{placed.canonical.path}.experts"
                try:
                    rows = ExpertRows(path, module, self._config, self._context)
                except Exception as error:  # then they are skipped as unordered
                    logging.warning("%s", _not_described(path, error).reason)
                else:
                    layers.append(rows)
        return layers

    def unused_parameters(self) -> list[NamedParameter]:
        """Parameters of this rank that no computation reads."""
        return self._unused

    def losses(self, outputs: tuple[Any, ...]) -> list[LossTensor]:
        """What the outputs of Megatron's loss function say about the loss."""
        return loss_tensors(
            outputs,
            self._context.meshes.dense,
            is_per_token=self._config.calculate_per_token_loss,
        )

    def mixed_gradients(self) -> list[tuple[NamedParameter, str]]:
        """Expert parameters whose gradients mix micro-batches, each with the reason."""
        layouts = (
            (owned.named, self.parameter_layout(owned.named, Kind.PARAM_GRAD))
            for owned in self._parameters.values()
            if owned.owner.in_experts
        )
        return [
            (named, layout.reason)
            for named, layout in layouts
            if isinstance(layout, NoLayout)
        ]

    def meshes(self) -> tuple[Mesh, ...]:
        return (self._context.meshes.dense, self._context.meshes.expert)

    @property
    def holds_whole_model(self) -> bool:
        return False

    def buffer_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> PlainAnswer:
        return buffer_layout(module, slot, local_shape, self._context.meshes.dense)

    def versions(self) -> Mapping[str, str]:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        for package in ("megatron-core", "transformer-engine"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return versions

    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        meshes = self._context.meshes
        sizes = {
            f"{axis}_size": size
            for axis, size in {**meshes.dense.sizes, **meshes.expert.sizes}.items()
        }
        return {
            **settings_of_model(self._config),
            **settings_of_modules(self.modules(), self._config),
            **sizes,
            "vocab_size": self._context.vocab_size,
            "padded_vocab_size": self._context.padded_vocab_size,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        }

    def _find_activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
        sequence_length: int | None,
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
        placed = self._modules.get(module)
        if placed is not None and not placed.is_recorded(kind, slot):
            return RecordedElsewhere()
        if placed is not None and placed.canonical.in_experts:
            return NoLayout(
                reason="tokens inside experts are in an order that depends on the "
                "routing of each call"
            )
        subject = Subject(
            path=path,
            module=module,
            parent=None if placed is None else placed.canonical.parent,
            kind=kind,
            slot=slot,
            local_shape=local_shape,
        )
        lengths = {SEQUENCE: sequence_length, HIDDEN: self._context.hidden_size}
        known = {name: length for name, length in lengths.items() if length}
        return self._by_rule_of_user(subject) or activation_layout(
            RULES, subject, self._context, known
        )

    def _by_rule_of_user(self, subject: Subject) -> ShardLayout | NoLayout | None:
        try:
            return rule_layout(self._rules, subject, self._context)
        except Exception as error:  # a condition of theirs
            return NoLayout(
                reason="a rule that was given to trace() failed on "
                f"{subject.described}: {type(error).__name__}: {error}; correct it"
            )

    def _find_parameter_layout(
        self, parameter: torch.nn.Parameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        if kind is Kind.PARAM_GRAD and self._config.gradient_accumulation_fusion:
            return NoLayout(
                reason="gradient_accumulation_fusion adds a micro-batch's gradient to "
                "main_grad inside a kernel"
            )
        owned = self._parameters[parameter]
        by_user = None
        if not owned.owner.in_experts:
            by_user = self._by_rule_of_user(parameter_subject(owned, kind))
        return by_user or parameter_layout(owned, kind, self._context)

    def _note_sequence_length(self, slot: str, local_shape: tuple[int, ...]) -> None:
        # The arguments of the model are the first that a micro-batch shows.
        if slot in _TOKEN_SLOTS and len(local_shape) == 2:
            self._sequence_lengths.add(local_shape[1] * self._context.meshes.cp)

    def _sequence_length(self) -> int | None:
        # A gradient may be of an earlier micro-batch: lengths that vary say nothing.
        (length, *others) = self._sequence_lengths or (None,)
        return None if others else length

    def _warn_of_unmarked(self) -> None:
        unmarked = unmarked_parameters(self._parameters.values(), self._context)
        if unmarked:
            first = unmarked[0].named
            logging.warning(
                "ttrace: %d tensor-parallel parameters (the first is %s.%s) lack the "
                "attributes tensor_model_parallel and partition_dim, which Megatron "
                "sets where it initializes parameters; that they are sharded is taken "
                "from their classes. Megatron itself then counts them wrongly in the "
                "norm of the gradients: build the model with "
                "perform_initialization=True, or set the attributes.",
                len(unmarked),
                first.module,
                first.slot,
            )

    def _loss_scale(self) -> float:
        # 1, but for float16 and where the script asks for another one.
        if self._optimizer is None:
            return 1.0
        return float(self._optimizer.get_loss_scale())


def _not_described(what: str, error: Exception) -> NoLayout:
    return NoLayout(
        reason=f"{reason_of(error, f'describe {what}')}; this is a mistake of ttrace, "
        "not of the run. A rule of your own avoids it: megatron_adapter.trace(..., "
        "rules=[Rule(...)])"
    )
