"""The tree of modules that the tensors of a report are of, from their ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttrace.errors import TensorIdError
from ttrace.ir.tensor_id import ROOT_MODULE, parse_tensor_id


@dataclass(frozen=True, slots=True, kw_only=True)
class IdParts:
    """A tensor id, split so that its parts can be shared among many.

    The text is ``prefix + module + suffix``.

    Attributes:
        prefix: Step and micro-batch, e.g. ``step0/mb1/``; empty of a text that is no
            tensor id.
        module: Path of the module; the whole text, where it is no tensor id.
        suffix: Kind, slot and call, e.g. ``/output/0``; else empty.
        step: The step; None where the text is no tensor id.
    """

    prefix: str
    module: str
    suffix: str
    step: int | None


def split_id(text: str) -> IdParts:
    """Splits the text of a tensor id; any other text is taken as it is."""
    try:
        parsed = parse_tensor_id(text)
    except TensorIdError:
        return IdParts(prefix="", module=text, suffix="", step=None)
    prefix = f"step{parsed.step}/"
    if parsed.microbatch is not None:
        prefix += f"mb{parsed.microbatch}/"
    return IdParts(
        prefix=prefix,
        module=parsed.module,
        suffix=text[len(prefix) + len(parsed.module) :],
        step=parsed.step,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTree:
    """Nodes in an order in which a parent comes before its children.

    Attributes:
        labels: What each node adds to the path of its parent; several parts where
            nothing branches between. The first node is the model, with an empty one.
        paths: Path of each node.
        parents: Index of each node's parent; -1 of the first.
        node_of_module: By path of a module, its node.
    """

    labels: tuple[str, ...]
    paths: tuple[str, ...]
    parents: tuple[int, ...]
    node_of_module: dict[str, int]


def build_tree(modules: Iterable[str]) -> ModuleTree:
    """The tree of some module paths, in the order in which they are given.

    A node that has one child, and is no module itself, is one with its child.
    """
    root: dict[str, dict] = {}
    wanted = list(dict.fromkeys(modules))
    for module in wanted:
        here = root
        for part in _parts(module):
            here = here.setdefault(part, {})
    own = {tuple(_parts(module)) for module in wanted}
    labels, paths, parents = [""], [""], [-1]
    pending: list[tuple[tuple[str, ...], dict[str, dict], int]] = [((), root, 0)]
    node_of: dict[tuple[str, ...], int] = {(): 0}
    while pending:  # no recursion: a path may have thousands of parts
        path, children, parent = pending.pop()
        # Several nodes of one parent are numbered in order, and so before theirs.
        for part, grandchildren in children.items():
            child, below, joined = (*path, part), grandchildren, [part]
            while len(below) == 1 and child not in own:
                ((part, below),) = below.items()
                joined.append(part)
                child = (*child, part)
            node_of[child] = len(labels)
            pending.append((child, below, len(labels)))
            labels.append(".".join(joined))
            paths.append(".".join(child))
            parents.append(parent)
    return ModuleTree(
        labels=tuple(labels),
        paths=tuple(paths),
        parents=tuple(parents),
        node_of_module={module: node_of[tuple(_parts(module))] for module in wanted},
    )


def _parts(module: str) -> Sequence[str]:
    return () if module == ROOT_MODULE else module.split(".")
