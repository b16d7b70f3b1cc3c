"""The adapters are merged into the model to evaluate it, and never taken out again.

From then on their part is added twice.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, LORA, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="lora_merged_for_evaluation",
    title="Adapters merged for an evaluation stay merged while training goes on",
    source="kohya-ss/musubi-tuner #803, peft #2437 (merge and unmerge)",
    breaks="the output of linears with adapters, from the second step on",
    script=SCRIPT,
    model=(*LORA, "--evaluate"),
    layout=DDP,
    first_seen=(place("layers.0.attention.q.base", Kind.OUTPUT),),
    num_steps=2,
    expected_code="changed_weight",
)


def before_build(args):
    import torch

    from ttrace.examples.torch_native import loop, lora

    def evaluate(model, *args):
        for module in model.modules():
            if isinstance(module, lora.LoraLinear):
                learned = module.up.weight @ module.down.weight
                with torch.no_grad():
                    module.base.weight += lora.lora_scaling(module) * learned
        right(model, *args)

    right = loop.evaluate
    loop.evaluate = evaluate
