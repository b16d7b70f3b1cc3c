"""The pipeline's backward starts from the sum over tokens.

The division by the number of tokens comes after the schedule has run: in time for the
loss that is reported, too late for the gradients.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, PIPELINE, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pipeline_raw_loss",
    title="Pipeline stages run backward on a loss that is not normalised",
    source="torchtitan #2972, PR 4194",
    breaks="all gradients, by the number of tokens; the reported loss is right",
    script=SCRIPT,
    model=MODEL,
    layout=PIPELINE,
    first_seen=(place("@root", Kind.GRAD_OUTPUT), place("head", Kind.GRAD_OUTPUT)),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    import torch

    from ttrace.examples.torch_parallel import pipeline

    def run_schedule(model, batches, place, *, hidden_size, objective, on_loss):
        num_tokens = objective.keywords["num_tokens"]
        run(
            model,
            batches,
            place,
            hidden_size=hidden_size,
            objective=lambda logits, labels: objective(
                logits, labels, num_tokens=torch.ones_like(num_tokens)
            ),
            on_loss=lambda loss, number: on_loss(loss / num_tokens, number),
        )

    run = pipeline.run_schedule
    pipeline.run_schedule = run_schedule
