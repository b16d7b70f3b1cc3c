"""The squares of all ranks are summed, also those of gradients that all ranks have."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import CLIP, SCRIPT, TP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="norm_counts_replicas",
    title="Gradients that are replicated over tp count once per rank in the norm",
    source="NVIDIA-NeMo/RL PR 3788",
    breaks="the norm and all clipped gradients, where parameters are replicated",
    script=SCRIPT,
    model=CLIP,
    layout=TP,
    first_seen=(
        place("*", Kind.CLIPPED_GRAD),
        place("@root", Kind.GRAD_NORM),
    ),
    expected_code="gradient_norm",
)


def before_build(args):
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import Partial, Replicate

    from ttrace.examples.torch_native import optimization

    def local(gradient):
        placements = [
            Replicate() if isinstance(placement, Partial) else placement
            for placement in gradient.placements
        ]
        return gradient.redistribute(placements=placements).to_local()

    def clip(parameters, optimizers, scaler, max_norm):
        squares = [local(p.grad).square().sum() for p in parameters]
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, total.sqrt())

    optimization.clip = clip
