"""Lines up activations: what the modules that belong together take and give."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.transform import Transform
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.beyond_agreement import Anchor
from ttrace.map_proposal.borders import Borders
from ttrace.map_proposal.calls import by_calls
from ttrace.map_proposal.closeness import (
    close_transform,
    fits_shapes,
    transform_of_shapes,
)
from ttrace.map_proposal.differences import known_difference
from ttrace.map_proposal.diverged import pair_diverged, runs_agree
from ttrace.map_proposal.joined import pair_joined_outputs
from ttrace.map_proposal.layer_numbers import Layers, segments
from ttrace.map_proposal.leftovers import leftovers, match_leftovers
from ttrace.map_proposal.modules import links_of, pair_modules
from ttrace.map_proposal.recorded_activations import (
    WITH_GRADIENTS,
    Activations,
    Instance,
    pattern_text,
)
from ttrace.map_proposal.underived import Underived
from ttrace.map_proposal.units import BY_VALUES, SEVERAL_ALIKE, Pairing
from ttrace.map_proposal.weight_dims import ByWeight, WeightDims
from ttrace.mapping.groups import Group


class ActivationMatcher:
    """Pairs modules of two runs, and what they take and give.

    Attributes:
        pairings: What was found.
        reasons: Why a slot of a module (module, kind, slot) has no counterpart, where
            its module has.
    """

    def __init__(
        self,
        reference: TraceSource,
        candidate: TraceSource,
        underived: Underived | None = None,
    ):
        self.pairings: list[Pairing] = []
        self._underived = underived or Underived()
        self.reasons: dict[Side, dict[tuple[str, Kind, str | None], str]] = {
            side: {} for side in Side
        }
        self._sides = {
            Side.REFERENCE: Activations(reference),
            Side.CANDIDATE: Activations(candidate),
        }
        self._agreements = Agreements(self._sides)
        self._borders = Borders(self._sides, self.pairings)
        self._transforms: Counter[tuple[int, int, str]] = Counter()
        self._by_text: dict[str, Transform] = {}
        self._weights = WeightDims(())

    def outputs_agree(self, reference: str, candidate: str) -> bool | None:
        """Whether two modules, or those of layer 0, have the same first output."""
        own = self._first_output(Side.REFERENCE, reference)
        other = self._first_output(Side.CANDIDATE, candidate)
        if own is None or other is None:
            return None
        return self._agreements.transform(own, other) is not None

    def places(self) -> dict[Side, dict[str, int]]:
        """The place of each module that gives something, in order of capture."""
        found: dict[Side, dict[str, int]] = {}
        for side in Side:
            of_side = found.setdefault(side, {})
            for tensor_id, place in self._sides[side].order().items():
                if tensor_id.kind is Kind.OUTPUT:
                    of_side.setdefault(tensor_id.module, place)
        return found

    def match(self, groups: Sequence[Group]) -> None:
        """Pairs modules and slots.

        Args:
            groups: Parameters that are the same, which tell about their modules.
        """
        self._weights = WeightDims(groups)
        modules = pair_modules(links_of(groups), self._agreements)
        pairs = sorted(
            modules.items(), key=lambda pair: self._sides[Side.REFERENCE].place(pair[0])
        )
        self.pairings += pair_joined_outputs(groups, self._sides, self._underived)
        unverified = []
        for own, other in by_calls(pairs, self._agreements):
            for kind in WITH_GRADIENTS:
                with self._underived.guarded(f"{own.module}/{kind}"):
                    unverified += self._pair_slots(own, other, kind)
        for own, other, kind, of_reference, of_candidate in unverified:
            with self._underived.guarded(of_reference):
                self._pair_unverified(own, other, kind, of_reference, of_candidate)
        with self._underived.guarded("outputs of modules without counterpart"):
            self._pair_leftovers()
        if not runs_agree(self._sides):
            with self._underived.guarded("outputs behind the place of a divergence"):
                self._pair_diverged(modules)

    def _pair_unverified(
        self,
        own: Instance,
        other: Instance,
        kind: Kind,
        of_reference: TensorId,
        of_candidate: TensorId,
    ) -> None:
        """Pairs two activations of the same place whose values differ."""
        if self._explain(own, other, kind, of_reference, of_candidate):
            return
        if kind is Kind.OUTPUT and self._is_border(
            own, other, of_reference, of_candidate
        ):
            return
        dtypes = {
            self._sides[side].is_float(tensor_id)
            for side, tensor_id in zip(Side, (of_reference, of_candidate), strict=True)
        }
        if len(dtypes) > 1:
            return  # tokens are not what a module inside of the model is given
        way = self._weights.only_way(*self._place_of(of_reference, of_candidate))
        if way is not None:
            self._add(
                own, other, kind, of_reference, of_candidate, way.transform,
                sizes=way.sizes, verified=False,
                comment="lying as the dims of its weight do: its values differ",
            )  # fmt: skip
            return
        transform = self._usual_transform(of_reference, of_candidate)
        if transform is not None:
            self._add(
                own,
                other,
                kind,
                of_reference,
                of_candidate,
                transform,
                verified=False,
            )

    def _place_of(
        self, of_reference: TensorId, of_candidate: TensorId
    ) -> tuple[tuple[str, str], tuple[int, ...], tuple[int, ...]]:
        """The modules and shapes of two activations."""
        return (
            (of_reference.module, of_candidate.module),
            self._sides[Side.REFERENCE].shape(of_reference),
            self._sides[Side.CANDIDATE].shape(of_candidate),
        )

    def _agreeing_way(
        self, of_reference: TensorId, of_candidate: TensorId
    ) -> ByWeight | None:
        """How two activations agree in value, where they lie as a weight does."""
        ways = self._weights.ways(*self._place_of(of_reference, of_candidate))
        own = self._sides[Side.REFERENCE].array(of_reference) if ways else None
        other = self._sides[Side.CANDIDATE].array(of_candidate) if ways else None
        if own is None or other is None:
            return None
        tolerance = self._agreements.tolerance(of_reference, of_candidate)
        return next((way for way in ways if way.agrees(own, other, tolerance)), None)

    def _is_border(
        self,
        own: Instance,
        other: Instance,
        of_reference: TensorId,
        of_candidate: TensorId,
    ) -> bool:
        """Notes why two outputs are unlike, if what follows agrees all the same.

        Their gradients are paired where these agree.
        """
        tolerance = self._agreements.tolerance(of_reference, of_candidate)
        reason = self._borders.reason(of_reference, of_candidate, tolerance)
        if reason is None:
            return False
        unlike = [Kind.OUTPUT, Kind.GRAD_OUTPUT]
        gradients = [
            self._sides[side].gradient(tensor_id)
            for side, tensor_id in zip(Side, (of_reference, of_candidate), strict=True)
        ]
        if gradients[0] is not None and gradients[1] is not None:
            transform = self._agreements.transform(gradients[0], gradients[1])
            if transform is not None:
                self._add(
                    own, other, Kind.OUTPUT, of_reference, of_candidate, transform,
                    verified=True, kinds=(Kind.GRAD_OUTPUT,),
                )  # fmt: skip
                unlike.remove(Kind.GRAD_OUTPUT)
        for side, tensor_id in zip(Side, (of_reference, of_candidate), strict=True):
            for kind in unlike:
                self.reasons[side][tensor_id.module, kind, tensor_id.slot] = reason
        return True

    def _first_output(self, side: Side, module: str) -> TensorId | None:
        path = module.replace("{i}", "0")
        slots = self._sides[side].slots(Instance(module=path), Kind.OUTPUT)
        if not slots:
            # A scope is called as what it reads: layer_0.norm for layers.0.norm.
            parts = segments(path)
            numbers = [part for part in parts if part.isdecimal()]
            for instance in self._sides[side].instances():
                own = segments(instance.module)
                if (
                    len(own) > 1
                    and own[-1] == parts[-1]
                    and numbers == [part for part in own if part.isdecimal()]
                ):
                    slots = self._sides[side].slots(instance, Kind.OUTPUT)
                    break
        return next(iter(slots.values()), None)

    def _pair_slots(
        self, own: Instance, other: Instance, kind: Kind
    ) -> list[tuple[Instance, Instance, Kind, TensorId, TensorId]]:
        """Pairs what two modules take or give; returns pairs whose values differ."""
        of_reference = dict(self._sides[Side.REFERENCE].slots(own, kind))
        of_candidate = dict(self._sides[Side.CANDIDATE].slots(other, kind))
        for slot, tensor_id in list(of_reference.items()):
            # First: at the start, most biases that are given apart are zero.
            if kind is Kind.OUTPUT and slot in of_candidate:
                if self._explain(own, other, kind, tensor_id, of_candidate[slot]):
                    del of_reference[slot], of_candidate[slot]
                    continue
            # The same name first: of several equal inputs any would agree.
            for name in sorted(of_candidate, key=lambda name: name != slot):
                transform = self._agreements.transform(tensor_id, of_candidate[name])
                if transform is not None:
                    self._remember(tensor_id, of_candidate[name], transform)
                    self._add(
                        own, other, kind, tensor_id, of_candidate[name], transform,
                        verified=True,
                    )  # fmt: skip
                    del of_reference[slot], of_candidate[name]
                    break
                way = self._agreeing_way(tensor_id, of_candidate[name])
                if way is not None:
                    self._add(
                        own, other, kind, tensor_id, of_candidate[name], way.transform,
                        sizes=way.sizes, verified=True,
                    )  # fmt: skip
                    del of_reference[slot], of_candidate[name]
                    break
        left = []
        for slot, tensor_id in list(of_reference.items()):
            if slot in of_candidate:
                left.append((own, other, kind, tensor_id, of_candidate.pop(slot)))
                del of_reference[slot]
        if len(of_reference) == len(of_candidate) == 1:
            (a,), (b,) = of_reference.values(), of_candidate.values()
            left.append((own, other, kind, a, b))
        return left

    def _explain(
        self,
        own: Instance,
        other: Instance,
        kind: Kind,
        of_reference: TensorId,
        of_candidate: TensorId,
    ) -> bool:
        """Notes why two values are unlike and pairs their gradients, if it is known."""
        slots = (of_reference.slot, of_candidate.slot)
        values = {}
        for side, instance, own_slot in zip(Side, (own, other), slots, strict=True):
            values[side] = {
                slot: array
                for slot, tensor_id in self._sides[side].slots(instance, kind).items()
                # An input has no bias beside it.
                if kind is Kind.OUTPUT or slot == own_slot
                if (array := self._sides[side].array(tensor_id)) is not None
            }
            if own_slot not in values[side]:
                return False
        tolerance = self._agreements.tolerance(of_reference, of_candidate)
        difference = known_difference(*slots, values, tolerance)
        if difference is None:
            return False
        unlike = WITH_GRADIENTS[kind] if difference.transform is None else (kind,)
        for side, module in zip(
            Side, (of_reference.module, of_candidate.module), strict=True
        ):
            for slot, reason in difference.reasons[side].items():
                for of_kind in unlike:
                    self.reasons[side][module, of_kind, slot] = reason
        if difference.transform is not None:
            self._add(
                own, other, kind, of_reference, of_candidate, difference.transform,
                verified=True, kinds=(Kind.GRAD_OUTPUT,),
            )  # fmt: skip
        return True

    def _pair_leftovers(self) -> None:
        """Outputs of modules without counterpart, by what they hold alone."""
        for found in match_leftovers(
            self._sides,
            self.pairings,
            self.reasons,
            lambda own, other: self._agreements.transform(own, other) is not None,
        ):
            own, of_reference = found.reference
            other, of_candidate = found.candidate
            transform = self._agreements.transform(of_reference, of_candidate)
            assert transform is not None
            alike = self._kinds_alike(of_reference, of_candidate)
            comment = BY_VALUES if found.is_only else SEVERAL_ALIKE
            self._add(
                own, other, Kind.OUTPUT, of_reference, of_candidate, transform,
                verified=found.is_only, kinds=alike, comment=comment,
            )  # fmt: skip
            if found.is_only and Kind.GRAD_OUTPUT not in alike:
                self._add(
                    own, other, Kind.OUTPUT, of_reference, of_candidate, transform,
                    verified=False, kinds=(Kind.GRAD_OUTPUT,),
                    comment="by what the output holds: its values differ",
                )  # fmt: skip

    def _pair_diverged(self, modules: Mapping[Instance, Instance]) -> None:
        """Outputs that only their order tells, where the runs have parted."""
        left = leftovers(self._sides, self.pairings, self.reasons)
        layers = Layers(
            (own.module, other.module)
            for own, other in modules.items()
            if self._sides[Side.REFERENCE].slots(own, Kind.OUTPUT)
            and self._sides[Side.CANDIDATE].slots(other, Kind.OUTPUT)
        )
        for (own, of_reference), (other, of_candidate) in pair_diverged(
            self._sides, left, self._anchors(), layers
        ):
            shapes = (
                self._sides[Side.REFERENCE].shape(of_reference),
                self._sides[Side.CANDIDATE].shape(of_candidate),
            )
            transform = self._usual_transform(of_reference, of_candidate)
            if transform is None or not fits_shapes(transform, *shapes):
                transform = transform_of_shapes(*shapes)
            if transform is not None:
                self._add(
                    own, other, Kind.OUTPUT, of_reference, of_candidate, transform,
                    verified=False,
                    comment="by order and shape: its values differ, and so do those of "
                    "all that follows",
                )  # fmt: skip

    def _anchors(self) -> list[Anchor]:
        """The outputs that agree in value."""
        names = {}
        for side in Side:
            names[side] = {
                pattern_text(instance, tensor_id): tensor_id
                for instance in self._sides[side].instances()
                for tensor_id in self._sides[side].slots(instance, Kind.OUTPUT).values()
            }
        pairs = [
            (names[Side.REFERENCE][own], names[Side.CANDIDATE][other])
            for pairing in self.pairings
            if pairing.agrees
            if Kind.OUTPUT in pairing.kinds
            for own in pairing.reference
            for other in pairing.candidate
        ]
        return [
            Anchor(
                reference=own,
                candidate=other,
                is_rounding=self._agreements.is_rounding(own, other),
            )
            for own, other in pairs
        ]

    def _kinds_alike(
        self, of_reference: TensorId, of_candidate: TensorId
    ) -> tuple[Kind, ...]:
        """Of an output that holds the same: it, and its gradient if that does, too."""
        gradients = [
            self._sides[side].gradient(tensor_id)
            for side, tensor_id in zip(Side, (of_reference, of_candidate), strict=True)
        ]
        if gradients[0] is None or gradients[1] is None:
            return WITH_GRADIENTS[Kind.OUTPUT]
        if self._agreements.transform(gradients[0], gradients[1]) is None:
            return (Kind.OUTPUT,)
        return WITH_GRADIENTS[Kind.OUTPUT]

    def _remember(
        self, reference: TensorId, candidate: TensorId, transform: Transform
    ) -> None:
        key = (self._num_dims(Side.REFERENCE, reference),
               self._num_dims(Side.CANDIDATE, candidate), str(transform))  # fmt: skip
        self._transforms[key] += 1
        self._by_text[str(transform)] = transform

    def _num_dims(self, side: Side, tensor_id: TensorId) -> int:
        return len(self._sides[side].shape(tensor_id))

    def _usual_transform(
        self, reference: TensorId, candidate: TensorId
    ) -> Transform | None:
        """That of others with as many dims, which did agree."""
        own = self._sides[Side.REFERENCE].shape(reference)
        other = self._sides[Side.CANDIDATE].shape(candidate)
        for (num_own, num_other, text), _ in self._transforms.most_common():
            transform = self._by_text[text]
            fits = not transform.is_identity or own == other
            if (num_own, num_other) == (len(own), len(other)) and fits:
                return transform
        if own == other:
            return close_transform(np.zeros(own), np.zeros(own), 0.0)
        return None

    def _add(
        self,
        own: Instance,
        other: Instance,
        kind: Kind,
        reference: TensorId,
        candidate: TensorId,
        transform: Transform,
        *,
        verified: bool,
        kinds: tuple[Kind, ...] | None = None,
        comment: str | None = None,
        sizes: dict[str, int] | None = None,
    ) -> None:
        if comment is None:
            comment = "" if verified else "by place: its values differ"
        other_shape = self._sides[Side.CANDIDATE].shape(candidate)
        composed = any(len(dim) > 1 for dim in transform.candidate.dims)
        if sizes is None and composed:
            own_shape = self._sides[Side.REFERENCE].shape(reference)
            sizes = _sizes(transform, own_shape, other_shape)
            if sizes is None:
                return
        self.pairings.append(
            Pairing(
                reference=(pattern_text(own, reference),),
                candidate=(pattern_text(other, candidate),),
                kinds=WITH_GRADIENTS[kind] if kinds is None else kinds,
                transform=None if transform.is_identity else transform,
                sizes=sizes or {},
                verified=verified,
                comment=comment,
            )
        )


def _sizes(
    transform: Transform, reference: tuple[int, ...], candidate: tuple[int, ...]
) -> dict[str, int] | None:
    """Sizes of all axes, where each is a dim of one of the sides."""
    sizes = {}
    for dims, shape in (
        (transform.candidate.dims, candidate),
        (transform.reference.dims, reference),
    ):
        for axes, length in zip(dims, shape, strict=True):
            if len(axes) == 1:
                sizes[axes[0]] = length
    axes = {*transform.candidate.axes, *transform.reference.axes}
    return sizes if axes <= sizes.keys() else None
