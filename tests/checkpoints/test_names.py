import pytest

from ttrace.checkpoints.names import name_entries, natural_order
from ttrace.ir.parameter_names import parameter_name


def named(*texts: str) -> dict[str, str]:
    """Names of entries whose keys are separated by ``/``: text -> kind/module/slot."""
    paths = {tuple(text.split("/")): text for text in texts}
    return {
        paths[path]: name.reason or f"{name.kind}/{name.module}/{name.slot}"
        for path, name in name_entries(list(paths)).items()
    }


def test_flat_checkpoints_hold_parameters_only():
    assert named("model.layers.0.mlp.weight", "model.norm.weight", "bias") == {
        "model.layers.0.mlp.weight": "param/model.layers.0.mlp/weight",
        "model.norm.weight": "param/model.norm/weight",
        "bias": "param/@root/bias",
    }


def test_a_linen_train_state():
    assert named(
        "step",
        "params/h_0/attn/kernel",
        "params/scale",
        "opt_state/0/count",
        "opt_state/0/mu/h_0/attn/kernel",
        "opt_state/0/nu/scale",
        "opt_state/inner_state/1/trace/h_0/attn/kernel",
        "batch_stats/norm/mean",
    ) == {
        "step": "step of the checkpoint: not among the parameters of the model",
        "params/h_0/attn/kernel": "param/h_0.attn/kernel",
        "params/scale": "param/@root/scale",
        "opt_state/0/count": "opt_state/0/count of the checkpoint: its path does not "
        "end with that of a parameter",
        "opt_state/0/mu/h_0/attn/kernel": "optimizer_state/h_0.attn/kernel.mu",
        "opt_state/0/nu/scale": "optimizer_state/@root/scale.nu",
        "opt_state/inner_state/1/trace/h_0/attn/kernel": (
            "optimizer_state/h_0.attn/kernel.trace"
        ),
        "batch_stats/norm/mean": "batch_stats/norm/mean of the checkpoint: not among "
        "the parameters of the model",
    }


def test_an_nnx_model_and_its_optimizer():
    assert named(
        "model/fc/kernel/value",
        "optimizer/opt_state/0/mu/fc/kernel/value",
        "optimizer/step/value",
    ) == {
        "model/fc/kernel/value": "param/fc/kernel",
        "optimizer/opt_state/0/mu/fc/kernel/value": "optimizer_state/fc/kernel.mu",
        "optimizer/step/value": "optimizer/step/value of the checkpoint: its path "
        "does not end with that of a parameter",
    }


def test_a_torch_training_state():
    assert named(
        "model/fc.weight",
        "optim/state/fc.weight/exp_avg",
        "optim/state/fc.weight/step",
        "optim/state/0/exp_avg",
    ) == {
        "model/fc.weight": "param/fc/weight",
        "optim/state/fc.weight/exp_avg": "optimizer_state/fc/weight.exp_avg",
        "optim/state/fc.weight/step": "optimizer_state/fc/weight.step",
        "optim/state/0/exp_avg": "optim/state/0/exp_avg of the checkpoint: its path "
        "does not end with that of a parameter",
    }


def test_a_state_within_another_dictionary():
    names = named("train/params/fc/kernel", "train/opt_state/0/mu/fc/kernel", "lr")
    assert names["train/params/fc/kernel"] == "param/fc/kernel"
    assert names["train/opt_state/0/mu/fc/kernel"] == "optimizer_state/fc/kernel.mu"
    assert "not among the parameters" in names["lr"]


def test_a_model_whose_attribute_is_called_model():
    """An NNX port of Llama saved alone is no training state."""
    assert named("model/embed/embedding", "lm_head/kernel") == {
        "model/embed/embedding": "param/model.embed/embedding",
        "lm_head/kernel": "param/lm_head/kernel",
    }


def test_states_that_cannot_be_told_apart():
    both = ("opt_state/0/mu/kernel", "opt_state/1/mu/kernel")
    names = named("params/kernel", *both)
    assert names["params/kernel"] == "param/@root/kernel"
    for text in both:
        assert names[text] == (
            f"{text} of the checkpoint: another entry is kernel.mu of @root, too"
        )


def test_names_that_collide_once_cleaned():
    names = named("a b", "a_b")
    assert all("another entry is a_b of @root" in name for name in names.values())


@pytest.mark.parametrize(
    ("segments", "name"),
    [
        (("params", "h_0", "attn", "kernel"), ("h_0.attn", "kernel")),
        (("params", "params", "fc", "bias"), ("fc", "bias")),
        (("blocks", "0", "norm", "scale", "value"), ("blocks.0.norm", "scale")),
        (("h.0.attn", "weight"), ("h.0.attn", "weight")),
        (("layers.1.weight",), ("layers.1", "weight")),
        (("kernel",), ("@root", "kernel")),
        (("value",), ("@root", "value")),
        (("params",), ("@root", "params")),
        ((), ("@root", "_")),
        (("a/b", "c d", ""), ("a_b.c_d", "_")),
    ],
)
def test_modules_and_slots(segments, name):
    assert parameter_name(segments) == name


def test_layers_are_sorted_by_number():
    keys = ["layers.10.w", "layers.2.w", "embed.w", "layers.2.b", "layers"]
    assert sorted(((key,) for key in keys), key=natural_order) == [
        ("embed.w",),
        ("layers",),
        ("layers.2.b",),
        ("layers.2.w",),
        ("layers.10.w",),
    ]
