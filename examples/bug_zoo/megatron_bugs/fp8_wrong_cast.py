"""The layernorm's output is cast to FP8, but the gathered tensor is multiplied.

Under sequence parallelism a column-parallel linear gathers its input. The cast went to
the tensor before the gather, and the product took the gathered one, which was not cast;
it is then unscaled as if it had been.

The output is too small by the scale of the cast, so that its error is all of the
reference and cannot be more: the margin is at most one over the tolerance. That is 20 %
here, six times what an input that is off by one unit of BF16 does by way of other
roundings to e4m3.
"""

from ttrace.examples.bug_zoo.bug import Bug, Precision, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="fp8_wrong_cast",
    title="FP8: the wrong tensor is cast, and an uncast one is multiplied",
    source="TransformerEngine PR 738",
    breaks="the output of column-parallel linears, and everything after it",
    model=DENSE,
    layout=TP2_SP,
    precision=Precision.FP8,
    common_patch="ttrace.examples.bug_zoo.fp8_linears",
    first_seen=(place("decoder.layers.0.self_attention.linear_qkv", Kind.OUTPUT),),
    paper_row=8,
    expected_code="scaled",
)


def after_build(args, models):
    for model in models:
        for name, module in model.named_modules():
            if "layers." in name and name.endswith(("linear_qkv", "linear_fc1")):
                module._forward_impl.operand = lambda tensor, cast: tensor
