"""Initial parameters through a map file, as a comparison goes through it."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.paths import ROOT
from ttrace.errors import UsageError
from ttrace.frontends.jax_generate import generate_array, generate_tree
from ttrace.frontends.jax_parts.map_origins import origins_of_map
from ttrace.frontends.jax_parts.origins import NameTemplate, Origin
from ttrace.generate import Bell, generate
from ttrace.mapping.map_file import parse_map, read_map

MAPS = ROOT / "examples" / "jax_port" / "maps"

RENAMED = """
[[tensor]]
reference = "h.{i}.fc/{kind}/weight"
candidate = "h_{i}.fc/{kind}/kernel"
transform = "i o -> o i"

[[tensor]]
reference = "@root/{kind}/weight"
candidate = "@root/{kind}/scale"

[[tensor]]
reference = "elsewhere.{i}/{kind}/bias"
candidate = "h_{i}.norm/{kind}/bias"
kinds = ["output"]
"""


def origins(text: str):
    return origins_of_map(parse_map(text, Path("port.toml")))


def test_names_and_transforms():
    origin_for = origins(RENAMED)
    assert origin_for("h_3.fc.kernel") == Origin(
        name="h.3.fc.weight", transform="i o -> o i"
    )
    assert origin_for("@root.scale") == Origin(name="@root.weight")
    assert origin_for("h_3.norm.bias") == Origin(name="h_3.norm.bias")


def test_a_part_of_a_name_with_dots():
    origin_for = origins(
        """
[[tensor]]
reference = "model.{path*}/{kind}/weight"
candidate = "{path*}/{kind}/kernel"
"""
    )
    assert origin_for("a.b.c.kernel") == Origin(name="model.a.b.c.weight")


def test_indices_that_only_the_reference_has_stay_open():
    origin_for = origins(
        """
[[tensor]]
reference = "h.{l}.{part}/{kind}/weight"
candidate = "layers.{part}/{kind}/kernel"
transform = "l i o -> o i"
"""
    )
    name = origin_for("layers.fc.kernel").name
    assert isinstance(name, NameTemplate)
    assert name.axes == ("l",) and str(name) == "h.{l}.fc.weight"
    assert name.filled({"l": 2}, {}) == "h.2.fc.weight"


def test_unequal_parts_of_one_matrix():
    origin_for = origins(
        """
[[tensor]]
reference = "attn.qkv/{kind}/weight"
candidate = ["attn.q/{kind}/kernel", "attn.k/{kind}/kernel", "attn.v/{kind}/kernel"]
transform = "d n e -> (n e) d"
join = "n"
sizes = {n = [4, 2, 2]}
"""
    )
    full = generate("attn.qkv.weight", Bell(), (24, 5)).reshape(8, 3, 5)
    for name, start, stop in (("q", 0, 4), ("k", 4, 6), ("v", 6, 8)):
        origin = origin_for(f"attn.{name}.kernel")
        found = generate_array(origin, Bell(), (5, stop - start, 3))
        expected = full[start:stop].transpose(2, 0, 1)
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_parts_of_interleaved_groups():
    """Megatron's query groups; how many there are follows from the parts' sizes."""
    origin_for = origins(
        """
[[tensor]]
reference = "attn.qkv/{kind}/weight"
candidate = ["attn.q/{kind}/kernel", "attn.k/{kind}/kernel", "attn.v/{kind}/kernel"]
transform = "d (g n) e -> (g n e) d"
join = "n"
sizes = {n = [4, 1, 1]}
"""
    )
    full = generate("attn.qkv.weight", Bell(), (2 * 6 * 3, 5)).reshape(2, 6, 3, 5)
    for name, start, stop in (("q", 0, 4), ("k", 4, 5), ("v", 5, 6)):
        num_heads = 2 * (stop - start)
        found = generate_array(
            origin_for(f"attn.{name}.kernel"), Bell(), (5, num_heads, 3)
        )
        expected = full[:, start:stop].reshape(num_heads, 3, 5).transpose(2, 0, 1)
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_one_matrix_out_of_several():
    origin_for = origins(
        """
[[tensor]]
reference = ["layers.{l}.q/{kind}/weight", "layers.{l}.k/{kind}/weight"]
candidate = "blocks.qk/{kind}/kernel"
transform = "l d (p o) -> o d"
join = "p"
"""
    )
    found = generate_array(origin_for("blocks.qk.kernel"), Bell(), (2, 3, 8))
    expected = [
        np.concatenate(
            [generate(f"layers.{n}.{p}.weight", Bell(), (4, 3)).T for p in "qk"], axis=1
        )
        for n in range(2)
    ]
    np.testing.assert_array_equal(np.asarray(found), np.stack(expected))


@pytest.mark.parametrize(
    ("rule", "got"),
    [
        (
            'reference = "w/{kind}/weight"\ncandidate = ["a/{kind}/k", "b/{kind}/k"]\n'
            'transform = "n d -> n d"\njoin = "n"',
            "parts along n whose sizes nothing says",
        ),
        (
            'reference = "w/{kind}/weight"\ncandidate = "a/{kind}/k"\n'
            'transform = "v d -> v d"\nunpadded = {v = 5}',
            "padding, or an axis of the reference that the port unstacks",
        ),
        (
            'reference = "w/{kind}/weight"\ncandidate = "a.{i}/{kind}/k"\n'
            'transform = "d -> i d"',
            "padding, or an axis of the reference that the port unstacks",
        ),
    ],
)
def test_places_that_a_rule_does_not_tell(rule, got):
    origin_for = origins(f"[[tensor]]\n{rule}\n")
    with pytest.raises(UsageError) as error:
        origin_for("a.0.k" if "{i}" in rule else "a.k")
    assert str(error.value) == (
        "a rule of the map does not say where a parameter of the port begins\n"
        "  where:    port.toml:1\n"
        "  expected: parts of tensors of the reference, of sizes that the rule says\n"
        f"  got:      {got}\n"
        "  to do:    give the sizes of the joined axis, or initialize from a checkpoint"
    )


@pytest.mark.parametrize("layout", ["dp_tp", "scan_remat"])
@pytest.mark.parametrize("flavor", ["linen", "nnx"])
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_the_ports_of_the_example_start_as_their_originals(model, flavor, layout):
    pytest.importorskip("flax")
    from ttrace.examples.jax_port.arguments import parse_jax_arguments
    from ttrace.examples.jax_port.training import build_training

    arguments = ["--model", model, "--flavor", flavor, "--layout", layout]
    training = build_training(parse_jax_arguments([*arguments, "--mesh", "2x4"]))
    expected = training.parameters()
    stacked = "_stacked" if layout == "scan_remat" else ""
    origin_for = origins_of_map(read_map(MAPS / f"{model}_{flavor}{stacked}.toml"))

    def distribution_for(name: str) -> Bell:
        is_scale = "norm" in name or "ln_" in name
        is_scale = is_scale and not name.endswith("bias")
        return Bell(scale=2.0**-3, offset=1.0 if is_scale else 0.0)

    made = generate_tree(expected, distribution_for, origin_for=origin_for)
    for (path, leaf), (_, other) in zip(
        jax.tree_util.tree_leaves_with_path(made),
        jax.tree_util.tree_leaves_with_path(expected),
        strict=True,
    ):
        assert leaf.sharding == other.sharding, path
        np.testing.assert_array_equal(
            np.asarray(leaf), np.asarray(other), err_msg=str(path)
        )
