"""All hooks of a session, on modules and parameters: put on and taken off together."""

import collections
from collections.abc import Sequence

import torch

from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.description import HidesParameters, ModelDescription
from ttrace.frontends.torch_parts.fully_sharded import hidden_by_fully_shard
from ttrace.frontends.torch_parts.modules import ModuleTap
from ttrace.frontends.torch_parts.parameters import ParameterGradients
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.kinds import ACTIVATIONS, PER_MICROBATCH
from ttrace.ir.tensor_id import ROOT_MODULE, Kind


class ModelHooks:
    """The hooks on a model.

    Args:
        description: Names of modules and parameters.
        capture: Shared by the hooks; its noise is set already.
        roots: Modules whose forward is a micro-batch; where None, the one that the
            description names ``@root``.
        records: Whether this rank records anything at all.
    """

    def __init__(
        self,
        description: ModelDescription,
        capture: Capture,
        *,
        roots: Sequence[torch.nn.Module] | None,
        records: bool,
    ):
        self._taps = _module_taps(description, capture, roots, records)
        self._gradients: ParameterGradients | None = None
        if records and capture.filter.wants_kind(Kind.PARAM_GRAD):
            parameters = [
                named
                for named in description.parameters()
                if capture.filter.wants_module(named.module)
            ]
            hidden = hidden_by_fully_shard(description.modules(), parameters)
            if isinstance(description, HidesParameters):
                hidden += description.hidden_parameters(parameters)
            self._gradients = ParameterGradients(parameters, capture, hidden=hidden)
        self._capture = capture

    def begin_step(self, *, is_recorded: bool) -> None:
        """Puts on the hooks that the step needs, and takes the others off."""
        for tap in self._taps:
            if is_recorded or self._capture.noise is not None:
                tap.attach()
                tap.forget_open_calls()
            else:
                tap.detach()
        if self._gradients is not None:
            if is_recorded:
                self._gradients.attach()
            else:
                self._gradients.detach()

    def flush_gradients(self) -> None:
        """Records the gradients of parameters that hooks have collected."""
        if self._gradients is not None:
            self._gradients.flush()

    def end_step(self) -> None:
        """Records what hooks have collected, and skips what they could not see."""
        if self._gradients is not None:
            self._gradients.end_step()

    def detach(self) -> None:
        """Takes all hooks off."""
        for tap in self._taps:
            tap.detach()
        if self._gradients is not None:
            self._gradients.detach()


def _module_taps(
    description: ModelDescription,
    capture: Capture,
    roots: Sequence[torch.nn.Module] | None,
    records: bool,
) -> list[ModuleTap]:
    wants_kind = capture.filter.wants_kind
    kinds = frozenset(filter(wants_kind, ACTIVATIONS))
    counts = records and any(map(wants_kind, PER_MICROBATCH))
    root_ids = None if roots is None else set(map(id, roots))
    chunks: collections.Counter[str] = collections.Counter()
    taps = []
    for path, module in description.modules():
        chunk = chunks[path]
        chunks[path] += 1
        is_root = path == ROOT_MODULE if root_ids is None else id(module) in root_ids
        wanted = records and capture.filter.wants_module(path)
        has_noise = capture.noise is not None
        if has_noise or (wanted and kinds) or (is_root and counts):
            taps.append(
                ModuleTap(
                    clean_name(path),
                    module,
                    capture,
                    kinds=kinds if wanted else frozenset(),
                    is_root=is_root,
                    chunk=chunk,
                    num_earlier=description.num_earlier_calls(path, module),
                )
            )
    return taps
