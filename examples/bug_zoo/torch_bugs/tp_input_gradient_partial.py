"""A column-wise linear takes its input as local, and the gradient's sum gets lost.

Each rank has a share of the gradient of the input, from its part of the outputs. Nobody
says that, so the share passes for the whole.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, SCRIPT, TP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="tp_input_gradient_partial",
    title="Gradients of the MLP's input are not summed over tp",
    source="torchtitan #1805",
    breaks="the gradient of the MLP's input, and all below; the forward is right",
    script=SCRIPT,
    model=MODEL,
    layout=TP,
    first_seen=(
        place("layers.1.mlp*", Kind.GRAD_INPUT),
        place("layers.1.mlp_norm", Kind.GRAD_OUTPUT),
    ),
    expected_code="replicas_differ",
)


def before_build(args):
    from torch.distributed.tensor import DTensor, Partial, Replicate
    from torch.nn import functional as F

    from ttrace.examples.torch_native.llama import Mlp

    def forward(self, x):
        hidden = DTensor.from_local(
            x.to_local(),  # takes a gradient for that of all ranks
            self.gate.weight.device_mesh,
            [Replicate()],
            # and is given each rank's share.
            grad_placements=[Partial()],
        )
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))

    Mlp.forward = forward
