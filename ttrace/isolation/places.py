"""Which places are wrong by themselves, out of the report on a rewriting run."""

from collections.abc import Collection, Mapping, Sequence

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId, parse_tensor_id
from ttrace.judge.frontier.culprits import Culprit
from ttrace.judge.frontier.uncompared import Seen, uncompared_before
from ttrace.judge.verdicts.structure import layers_left_out
from ttrace.report.isolation import IsolatedPlace
from ttrace.report.model import Report, TensorReport

_GIVEN = frozenset({Kind.INPUT, Kind.GRAD_OUTPUT})
"""What a module is given: who gives it, is wrong."""

_OWN_RESULTS = frozenset({Kind.OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})
"""What a module makes of that."""

_MAX_IDS = 5

_Failed = Mapping[str, Sequence[TensorReport]]

_Call = tuple[int, int | None, str, int]


def _call_of(id_: TensorId) -> _Call:
    """Step, micro-batch, module and number of a call."""
    return id_.step, id_.microbatch, id_.module, id_.call


def isolated_places(
    report: Report, overwritten: Collection[TensorId]
) -> tuple[IsolatedPlace, ...]:
    """The places that a report on a rewriting run finds to be wrong.

    Args:
        report: On the candidate that was given the reference's values.
        overwritten: Which tensors had them; the culprits of the report know that.
    """
    ids = [parse_tensor_id(tensor.id) for tensor in report.tensors]
    # A skip without slot stands for calls that nobody saw.
    modules = {i.module for i in ids if i.kind in ACTIVATIONS and i.slot is not None}
    given = {_call_of(id_): True for id_ in ids if id_.kind is Kind.INPUT}
    given |= {
        _call_of(id_): False
        for id_ in ids
        if id_.kind in _GIVEN and id_ not in overwritten
    }
    by_id = {tensor.id: tensor for tensor in report.tensors}
    tensors = zip(ids, report.tensors, strict=True)
    seen = [(id_, tensor.status, tensor.reason) for id_, tensor in tensors]
    failed: dict[str, list[TensorReport]] = {}
    for tensor in report.failed():
        failed.setdefault(parse_tensor_id(tensor.id).module, []).append(tensor)
    places: dict[str, IsolatedPlace] = {}
    for culprit in report.culprits:
        place = _place(culprit, by_id, failed, given, modules, seen)
        form = layers_left_out(place.module)
        before = places.get(form)
        places[form] = place if before is None else _both(before, place)
    return tuple(places.values())


def _place(
    culprit: Culprit,
    by_id: Mapping[str, TensorReport],
    failed: _Failed,
    given: Mapping[_Call, bool],
    modules: Collection[str],
    seen: Sequence[Seen],
) -> IsolatedPlace:
    text, num_alike = culprit.id, culprit.num_alike
    of_model = next((id_ for id_ in culprit.ids if _is_from_behind(id_, modules)), None)
    if of_model is not None and of_model != text:
        # The gradient of the model's output is that of its last module's, too.
        text, num_alike = of_model, num_alike - 1
    first = parse_tensor_id(text)
    tensors = [by_id[text] for text in culprit.ids if text in by_id]
    if first.kind in _OWN_RESULTS:
        tensors += [
            tensor
            for tensor in failed.get(first.module, ())
            if tensor.kind in _OWN_RESULTS
        ]
    kinds = {Kind(tensor.kind) for tensor in tensors} | {first.kind}
    margins = [tensor.margin for tensor in tensors if tensor.margin is not None]
    reason = by_id[text].reason if text in by_id else ""
    whose = _whose(first, modules)
    beside = None
    if first.kind in (Kind.INPUT, Kind.LOSS) and first.pass_ is Pass.FORWARD:
        beside = uncompared_before(
            first,
            whose,
            seen,
        )
    return IsolatedPlace(
        module=whose,
        kinds=tuple(kind.value for kind in Kind if kind in kinds),
        margin=max(margins, default=None),
        sentence=_sentence(
            first,
            whose,
            reason,
            num_alike,
            inputs_agree=culprit.inputs_agree,
            is_given=given.get(_call_of(first)),
            is_outermost=_is_outermost(first.module, modules),
            beside="" if beside is None else f"; {beside.sentence}: look there, too",
        ),
        ids=_distinct(text, *culprit.ids, *(tensor.id for tensor in tensors)),
        num_alike=num_alike,
    )


def _is_from_behind(text: str, modules: Collection[str]) -> bool:
    """Whether a tensor is what the model's outputs get in the backward."""
    id_ = parse_tensor_id(text)
    return id_.kind is Kind.GRAD_OUTPUT and _is_outermost(id_.module, modules)


