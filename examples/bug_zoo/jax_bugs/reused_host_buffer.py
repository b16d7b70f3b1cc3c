"""The loader writes the next labels into the buffer that the device reads.

On CPU an array may be the memory of numpy itself, and no copy of it.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="reused_host_buffer",
    title="A host buffer is written again while a device array aliases it",
    source="jax #37830",
    breaks="loss and gradients: labels are those of the next step",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=LINEN,
    map_name="gpt2_linen",
    world_size=1,
    first_seen=(place("@root", Kind.LOSS, Kind.GRAD_OUTPUT),),
    expected_code="loss_targets",
)


def before_build(args):
    import math

    import jax
    import numpy as np

    from ttrace.examples.jax_port.training import LinenTraining

    placed = LinenTraining.batch
    shape = (args.global_batch_size, args.seq_length)
    memory = np.empty(4 * math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64  # XLA copies what is not aligned
    buffer = memory[start : start + 4 * math.prod(shape)].view(np.int32).reshape(shape)

    def prefetched(self, step):
        batch = placed(self, step)
        buffer[...] = batch["labels"]
        batch["labels"] = jax.dlpack.from_dlpack(buffer)
        buffer[...] = self.source.batch(step + 1)["labels"]
        return batch

    LinenTraining.batch = prefetched
