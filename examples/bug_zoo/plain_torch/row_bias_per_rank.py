"""A row-parallel linear adds its bias on every rank, before the sum over ranks."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, SCRIPT, TENSOR
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="row_bias_per_rank",
    title="The bias of row-parallel linears is added once per rank",
    source="awslabs/slapo #10, Paddle PR 35186, text-generation-inference #1036",
    breaks="the output of the attention's output projection, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=TENSOR,
    first_seen=(place("blocks.0.attention.proj", Kind.OUTPUT),),
    expected_code="added_bias",
)


def before_build(args):
    from torch import nn

    from ttrace.examples.torch_parallel import tensor

    def forward(self, input):
        partial = nn.functional.linear(input, self.weight, self.bias)
        return tensor._ReduceScatter.apply(partial, self._place)

    tensor.RowLinear.forward = forward
