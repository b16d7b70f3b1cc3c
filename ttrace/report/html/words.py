"""Words of the page for a reader who knows nothing of ttrace."""

from ttrace.ir.kinds import Kind
from ttrace.judge.outcome import Outcome
from ttrace.judge.tolerances.tolerance import Estimator

KIND_WORDS = {
    Kind.PARAM: "parameters before the first step",
    Kind.BUFFER: "what modules keep besides, before the first step",
    Kind.INPUT: "what a module is given",
    Kind.OUTPUT: "what a module returns",
    Kind.LOSS: "the loss of a micro-batch",
    Kind.GRAD_OUTPUT: "gradient of what a module returns",
    Kind.GRAD_INPUT: "gradient of what a module is given",
    Kind.PARAM_GRAD: "gradient of a parameter, straight from backward",
    Kind.MAIN_GRAD: "gradient after accumulation and reduction",
    Kind.GRAD_NORM: "norm of all gradients",
    Kind.CLIPPED_GRAD: "gradient after clipping",
    Kind.LEARNING_RATE: "the learning rate of the step",
    Kind.OPTIMIZER_STATE: "moments and the like",
    Kind.UPDATED_PARAM: "parameters after the step",
    Kind.WRITTEN_PARAM: "parameters that were written to after it",
    Kind.UPDATED_BUFFER: "what modules keep besides, after the step",
    Kind.OP: "result of one operation",
    Kind.COLLECTIVE: "operands and results of a collective",
}

ORIGIN_WORDS = {
    Estimator.PERTURBED: "measured: a multiple of the largest effect that rounding "
    "noise had in noise runs of the reference",
    Estimator.UNCALIBRATED: "a guess from the dtype and the depth; no "
    "noise run measured it",
    Estimator.EXACT: "nothing may differ (what a run was given, or values that "
    "are no floats)",
}

STATUS_WORDS = {
    "passed": "compared, and within its tolerance",
    "failed": "compared, and beyond its tolerance",
    "unmatched": "only one of the runs has it",
    "skipped": "left out of the comparison, with a reason",
}

VERDICT_SIGNS = {Outcome.PASS: "✓", Outcome.DIVERGED: "✗", Outcome.ERROR: "!"}
