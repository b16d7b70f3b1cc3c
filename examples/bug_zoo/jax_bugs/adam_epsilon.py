"""Epsilon is added to the second moment under the root, not to the root."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="adam_epsilon",
    title="Adam's epsilon stands under the root",
    source="optax #571, keras-team/tf-keras #315",
    breaks="parameters after the step, where gradients are small",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=LINEN,
    map_name="gpt2_linen",
    world_size=1,
    first_seen=(place("*", Kind.UPDATED_PARAM),),
    expected_code="adam_settings",
)


def before_build(args):
    import optax

    from ttrace.examples.jax_port import optimization

    def with_eps_root(*, lr, weight_decay, beta2, eps, clip_grad):
        assert not clip_grad
        return optax.adamw(
            lr,
            b1=0.9,
            b2=beta2,
            eps=0.0,
            eps_root=eps,
            weight_decay=weight_decay,
            mask=optimization.decay_mask,
        )

    optimization.make_optimizer = with_eps_root
