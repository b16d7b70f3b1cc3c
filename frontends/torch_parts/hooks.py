"""All hooks of a session, on modules and parameters: put on and taken off together."""

import collections
from collections.abc import Sequence

import torch

from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.compiled import INSIDE, compiled_away, has_compiled
from ttrace.frontends.torch_parts.description import HidesParameters, ModelDescription
from ttrace.frontends.torch_parts.fully_sharded import hidden_by_fully_shard
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.modules import ModuleTap
from ttrace.frontends.torch_parts.parameters import ParameterGradients
from ttrace.frontends.torch_parts.side_passes import ONLY_ASIDE
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.kinds import ACTIVATIONS, PER_MICROBATCH, Kind
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.recording.said_warnings import warn

_COMPILED_LATE = (
    "it was compiled in this step, after the trace had begun; compile it before"
)

_NEVER_RAN = (
    "no forward of the model that trace() was given was seen in this step, and "
    "torch.compile has compiled something in this process; if that is the model, give "
    "trace() what torch.compile() returned"
)


class ModelHooks:
    """The hooks on a model.

    Args:
        description: Names of modules and parameters.
        capture: Shared by the hooks; its noise is set already.
        roots: Modules whose forward is a micro-batch; where None, the one that the
            description names ``@root``.
        root_method: Name of the method that runs these, where it is not their forward.
        records: Whether this rank records anything at all.
    """

    def __init__(
        self,
        description: ModelDescription,
        capture: Capture,
        *,
        roots: Sequence[torch.nn.Module] | None,
        root_method: str | None,
        records: bool,
    ):
        self._taps = _module_taps(description, capture, roots, root_method, records)
        self._description = description
        self._has_warned = False
        self._is_recorded = False
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
        self._is_recorded = is_recorded
        if self._capture.open_calls is not None:
            self._capture.open_calls.clear()
        if self._capture.operations is not None:
            self._capture.operations.begin_step()
        self._capture.given.clear()
        # A module may be compiled after the trace has begun.
        inside = self._compiled_away()
        for tap in self._taps:
            is_inside = id(tap.module) in inside
            if (is_recorded or self._capture.noise is not None) and not is_inside:
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
        for id_ in self._capture.side_passes.take_left():
            self._capture.skip(id_, ONLY_ASIDE)
        if self._gradients is not None:
            self._gradients.end_step()

    def detach(self) -> None:
        """Takes all hooks off."""
        for tap in self._taps:
            tap.detach()
        if self._gradients is not None:
            self._gradients.detach()

    def skip_what_is_compiled(self) -> None:
        """Skips what modules in compiled regions did in the step that ends."""
        if not self._is_recorded:  # no hook was on: nothing is known of the step
            return
        inside = self._compiled_away()
        observed = [tap for tap in self._taps if id(tap.module) not in inside]
        for tap in self._taps:
            if id(tap.module) in inside:
                tap.skip_tensors(INSIDE)
        for tap in observed:
            if tap.was_compiled_under_way:
                tap.skip_tensors(_COMPILED_LATE)
        if self._capture.calls.has_run or not has_compiled():
            return
        for tap in observed:
            if not tap.was_compiled_under_way:
                tap.skip_tensors(_NEVER_RAN)
        if self._capture.recorder is not None and not self._has_warned:
            self._has_warned = True
            warn(f"{_NEVER_RAN}.")

    def _compiled_away(self) -> set[int]:
        return self._found_compiled_away() or set()

    @guarded("find compiled regions")
    def _found_compiled_away(self) -> set[int]:
        return compiled_away(module for _, module in self._description.modules())


def _module_taps(
    description: ModelDescription,
    capture: Capture,
    roots: Sequence[torch.nn.Module] | None,
    root_method: str | None,
    records: bool,
) -> list[ModuleTap]:
    wants_kind = capture.filter.wants_kind
    kinds = frozenset(filter(wants_kind, ACTIVATIONS))
    follows_calls = capture.open_calls is not None or capture.operations is not None
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
        is_needed = has_noise or follows_calls or (is_root and counts)
        if is_needed or (wanted and kinds):
            taps.append(
                ModuleTap(
                    clean_name(path),
                    module,
                    capture,
                    kinds=kinds if wanted else frozenset(),
                    is_root=is_root,
                    chunk=chunk,
                    num_earlier=description.num_earlier_calls(path, module),
                    method=root_method if is_root else None,
                )
            )
    return taps
