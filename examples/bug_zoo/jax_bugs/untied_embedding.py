"""The head has a copy of the embedding: what it learns does not reach the embedding."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="untied_embedding",
    title="The head is a copy of the tied embedding",
    source="paiml/entrenar #314, transformers PR 43429",
    breaks="the gradient of the embedding lacks the share of the head",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=LINEN,
    map_name="gpt2_linen",
    world_size=1,
    first_seen=(place("transformer.wte", Kind.PARAM_GRAD, Kind.MAIN_GRAD),),
    expected_code="split_ties",
)


def before_build(args):
    import jax

    from ttrace.examples.jax_port import functional

    tied = functional.tied_logits

    def untied(hidden, embedding):
        return tied(hidden, jax.lax.stop_gradient(embedding))

    functional.tied_logits = untied
