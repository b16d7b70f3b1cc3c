"""What the zoo knows of one bug: a plain value; the mistake itself is in its file."""

import fnmatch
import re
from dataclasses import dataclass
from enum import StrEnum

from ttrace.ir.kinds import Kind

MEGATRON_SCRIPT = "ttrace.examples.megatron_gpt.train"
"""Module of the script that a bug runs in if it names no other."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Precision(StrEnum):
    """The arithmetic that a bug needs to be seen in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    """Linears that quantize what they multiply; the rest in BF16."""

    @property
    def options(self) -> tuple[str, ...]:
        """The script's options for it."""
        return {
            Precision.FP32: (),
            Precision.BF16: ("--bf16",),
            Precision.FP16: ("--fp16",),
            Precision.FP8: ("--bf16",),
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Tensors among which a bug may be seen first.

    Attributes:
        module: Shell pattern of the module path, e.g. ``decoder.layers.*.mlp``.
        kinds: What the tensor may be.
    """

    module: str
    kinds: frozenset[Kind]

    def __post_init__(self):
        if not self.module or not self.kinds:
            raise ValueError(f"a place without modules or kinds: {self}")

    def holds(self, module: str, kind: str) -> bool:
        """Says whether a tensor is one of these."""
        return kind in self.kinds and fnmatch.fnmatchcase(module, self.module)


def place(module: str, *kinds: Kind) -> Place:
    """Writes a place in one line."""
    return Place(module=module, kinds=frozenset(kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One bug that was reported somewhere, as the zoo runs it.

    Three runs belong to it. The reference: ``reference_script`` on one process with
    ``model``, the precision, the number of steps and ``reference_layout``. The clean
    twin: ``script`` with the first three and ``clean_layout`` on ``world_size``
    processes. The bug: the same with ``layout``, and ``--patch`` with the bug's own
    file if it defines functions of a patch.

    Attributes:
        name: That of the file it is described in.
        title: What is wrong, in one line.
        source: Where it was reported: project and number of the issue or pull request.
        breaks: Which tensors it makes wrong, in words.
        model: Options of all three runs.
        layout: Options of the buggy run.
        clean_layout: Options of the clean twin if they are others: a bug that is live
            in a release needs no patch, but another layout.
        reference_layout: Options that only the reference gets.
        world_size: Processes of the buggy run and its twin; one where a process has
            several devices.
        precision: Arithmetic of all three runs.
        num_steps: Training steps; some bugs need a second one.
        first_seen: Where the first divergence must lie.
        diagnosis: Code that must be among the diagnoses, or None if none says it.
        common_patch: Module whose functions patch all three runs, e.g. one that makes
            a feature that the bug is a mistake in.
        script: Module whose ``main(argv)`` trains.
        reference_script: That of the reference if it is another one.
        map_name: Map file of ``examples/jax_port/maps``, without its ending, if the two
            scripts call their tensors by other names.
        is_setup: Whether it gives the run other data: not a wrong computation, so that
            ttrace ends with a set-up difference and exit code 2.
        paper_row: Row in the table of the paper (arXiv:2506.09280), if it is there.
        not_found: Why ttrace does not find it; None for a bug that must be found.
        expected_code: Code of the diagnosis that an engineer would name first, stated
            before the bug is run; None where there is no code for it, or nobody has
            stated one.
    """

    name: str
    title: str
    source: str
    breaks: str
    model: tuple[str, ...]
    layout: tuple[str, ...]
    first_seen: tuple[Place, ...]
    clean_layout: tuple[str, ...] | None = None
    reference_layout: tuple[str, ...] = ()
    world_size: int = 2
    precision: Precision = Precision.FP32
    num_steps: int = 1
    diagnosis: str | None = None
    common_patch: str | None = None
    script: str = MEGATRON_SCRIPT
    reference_script: str | None = None
    map_name: str | None = None
    is_setup: bool = False
    paper_row: int | None = None
    not_found: str | None = None
    expected_code: str | None = None

    def __post_init__(self):
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"the name of a bug is that of a file, not {self.name!r}")
        for field in ("title", "source", "breaks", "first_seen"):
            if not getattr(self, field):
                raise ValueError(f"bug {self.name} has no {field}")
        if "\n" in self.title or self.title.endswith("."):
            raise ValueError(f"the title of bug {self.name} is not one phrase")
        if self.world_size < 1 or self.num_steps < 1:
            raise ValueError(f"bug {self.name} needs a process and a step")

    @property
    def common_options(self) -> tuple[str, ...]:
        """What the scripts of all three runs are given."""
        steps = ("--train-iters", str(self.num_steps))
        return (*self.model, *self.precision.options, *steps)

    @property
    def twin_layout(self) -> tuple[str, ...]:
        """Options that the clean twin gets besides."""
        return self.layout if self.clean_layout is None else self.clean_layout

    def is_seen_at(self, module: str, kind: str) -> bool:
        """Says whether a first divergence there is in the right place."""
        return any(place.holds(module, kind) for place in self.first_seen)
