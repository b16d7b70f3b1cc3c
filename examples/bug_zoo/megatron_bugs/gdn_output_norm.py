"""Without sequence parallelism the gradient of Gated DeltaNet's output norm is a share.

Every tensor-parallel rank norms its own heads with one shared weight. Megatron sums the
gradients of the ranks only where sequence parallelism marks the weight. Live in
megatron-core 0.16.1.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DELTA_NET, TP2, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gdn_output_norm",
    title="Gated DeltaNet: without SP the output norm's gradient is not summed over TP",
    source="Megatron-LM #7452, finding 11",
    breaks="main gradients of the output norms; their replicas differ",
    model=DELTA_NET,
    layout=TP2,
    clean_layout=TP2_SP,
    first_seen=(place("decoder.layers.0.self_attention.out_norm", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)
