"""Rates of dropout that two runs state and have otherwise."""

from ttrace.ir.dropout import (
    dropout_key,
    effective,
    of_all_layers,
    parse_dropout_key,
    rate_of,
    stated_rates,
)
from ttrace.ir.trace import TraceInfo
from ttrace.judge.settings.setting_difference import SettingDifference, grouped


def rates_inside(
    module: str, reference: TraceInfo, candidate: TraceInfo
) -> tuple[str, ...]:
    """``attention_dropout 0.1``: at what a module drops in both runs, inside of it.

    Only rates that are not zero, and the same.

    Args:
        module: Its path.
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs = stated_rates(rank.settings for rank in reference.ranks)
    ours = stated_rates(rank.settings for rank in candidate.ranks)
    found = []
    for key in dict.fromkeys((*theirs, *ours)):
        parsed = parse_dropout_key(key)
        if parsed is None or parsed[1] is None:
            continue
        own = dropout_key(module, parsed[1])
        rates = {rate_of(own, theirs), rate_of(own, ours)}
        if key in (own, of_all_layers(own)) and len(rates) == 1:
            (rate,) = rates
            if rate is not None and effective(rate) != "0":
                found.append(f"{parsed[1]} {rate}")
    return tuple(dict.fromkeys(found))


def dropout_differences(
    reference: TraceInfo, candidate: TraceInfo
) -> tuple[SettingDifference, ...]:
    """What both state, and have otherwise; zero is zero, whatever makes it so.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs = stated_rates(rank.settings for rank in reference.ranks)
    ours = stated_rates(rank.settings for rank in candidate.ranks)
    found = []
    for key in dict.fromkeys((*theirs, *ours)):
        pair = rate_of(key, theirs), rate_of(key, ours)
        parsed = parse_dropout_key(key)
        if pair[0] is None or pair[1] is None or parsed is None:
            continue
        if effective(pair[0]) != effective(pair[1]):
            module, attribute = parsed
            found.append((module, f"dropout {attribute or 'p'}", *pair))
    return grouped(found)
