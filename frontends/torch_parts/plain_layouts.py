"""Answers of a description that knows the layouts of plain tensors."""

import abc

import torch

from ttrace.frontends.torch_parts.local_tensor import Answer, NoLayout, PlainAnswer
from ttrace.frontends.torch_parts.names import NamedParameter
from ttrace.frontends.torch_parts.tensors import local_tensor
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout


class PlainLayouts(abc.ABC):
    """The part of a ``ModelDescription`` that says what a rank holds of a tensor.

    Tensors that wrap others (DTensor) say it themselves. Made to be subclassed: of
    plain tensors a subclass says the layouts.
    """

    @abc.abstractmethod
    def activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> PlainAnswer:
        """Layout of a plain tensor that a module takes or returns."""

    @abc.abstractmethod
    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        """Layout of a plain tensor of a parameter."""

    @abc.abstractmethod
    def buffer_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> PlainAnswer:
        """Layout of a plain buffer."""

    def activation(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        """See ``ModelDescription``."""
        return local_tensor(
            tensor,
            lambda shape: self.activation_layout(path, module, kind, slot, shape),
        )

    def parameter(
        self, named: NamedParameter, kind: Kind, tensor: torch.Tensor
    ) -> Answer:
        """See ``ModelDescription``."""
        return local_tensor(tensor, lambda _: self.parameter_layout(named, kind))

    def buffer(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        """See ``ModelDescription``."""
        return local_tensor(
            tensor, lambda shape: self.buffer_layout(path, module, kind, slot, shape)
        )
