"""Warnings that were given while a run was recorded, among what it says of itself."""

from collections.abc import Iterable, Mapping

KEY = "warnings"


def warnings_setting(sentences: Iterable[str]) -> dict[str, str]:
    """The setting that holds them, one a line; none where there are none."""
    text = "\n".join(" ".join(sentence.split()) for sentence in sentences)
    return {KEY: text} if text else {}


def warnings_in(settings: Iterable[Mapping[str, object]]) -> list[str]:
    """Those of all ranks, each once.

    Args:
        settings: Of every rank.
    """
    lines = [str(of_rank.get(KEY, "")).split("\n") for of_rank in settings]
    return list(dict.fromkeys(line for of_rank in lines for line in of_rank if line))
