"""The gradients of micro-batches are means, and they are added up."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2_EVEN, LINEN, ON_2X2, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="accumulated_sum",
    title="Accumulated gradients are not divided by the number of micro-batches",
    source="ApolloResearch/e2e_sae PR 70, nanoGPT #206",
    breaks="loss and all gradients, by the number of micro-batches",
    script=SCRIPT,
    reference_layout=LINEN,
    model=(*GPT2_EVEN, "--num-microbatches", "4"),
    layout=(*LINEN, *ON_2X2),
    world_size=1,
    first_seen=(place("@root", Kind.LOSS, Kind.GRAD_OUTPUT),),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.jax_port import functional

    count = functional.count_tokens
    functional.count_tokens = lambda labels: count(labels) // len(labels)
