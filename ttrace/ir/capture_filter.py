"""Which tensors a run records: patterns and index ranges, as values and as text."""

import difflib
import fnmatch
import re
from dataclasses import dataclass

from ttrace.errors import UsageError
from ttrace.ir.kinds import COMES_WITH, RECORDED_BY_DEFAULT, Kind
from ttrace.ir.tensor_id import TensorId

_DEFAULT = "default"
"""Stands for all kinds that are recorded where none is named."""

_MAX_INDEX = 10_000_000
"""Ranges are held as sets: a slip of the finger must not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureFilter:
    """Selects tensors by module, kind, step, micro-batch and rank.

    Attributes:
        modules: Shell patterns over the module path; one must match.
        kinds: Kinds to record, or None for all that are recorded by default.
        steps: Steps to record, or None for all.
        microbatches: Global micro-batches to record, or None for all. Tensors of the
            whole step have none and are not filtered by it.
        ranks: Ranks that record, or None for all.
        collectives: Modules whose collectives, and those of modules inside of them, are
            recorded whatever modules and kinds say.
        operations: Modules whose operations are recorded likewise; those of modules
            inside of them are not.
    """

    modules: tuple[str, ...] = ("*",)
    kinds: frozenset[Kind] | None = None
    steps: frozenset[int] | None = None
    microbatches: frozenset[int] | None = None
    ranks: frozenset[int] | None = None
    collectives: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()

    def wants(self, tensor_id: TensorId) -> bool:
        """Whether a tensor is to be recorded (on the ranks that record)."""
        kind, module = tensor_id.kind, tensor_id.module
        is_wanted = (
            (kind is Kind.COLLECTIVE and self._names_collectives_of(module))
            or (kind is Kind.OP and module in self.operations)
            or (kind in self._kinds and self.wants_module(module))
        )
        return (
            is_wanted
            and self.wants_step(tensor_id.step)
            and (
                self.microbatches is None
                or tensor_id.microbatch is None
                or tensor_id.microbatch in self.microbatches
            )
        )

    def wants_kind(self, kind: Kind) -> bool:
        """Whether tensors of a kind are recorded at all."""
        if kind is Kind.COLLECTIVE and self.collectives:
            return True
        if kind is Kind.OP and self.operations:
            return True
        return kind in self._kinds

    def wants_operations_of(self, module: str) -> bool:
        """Whether the operations that run in a module itself are recorded."""
        if module in self.operations:
            return True
        return Kind.OP in self._kinds and self.wants_module(module)

    def wants_step(self, step: int) -> bool:
        """Whether anything is recorded in a step."""
        return self.steps is None or step in self.steps

    def wants_module(self, module: str) -> bool:
        """Whether tensors of a module are recorded at all."""
        return any(fnmatch.fnmatchcase(module, pattern) for pattern in self.modules)

    def wants_collectives_of(self, module: str | None) -> bool:
        """Whether all collectives of a module are recorded, and those inside of it.

        Args:
            module: Its path; None for all of the run.
        """
        if self.microbatches is not None:
            return False
        if Kind.COLLECTIVE in self._kinds and self.modules == ("*",):
            return True
        return module is not None and self._names_collectives_of(module)

    @property
    def _kinds(self) -> frozenset[Kind]:
        if self.kinds is None:
            return RECORDED_BY_DEFAULT
        return self.kinds.union(
            k for k, other in COMES_WITH.items() if other in self.kinds
        )

    def _names_collectives_of(self, module: str) -> bool:
        return any(
            module == named or module.startswith(f"{named}.")
            for named in self.collectives
        )

    def recorded_ranks(self, world_size: int) -> tuple[int, ...]:
        """The ranks of a run that record.

        Raises:
            UsageError: None of them would.
        """
        ranks = tuple(
            r for r in range(world_size) if self.ranks is None or r in self.ranks
        )
        if not ranks:
            raise UsageError(
                "no rank of this run is to be recorded",
                expected=f"ranks of 0..{world_size - 1}",
                got=format_indices(self.ranks),
                remedy="correct --ranks (ranks=)",
            )
        return ranks

    def to_json(self) -> dict[str, str]:
        """The filter as options and their text; those that select all are left out."""
        options = {
            "modules": None if self.modules == ("*",) else ",".join(self.modules),
            "kinds": None if self.kinds is None else ",".join(sorted(self.kinds)),
            "steps": format_indices(self.steps),
            "microbatches": format_indices(self.microbatches),
            "ranks": format_indices(self.ranks),
            "collectives": ",".join(self.collectives) or None,
            "operations": ",".join(self.operations) or None,
        }
        return {name: text for name, text in options.items() if text is not None}

    @classmethod
    def from_json(cls, options: dict[str, str]) -> "CaptureFilter":
        """Reads what ``to_json`` wrote, or what the command line was given.

        Raises:
            UsageError: A kind is unknown or a range malformed.
        """
        return cls(
            modules=tuple(options.get("modules", "*").split(",")),
            kinds=parse_kinds(options["kinds"]) if "kinds" in options else None,
            **{
                name: parse_indices(options[name], option=name)
                for name in ("steps", "microbatches", "ranks")
                if name in options
            },
            collectives=_names(options.get("collectives", "")),
            operations=_names(options.get("operations", "")),
        )


def _names(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(filter(None, text.split(",")))


def parse_kinds(text: str) -> frozenset[Kind]:
    """Reads ``main_grad,param``; ``default`` are those that are recorded by default.

    Raises:
        UsageError: A name is not a kind.
    """
    known = {kind.value for kind in Kind}
    names = text.split(",")
    kinds = RECORDED_BY_DEFAULT if _DEFAULT in names else frozenset()
    names = [name for name in names if name != _DEFAULT]
    unknown = [name for name in names if name not in known]
    if unknown:
        close = [
            match
            for name in unknown
            for match in difflib.get_close_matches(name, sorted(known), n=1)
        ]
        meant = f"did you mean {', '.join(map(repr, close))}? " if close else ""
        raise UsageError(
            "unknown kind of tensor",
            where="--kinds (kinds=)",
            expected=", ".join(kind.value for kind in Kind),
            got=", ".join(map(repr, unknown)),
            remedy=f"{meant}name kinds out of this list, separated by commas",
        )
    return kinds.union(map(Kind, names))


def parse_indices(text: str, *, option: str) -> frozenset[int]:
    """Reads ``0,2-4`` (ends included).

    Raises:
        UsageError: The text is not of that form, or a number beyond any real run.
    """
    indices: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(
                "not a list of numbers",
                where=f"--{option} ({option}=)",
                expected="numbers and ranges, e.g. 0,2-4",
                got=repr(text),
                remedy="separate them by commas, without blanks",
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last > _MAX_INDEX:
            raise UsageError(
                "a number in a list of numbers is too large",
                where=f"--{option} ({option}=)",
                expected=f"at most {_MAX_INDEX}",
                got=last,
                remedy="correct it, or leave the option out to record all",
            )
        indices.update(range(first, last + 1))
    return frozenset(indices)


def format_indices(indices: frozenset[int] | None) -> str | None:
    """Writes indices as ``parse_indices`` reads them; None for None."""
    if indices is None:
        return None
    return ",".join(map(str, sorted(indices)))
