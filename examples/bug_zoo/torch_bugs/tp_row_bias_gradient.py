"""The bias of a row-wise linear is divided by tp before the sum over ranks.

Its forward is right, but each replica's gradient is divided as well, and nobody sums
the gradients of replicas.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, SCRIPT, TP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="tp_row_bias_gradient",
    title="Gradients of the biases of row-wise linears are divided by tp",
    source="torchtitan PR 4332",
    breaks="gradients of the biases of o and down; the forward is right",
    script=SCRIPT,
    model=MODEL,
    layout=TP,
    first_seen=(
        place("*.mlp.down", Kind.PARAM_GRAD),
        place("*.attention.o", Kind.PARAM_GRAD),
    ),
    diagnosis="scaled",
    expected_code="scaled",
)


def after_wrap(args, place, models, optimizers):
    for layer in models[0].layers.values():
        for linear in (layer.attention.o, layer.mlp.down):
            linear.bias.register_hook(lambda gradient: gradient / args.tp)
