"""What a run says of single steps among its settings, as traces name it.

Frontends write it down while the run goes on; rules of diagnosis read it.
"""

from collections.abc import Mapping, Sequence

UNREDUCED = "unreduced_gradients"
"""FSDP2 modules that were told not to reduce gradients when an optimizer stepped."""

CLIPS = "gradient_clips"
"""How often a step clips its gradients, and whether they change after it."""

SCALED_CLIPS = "clips_of_scaled_gradients"
"""Steps that clip gradients with a loss scale still in them; one key for each scale."""

UNSCALED_BACKWARDS = "unscaled_backwards"
"""Steps whose gradients a scaler divided by its scale, though no loss of theirs had
been multiplied by it; one key for each scale."""

_EARLY = "before they change again"

_MAX_STEPS = 16
"""Steps that one trace writes down by number."""


def clips_key(first_group: int) -> str:
    """``gradient_clips.group0``: the setting of one of several optimizers.

    Args:
        first_group: Number of its first group of parameters.
    """
    return f"{CLIPS}.group{first_group}"


def scales_of_steps(
    settings: Mapping[str, object], note: str
) -> list[tuple[str, frozenset[int]]]:
    """Each loss scale that a note names, as text, and its steps.

    Args:
        settings: Of a rank.
        note: ``SCALED_CLIPS`` or ``UNSCALED_BACKWARDS``.
    """
    return [
        parse_steps_text(str(text))
        for name, text in settings.items()
        if name.startswith(f"{note}.")
    ]


def clips_text(num_clips: int, num_early: int) -> str:
    """``2 times a step, 1 of them before they change again``.

    The same text for the same way to clip.

    Args:
        num_clips: Calls of a function that clips, in a step.
        num_early: Those after which gradients changed again before the optimizer
            stepped, by no clip.
    """
    text = "once a step" if num_clips == 1 else f"{num_clips} times a step"
    return f"{text}, {num_early} of them {_EARLY}" if num_early else text


def is_early_clipping(text: str) -> bool:
    """Whether some clips of a step are followed by another backward."""
    return _EARLY in text


def steps_text(steps: Sequence[int], what: str) -> str:
    """``2 modules, first layers.0, in steps 0, 1``; without end where they are many.

    Args:
        steps: Numbers, sorted.
        what: What holds in them, without comma.
    """
    named = ", ".join(map(str, steps[:_MAX_STEPS]))
    more = ", ..." if len(steps) > _MAX_STEPS else ""
    return f"{what} in steps {named}{more}"


def parse_steps_text(text: str) -> tuple[str, frozenset[int]]:
    """What holds, and the steps that are named; reverses ``steps_text``."""
    what, _, numbers = text.rpartition(" in steps ")
    return what, frozenset(
        int(number) for number in numbers.split(", ") if number.isdigit()
    )
