"""Two open traces brought to the same names, layouts and micro-batches, and planned.

All that a comparison decides before it reads the tensors themselves: what is set
against what. ``comparison`` carries it out, ``isolation`` takes the reference's values
from it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ttrace.compare.align import Alignment, align
from ttrace.compare.calls.joined_calls import JoinedCalls, join_calls
from ttrace.compare.layouts.deduced_layouts import Deduced, deduce_layouts
from ttrace.compare.layouts.own_buffers import agreeing_buffers
from ttrace.compare.parameter_groups import rates_by_parameter
from ttrace.compare.plan import ComparePlan, plan_comparison
from ttrace.compare.samples.regroup import Regrouped, regroup
from ttrace.compare.tied import Untied, untie
from ttrace.compare.written import written_in_both
from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter, format_indices
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.mapping.apply import apply_map
from ttrace.mapping.one_sided import with_reasons
from ttrace.mapping.rules import MapFile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinedUp:
    """Two runs as they are compared.

    Attributes:
        reference: The reference, as it is compared.
        candidate: The candidate, likewise.
        named: The candidate under the reference's names, and else as it was recorded.
        alignment: What became of every tensor of either.
        untied: Which parameters one run ties and the other copies.
        known: Layouts that were deduced.
        regrouped: How samples were matched.
        joined: How calls were matched.
        unverified: What a map brings together that somebody should read.
        set_aside: Why tensors are not compared.
        one_sided: Why a map says that only one run has them.
        only: What is compared.
        copies: What is shown of the reference under another id, too: the id that it
            was recorded under, whose noise it has.
    """

    reference: TraceSource
    candidate: TraceSource
    named: TraceSource
    alignment: Alignment
    untied: Untied
    known: Deduced
    regrouped: Regrouped
    joined: JoinedCalls
    unverified: Collection[TensorId] = field(default_factory=frozenset)
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    one_sided: Mapping[TensorId, str] = field(default_factory=dict)
    only: CaptureFilter = field(default_factory=CaptureFilter)
    copies: Mapping[TensorId, TensorId] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """How the runs were brought together, in sentences; empty where they were."""
        notes = (self.untied.note, self.regrouped.note, self.joined.note)
        return " ".join(filter(None, notes))

    def aligned(
        self, candidate: TraceSource, more_aside: Mapping[TensorId, str]
    ) -> Alignment:
        """What becomes of every tensor, with the candidate shown once more otherwise.

        Args:
            candidate: The candidate, so shown.
            more_aside: Why further tensors are not compared.

        Raises:
            UsageError: ``only`` leaves no tensor.
        """
        found = align(
            self.reference.info,
            candidate.info,
            set_aside={**self.set_aside, **more_aside},
            given_otherwise=self.regrouped.given_otherwise,
        )
        return _restricted(with_reasons(found, self.one_sided), self.only)

    def plan(self) -> ComparePlan:
        """What is set against what; indices of rows are not read yet."""
        return plan_comparison(
            self.alignment.matches, self.reference.info, self.candidate.info
        )


def line_up(
    reference: TraceSource,
    candidate: TraceSource,
    *,
    map_file: MapFile | None = None,
    only: CaptureFilter | None = None,
) -> LinedUp:
    """Finds what of two runs is the same.

    Reads what the models were given, and initial parameters that only one run has.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        only: What is compared of the tensors, under the reference's names; None for
            all.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
        MapError: The map does not fit the traces.
        UsageError: ``only`` leaves no tensor.
    """
    one_sided: Mapping[TensorId, str] = {}
    unverified: Collection[TensorId] = ()
    if map_file is not None:
        mapped = apply_map(map_file, reference, candidate)
        reference, candidate = mapped.reference, mapped.candidate
        one_sided, unverified = mapped.one_sided, mapped.unverified
    named = candidate
    rates = rates_by_parameter(reference, candidate, is_mapped=map_file is not None)
    candidate = rates.candidate
    reference, aside = agreeing_buffers(reference, Side.REFERENCE)
    candidate, aside_too = agreeing_buffers(candidate, Side.CANDIDATE)
    written = written_in_both(reference, candidate)
    untied = untie(written.reference, written.candidate)
    known = deduce_layouts(untied.reference, untied.candidate)
    regrouped = regroup(known.reference, known.candidate)
    joined = join_calls(regrouped.reference, regrouped.candidate)
    lined = LinedUp(
        reference=regrouped.reference,
        candidate=joined.candidate,
        named=named,
        alignment=Alignment(entries=()),
        untied=untied,
        known=known,
        regrouped=regrouped,
        joined=joined,
        copies={**written.copies, **untied.copies},
        unverified=unverified,
        set_aside={
            **aside,
            **aside_too,
            **written.set_aside,
            **untied.set_aside,
            **regrouped.set_aside,
            **joined.set_aside,
            **known.set_aside,
            **rates.set_aside,
        },
        one_sided=one_sided,
        only=only or CaptureFilter(),
    )
    return replace(lined, alignment=lined.aligned(joined.candidate, {}))


def _restricted(alignment: Alignment, only: CaptureFilter) -> Alignment:
    """The entries that a filter lets through.

    Raises:
        UsageError: There are some, and it lets none through.
    """
    if only == CaptureFilter():
        return alignment
    left_out = kinds_left_out(only)
    entries = tuple(
        entry
        for entry in alignment.entries
        if only.wants_step(entry.id.step)
        and only.wants_module(entry.id.module)
        and entry.id.kind not in left_out
    )
    if alignment.entries and not entries:
        ids = [entry.id for entry in alignment.entries]
        steps = format_indices(frozenset(id_.step for id_ in ids))
        kinds = [kind for kind in Kind if kind in {id_.kind for id_ in ids}]
        raise UsageError(
            "the filters leave nothing to compare",
            where=", ".join(
                f"--{name} {text}" for name, text in only.to_json().items()
            ),
            got=f"tensors of steps {steps}, of kinds {', '.join(kinds)}, of "
            f"{len({id_.module for id_ in ids})} modules",
            remedy="correct the filters; 'ttrace show TRACE' lists what there is",
        )
    return replace(alignment, entries=entries)


def kinds_left_out(only: CaptureFilter) -> frozenset[Kind]:
    """Kinds that a filter does not let through."""
    if only.kinds is None:
        return frozenset()
    return frozenset(kind for kind in Kind if not only.wants_kind(kind))
