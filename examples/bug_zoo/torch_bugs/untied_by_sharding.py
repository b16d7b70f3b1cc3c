"""The head gets a parameter of its own as the model is materialised and sharded."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="untied_by_sharding",
    title="Embedding and head are no longer tied under FSDP2",
    source="verl PR 7835, NVIDIA-NeMo/Automodel PR 2213",
    breaks="the gradient of the embedding, which lacks the head's share",
    script=SCRIPT,
    model=(*MODEL, "--tie-embeddings"),
    layout=FSDP2,
    first_seen=(
        place("embed", Kind.PARAM_GRAD, Kind.MAIN_GRAD),
        place("head", Kind.PARAM, Kind.PARAM_GRAD),
    ),
    expected_code="split_ties",
)


def after_build(args, models):
    from torch import nn

    (model,) = models
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
