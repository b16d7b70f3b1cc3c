"""The layouts of every parallelism as dims text: all that ttrace is told of them."""

from ttrace.examples.torch_parallel.model import Gpt
from ttrace.examples.torch_parallel.place import Parallelism, Place
from ttrace.frontends.torch_dims_description import DimsDescription, DimsRules
from ttrace.frontends.torch_parts.description import RecordedElsewhere
from ttrace.ir.kinds import Kind

_WHOLE = {"*": "..."}
_SEQUENCE = {
    "embedding.positions/*input/*": "s[sp]",
    "embedding.positions": "s[sp] h",
    "*": "b s[sp] ...",
}

ACTIVATIONS: dict[Parallelism, DimsRules] = {
    Parallelism.DATA: _WHOLE,
    Parallelism.RING: _SEQUENCE,
    Parallelism.ULYSSES: {"*.core": "b s a[sp] d", **_SEQUENCE},
    Parallelism.TENSOR: {
        "@root": "...",
        "embedding/*input/*": "...",
        "embedding.*": "...",
        "*.core": "b s a[tp] d",
        "*.qkv/*output/*": "b s f[tp:parts(3)]",
        "*.proj/*input/*": "b s f[tp]",
        "*.fc1/*output/*": "b s f[tp]",
        "*.act": "b s f[tp]",
        "*.fc2/*input/*": "b s f[tp]",
        "head/*output/*": "...",
        "*": "b s[tp] h",
    },
    Parallelism.PIPELINE: _WHOLE,
}

PARAMETERS: dict[Parallelism, DimsRules] = {
    Parallelism.DATA: _WHOLE,
    Parallelism.RING: {"*/param_grad/*": "... partial[sp]", "*": "..."},
    Parallelism.ULYSSES: {"*/param_grad/*": "... partial[sp]", "*": "..."},
    Parallelism.TENSOR: {
        "*.qkv": "f[tp:parts(3)] ...",
        "*.proj/*/weight*": "h f[tp]",
        "*.fc1": "f[tp] ...",
        "*.fc2/*/weight*": "h f[tp]",
        "*": "...",
    },
    Parallelism.PIPELINE: _WHOLE,
}


def describe(model: Gpt, place: Place) -> DimsDescription:
    """The description of this rank's model."""
    activations = dict(ACTIVATIONS[place.parallelism])
    # What passes between stages is neither input nor output of the model.
    if not place.is_first_stage:
        activations = {"@root/*input/*": RecordedElsewhere(), **activations}
    if not place.is_last_stage:
        activations = {"@root/*output/*": RecordedElsewhere(), **activations}
    # The loss is multiplied by the number of ranks whose gradients are averaged.
    backward = (Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD)
    return DimsDescription(
        model,
        place.mesh,
        activations=activations,
        parameters=PARAMETERS[place.parallelism],
        microbatch_axis="dp",
        scales=dict.fromkeys(backward, float(place.data_size)),
    )
