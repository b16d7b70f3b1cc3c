"""What modules of two runs are configured with, as far as it is not the same."""

from ttrace.ir.module_code import without_code
from ttrace.ir.module_settings import parse_module_key, stated_of_modules, text_of
from ttrace.ir.trace import TraceInfo
from ttrace.judge.settings.setting_difference import SettingDifference, grouped


def module_differences(
    reference: TraceInfo, candidate: TraceInfo
) -> tuple[SettingDifference, ...]:
    """What both state of a module, and have otherwise.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs = without_code(stated_of_modules(rank.settings for rank in reference.ranks))
    ours = without_code(stated_of_modules(rank.settings for rank in candidate.ranks))
    found = []
    for key in dict.fromkeys((*theirs, *ours)):
        pair = text_of(key, theirs), text_of(key, ours)
        parsed = parse_module_key(key)
        if pair[0] is None or pair[1] is None or parsed is None or pair[0] == pair[1]:
            continue
        found.append((*parsed, *pair))
    return grouped(found)
