"""What a candidate shows that ran once more on the reference's values, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFinding:
    """The first operation inside of a module that differs from the reference's.

    Attributes:
        name: Of the candidate's operation, e.g. ``mul``.
        source: Its line, e.g. ``model.py:88``; empty where nobody knows it.
        what: In which way it differs: ``other_result``, ``other_operands``,
            ``missing``, ``extra``, ``returned``, ``pending`` or ``other_way``.
        sentence: What is known of it.
        reference_name: The reference's operation that it is set against, or that is
            missing; empty for none.
        reference_source: Its line.
        factor: What the result is times the reference's; None if it is no multiple.
    """

    name: str
    source: str
    what: str
    sentence: str
    reference_name: str = ""
    reference_source: str = ""
    factor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedPlace:
    """A place that is wrong although it was given what the reference's was.

    Attributes:
        module: Whose code it is.
        kinds: Kinds of what is wrong there, in the order of a step.
        margin: The largest error there over its tolerance; None where there is none to
            tell, infinite where nothing is tolerated.
        sentence: What is wrong, and what agrees.
        ids: The first few tensors that are, as a report names them.
        num_alike: Modules of other layers, or parameters, that are wrong likewise.
        operation: The first operation in its code that differs; None where none is
            known.
    """

    module: str
    kinds: tuple[str, ...]
    margin: float | None
    sentence: str
    ids: tuple[str, ...]
    num_alike: int = 0
    operation: OperationFinding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What running the candidate once more on the reference's values showed.

    Attributes:
        step: The step in which each module was given the reference's values; None where
            no run was made.
        isolated: Places that are wrong by themselves, in order of the dataflow.
        num_overwritten: Inputs and output gradients that had the reference's values.
        left_out: Number of others that kept the candidate's, by the reason.
        obstacle: Why there is no result, and what to do; empty where there is one.
        notes: What to know of the run, in sentences.
    """

    step: int | None = None
    isolated: tuple[IsolatedPlace, ...] = ()
    num_overwritten: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    obstacle: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        # Counts come as a Counter, which asdict would take for what is to be counted.
        object.__setattr__(self, "left_out", dict(self.left_out))

    @classmethod
    def from_json(cls, value: Mapping) -> "Isolation":
        """Reads what ``dataclasses.asdict`` made."""
        return cls(
            **{
                **value,
                "isolated": tuple(
                    IsolatedPlace(
                        **{
                            **place,
                            "kinds": tuple(place["kinds"]),
                            "ids": tuple(place["ids"]),
                            "operation": OperationFinding(**place["operation"])
                            if place.get("operation")
                            else None,
                        }
                    )
                    for place in value.get("isolated", ())
                ),
                "notes": tuple(value.get("notes", ())),
            }
        )