def _is_outermost(module: str, modules: Collection[str]) -> bool:
    """Whether a module runs in no other: the model, or what a script calls within it.

    Args:
        module: Its path.
        modules: Those that run.
    """
    return module == ROOT_MODULE or _around(module, modules) is None


def _around(module: str, modules: Collection[str]) -> str | None:
    """The nearest module around one that runs; None where none does."""
    while "." in module:
        module = module.rpartition(".")[0]
        if module in modules:
            return module
    return ROOT_MODULE if ROOT_MODULE in modules else None


def _distinct(*ids: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ids))[:_MAX_IDS]


def _both(one: IsolatedPlace, other: IsolatedPlace) -> IsolatedPlace:
    """Two findings on one module, or on that of two layers."""
    margins = [m for m in (one.margin, other.margin) if m is not None]
    kinds = {*one.kinds, *other.kinds}
    return IsolatedPlace(
        module=one.module,
        kinds=tuple(kind.value for kind in Kind if kind.value in kinds),
        margin=max(margins, default=None),
        sentence=f"{one.sentence}; {other.sentence}",
        ids=_distinct(*one.ids, *other.ids),
        num_alike=max(one.num_alike, other.num_alike, int(one.module != other.module)),
    )


def _whose(id_: TensorId, modules: Collection[str]) -> str:
    """The module whose code makes a tensor: what a module is given, that around it.

    Args:
        id_: The tensor.
        modules: Those that run; others only hold modules.
    """
    if id_.kind not in _GIVEN or id_.module == ROOT_MODULE:
        return id_.module
    return _around(id_.module, modules) or ROOT_MODULE


def _sentence(
    id_: TensorId,
    whose: str,
    reason: str,
    num_alike: int,
    *,
    inputs_agree: bool,
    is_given: bool | None,
    is_outermost: bool,
    beside: str = "",
) -> str:
    """What is wrong, what agrees, and what to do.

    Args:
        id_: The tensor.
        whose: The module whose code makes it.
        reason: Why it failed.
        num_alike: Others that are wrong likewise.
        inputs_agree: What it is made from was compared, and agrees.
        is_given: The call had the reference's values of all that it is given; None
            where no input of it was recorded.
        is_outermost: No other module runs around the tensor's.
        beside: What it may come from that was not compared, as a clause.
    """
    alike = f" (and {num_alike} more like it)" if num_alike else ""
    why = f": {reason}" if reason else ""
    what = f"{id_.kind} {id_.slot}" if id_.slot is not None else f"{id_.kind}"
    where = f"{what} of {id_.module}{alike}"
    if id_.kind is Kind.INPUT and is_outermost:
        return f"{where}, as the script gives it{why}"
    if id_.kind is Kind.GRAD_OUTPUT and is_outermost:
        where += ", as it comes from what follows the model"
        agrees, look = "the forward", "the loss and what scales it"
    elif id_.kind in _GIVEN:
        way = "in the forward" if id_.kind is Kind.INPUT else "on the way back"
        if id_.pass_ is Pass.RECOMPUTE:
            way = "in the recomputation"
        where += f", as it comes to that module {way}"
        agrees = "what comes before it"
        around = "the model itself" if whose == ROOT_MODULE else whose
        look = f"the code of {around} around it, and at a collective or a hook between"
    elif id_.kind in _OWN_RESULTS:
        if is_given is None:
            return (
                f"{where}{why}; no input of it was recorded: look at its own code, and "
                "at what it computes with"
            )
        if not is_given:
            return f"{where}{why}; some of what the module is given kept its own values"
        return (
            f"{where}{why}, although the module was given the reference's values: look "
            "at its own code, and at collectives in it"
        )
    else:
        agrees, look = _BEHIND.get(id_.kind, ("what it is made from", "how it is made"))
    if inputs_agree:
        where, look = f"{where}{why}; what was compared of", f"{look}{beside}"
        return f"{where} {agrees} agrees: look at {look}"
    return f"{where}{why}; look at {look}{beside}"


_BEHIND = {
    Kind.MAIN_GRAD: (
        "what each backward made of it",
        "how gradients are accumulated, reduced and scaled",
    ),
    Kind.GRAD_NORM: ("every gradient", "what the norm is taken of"),
    Kind.CLIPPED_GRAD: ("what is clipped", "the clipping"),
    Kind.UPDATED_PARAM: ("what the optimizer is given", "the optimizer"),
    Kind.WRITTEN_PARAM: (
        "what the optimizer left",
        "what the script writes to parameters after optimizer.step()",
    ),
    Kind.OPTIMIZER_STATE: ("what the optimizer is given", "the optimizer"),
    Kind.LOSS: ("the forward", "the loss"),
}
