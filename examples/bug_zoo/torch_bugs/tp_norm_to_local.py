"""A fused norm works on local tensors, and does not say that its gradient is partial.

``to_local()`` without ``grad_placements``: the gradient of a replicated weight, which
each rank has from its own part of the sequence, passes for a replicated one.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, SCRIPT, TP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="tp_norm_to_local",
    title="Gradients of norms are not summed over tp after to_local()",
    source="torchtitan #2217, PR 2532",
    breaks="gradients of all norms; their copies differ",
    script=SCRIPT,
    model=MODEL,
    layout=TP,
    first_seen=(place("*norm", Kind.PARAM_GRAD, Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    from torch import nn
    from torch.distributed.tensor import DTensor
    from torch.nn import functional as F

    def forward(self, x):
        weight = self.weight.to_local()
        out = F.rms_norm(x.to_local(), self.normalized_shape, weight, self.eps)
        return DTensor.from_local(out, x.device_mesh, x.placements)

    nn.RMSNorm.forward = forward
