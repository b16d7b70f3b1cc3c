"""What the entries of a checkpoint are: parameters, optimizer state, or neither.

An entry is known by its path: the keys that lead to it through nested dictionaries and
lists. A flat checkpoint, such as a safetensors file, has paths of one key.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.parameter_names import parameter_name

KeyPath = tuple[str, ...]

_PARAMETERS = (
    "params",
    "model",
    "module",
    "state_dict",
    "model_state",
    "model_state_dict",
)
_OPTIMIZER = (
    "opt_state",
    "optim",
    "optimizer",
    "optimizer_state",
    "optimizer_state_dict",
)
_REST = (
    "args",
    "batch_stats",
    "config",
    "ema_params",
    "epoch",
    "iteration",
    "lr_scheduler",
    "metrics",
    "rng",
    "rngs",
    "scheduler",
    "step",
)
"""What else a training state holds at its top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryName:
    """What an entry is.

    Attributes:
        kind: ``param`` or ``optimizer_state``; for an entry that is left out, what it
            is nearest to.
        module: Module path.
        slot: The parameter's own name, and behind it that of the optimizer's state.
        reason: Why the entry is left out; None for one that is taken.
    """

    kind: Kind
    module: str
    slot: str
    reason: str | None = None


def name_entries(paths: Collection[KeyPath]) -> Mapping[KeyPath, EntryName]:
    """Names all entries of a checkpoint.

    Where the checkpoint is a training state (a dictionary with ``params`` or ``model``
    beside ``opt_state``, ``step`` and the like), only what lies there counts as a
    parameter; else everything does. An optimizer's state is taken where its path says
    of which parameter it is: ``opt_state/0/mu/fc/kernel`` is ``kernel.mu`` of ``fc``,
    ``optim/state/fc.weight/exp_avg`` is ``weight.exp_avg``. What cannot be told is left
    out with a reason.
    """
    prefix = _parameter_prefix(paths)
    if prefix is None:
        names = {path: _parameter(path) for path in paths}
        return _without_repeated(names)
    outer = len(prefix) - 1
    names, owners = {}, {}
    for path in paths:
        if path[: len(prefix)] == prefix and len(path) > len(prefix):
            names[path] = _parameter(path[len(prefix) :])
            owners[_unboxed(path[len(prefix) :])] = names[path]
    for path in paths:
        if path not in names:
            inside = path[:outer] == prefix[:-1]
            is_state = inside and len(path) > outer and path[outer] in _OPTIMIZER
            names[path] = _state(path, outer + 1, owners) if is_state else _other(path)
    return _without_repeated({path: names[path] for path in paths})


def _parameter_prefix(paths: Collection[KeyPath]) -> KeyPath | None:
    """The keys before the parameters of a training state; None for a plain tree."""
    tops = dict.fromkeys(path[0] for path in paths if path)
    nested = {path[0] for path in paths if len(path) > 1}
    if "params" in nested:
        return ("params",)
    known = {*_PARAMETERS, *_OPTIMIZER, *_REST}
    found = [top for top in tops if top in _PARAMETERS and top in nested]
    if len(found) == 1 and known.issuperset(tops):
        return (found[0],)
    within = {path[0] for path in paths if len(path) > 2 and path[1] == "params"}
    if len(within) == 1:
        return (within.pop(), "params")
    return None


def _parameter(path: KeyPath) -> EntryName:
    module, slot = parameter_name(path)
    return EntryName(kind=Kind.PARAM, module=module, slot=slot)


def _unboxed(path: KeyPath) -> KeyPath:
    """The path without what only wraps the array."""
    return path[:-1] if len(path) > 1 and path[-1] == "value" else path


def _state(path: KeyPath, start: int, owners: Mapping[KeyPath, EntryName]) -> EntryName:
    rest = _unboxed(path[start:])
    if rest[:1] == ("state",) and rest[1:-1] in owners:  # torch: the parameter first
        return _state_of(owners[rest[1:-1]], rest[-1])
    for length in range(len(rest) - 1, 0, -1):  # optax: the parameter last
        state, owner = rest[-length - 1], owners.get(rest[-length:])
        if owner is not None and not state.isdigit():
            return _state_of(owner, state)
    return _left_out(
        Kind.OPTIMIZER_STATE, path, "its path does not end with that of a parameter"
    )


def _state_of(owner: EntryName, state: str) -> EntryName:
    _, name = parameter_name((state,))
    return EntryName(
        kind=Kind.OPTIMIZER_STATE, module=owner.module, slot=f"{owner.slot}.{name}"
    )


def _other(path: KeyPath) -> EntryName:
    return _left_out(Kind.PARAM, path, "not among the parameters of the model")


def _left_out(kind: Kind, path: KeyPath, why: str) -> EntryName:
    module, slot = parameter_name(path)
    reason = f"{'/'.join(path)} of the checkpoint: {why}"
    return EntryName(kind=kind, module=module, slot=slot, reason=reason)


def _without_repeated(
    names: Mapping[KeyPath, EntryName],
) -> Mapping[KeyPath, EntryName]:
    """Leaves out entries that would have the same name as another one."""
    uses = collections.Counter(
        (name.kind, name.module, name.slot)
        for name in names.values()
        if name.reason is None
    )
    return {
        path: name
        if name.reason is not None or uses[name.kind, name.module, name.slot] == 1
        else _left_out(
            name.kind, path, f"another entry is {name.slot} of {name.module}, too"
        )
        for path, name in names.items()
    }


def natural_order(path: Sequence[str]) -> list[tuple[int, int, str]]:
    """Sorts ``layers.2`` before ``layers.10``."""
    words = ".".join(path).split(".")
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in words]
