"""Results of bugs of the zoo, without any run."""

from ttrace.examples.bug_zoo.result import BugResult

FOUND = BugResult(
    name="final_layernorm",
    source="Megatron-LM #1446",
    clean="pass",
    found=True,
    first_divergence="step0/decoder.final_layernorm/main_grad/weight",
    kind="main_grad",
    module_right=True,
    margin=float("inf"),
    diagnosis=("replicas_differ",),
    diagnosis_right=True,
    seconds=1.5,
    expected_code="replicas_differ",
    code_right=True,
)
MISSED = BugResult(
    name="router_weight",
    source="Megatron-LM #599, PR 619",
    clean="pass",
    found=False,
    first_divergence=None,
    kind=None,
    module_right=False,
    margin=None,
    diagnosis=(),
    diagnosis_right=False,
    seconds=2.0,
    reason="buggy run: All agree.",
)
