"""Which places are wrong by themselves, out of the report on a rewriting run."""

from collections.abc import Iterable, Mapping, Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId, parse_tensor_id
from ttrace.judge.frontier.culprits import Culprit
from ttrace.report.isolation import IsolatedPlace
from ttrace.report.model import Report, TensorReport

_GIVEN = frozenset({Kind.INPUT, Kind.GRAD_OUTPUT})
"""What a module is given: who gives it, is wrong."""

_OWN_RESULTS = frozenset({Kind.OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})
"""What a module makes of that."""

_MAX_IDS = 5

_Failed = Mapping[str, Sequence[TensorReport]]


def isolated_places(report: Report) -> tuple[IsolatedPlace, ...]:
    """The places that a report on a rewriting run finds to be wrong.

    Args:
        report: On the candidate that was given the reference's values; its culprits
            know which they are.
    """
    by_id = {tensor.id: tensor for tensor in report.tensors}
    failed: dict[str, list[TensorReport]] = {}
    for tensor in report.failed():
        failed.setdefault(parse_tensor_id(tensor.id).module, []).append(tensor)
    places: dict[str, IsolatedPlace] = {}
    for culprit in report.culprits:
        place = _place(culprit, by_id, failed)
        before = places.get(place.module)
        places[place.module] = place if before is None else _both(before, place)
    return tuple(places.values())


def _place(
    culprit: Culprit, by_id: Mapping[str, TensorReport], failed: _Failed
) -> IsolatedPlace:
    first = parse_tensor_id(culprit.id)
    tensors = [by_id[text] for text in culprit.ids if text in by_id]
    if first.kind in _OWN_RESULTS:
        tensors += [
            tensor
            for tensor in failed.get(first.module, ())
            if tensor.kind in _OWN_RESULTS
        ]
    kinds = {Kind(tensor.kind) for tensor in tensors} | {first.kind}
    margins = [tensor.margin for tensor in tensors if tensor.margin is not None]
    reason = by_id[culprit.id].reason if culprit.id in by_id else ""
    return IsolatedPlace(
        module=_whose(first),
        kinds=tuple(kind.value for kind in Kind if kind in kinds),
        margin=max(margins, default=None),
        sentence=_sentence(first, reason, culprit.num_alike),
        ids=tuple(dict.fromkeys((*culprit.ids, *(tensor.id for tensor in tensors))))[
            :_MAX_IDS
        ],
        num_alike=culprit.num_alike,
    )


def _both(one: IsolatedPlace, other: IsolatedPlace) -> IsolatedPlace:
    """Two findings on one module."""
    margins = [m for m in (one.margin, other.margin) if m is not None]
    kinds = {*one.kinds, *other.kinds}
    return IsolatedPlace(
        module=one.module,
        kinds=tuple(kind.value for kind in Kind if kind.value in kinds),
        margin=max(margins, default=None),
        sentence=f"{one.sentence}; {other.sentence}",
        ids=tuple(dict.fromkeys((*one.ids, *other.ids)))[:_MAX_IDS],
        num_alike=max(one.num_alike, other.num_alike),
    )


def _whose(id_: TensorId) -> str:
    """The module whose code makes a tensor: what a module is given, that around it."""
    if id_.kind not in _GIVEN or id_.module == ROOT_MODULE:
        return id_.module
    return id_.module.rpartition(".")[0] or ROOT_MODULE


def _sentence(id_: TensorId, reason: str, num_alike: int) -> str:
    alike = f" (and {num_alike} more like it)" if num_alike else ""
    why = f": {reason}" if reason else ""
    what = f"{id_.kind} {id_.slot}" if id_.slot is not None else f"{id_.kind}"
    where = f"{what} of {id_.module}{alike}"
    if id_.kind is Kind.GRAD_OUTPUT and id_.module == ROOT_MODULE:
        return (
            f"{where}, as it comes from what follows the model{why}; the model's "
            "forward agrees, so look at the loss and at what scales it"
        )
    if id_.kind is Kind.INPUT and id_.module == ROOT_MODULE:
        return f"{where}, as the script gives it{why}"
    if id_.kind in _GIVEN:
        way = "in the forward" if id_.kind is Kind.INPUT else "on the way back"
        return (
            f"{where}, as it comes to that module {way}{why}; the modules before it "
            f"agree, so look at the code of {_whose(id_)} around it, and at a "
            "collective or a hook between"
        )
    if id_.kind in _OWN_RESULTS:
        return (
            f"{where}{why}, although the module and those within it were given the "
            "reference's values"
        )
    return f"{where}{why}; {_BEHIND.get(id_.kind, 'what it is made from agrees')}"


_BEHIND = {
    Kind.MAIN_GRAD: "the gradients that each backward made agree, so look at how they "
    "are accumulated, reduced and scaled",
    Kind.GRAD_NORM: "the gradients agree, so look at what the norm is taken of",
    Kind.CLIPPED_GRAD: "the gradients and their norm agree, so look at the clipping",
    Kind.UPDATED_PARAM: "the gradients agree, so look at the optimizer",
    Kind.OPTIMIZER_STATE: "the gradients agree, so look at the optimizer",
    Kind.LOSS: "the forward of the model agrees, so look at the loss",
}


def modules_text(places: Iterable[IsolatedPlace]) -> str:
    """Their modules, separated by commas."""
    return ", ".join(place.module for place in places)
