"""Trees of live arrays: numbers, what the compiled programs move, and every error."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.experimental import checkify
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import ttrace
from ttrace.backends.jax_backend import x64_scope
from ttrace.backends.live_arrays import compare_arrays, pair_kernel
from ttrace.backends.numpy_backend import compare_all
from ttrace.backends.placement import common_refinement, shared_sharding
from ttrace.compare.backend import ArrayPair
from ttrace.errors import DivergedError, DtypeError, UsageError
from ttrace.ir.dtypes import DTYPES
from ttrace.testing.backend_values import FAMILIES, cast

P = PartitionSpec
SHAPE = (64, 32)


def mesh(axis_type: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type, axis_type))


def put(array: np.ndarray, spec: PartitionSpec | None, on: Mesh | None = None) -> Any:
    """On a mesh of 8 devices, or, without a spec, on one."""
    if spec is None:
        return jax.device_put(array, jax.devices()[3])
    return jax.device_put(array, NamedSharding(on or mesh(), spec))


def noisy_pair(shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal(shape).astype(np.float32)
    noise = 1e-3 * rng.standard_normal(shape).astype(np.float32)
    return reference, reference * (1 + noise)


def assert_as_the_oracle(
    leaf: Any, reference: np.ndarray, candidate: np.ndarray, *, error: float, what: str
) -> None:
    stats = compare_all(ArrayPair(reference=reference, candidate=candidate))
    for name in ("num_unequal", "num_nonfinite_reference", "num_nonfinite_candidate"):
        assert int(getattr(leaf, name)) == getattr(stats, name), f"{what}: {name}"
    for name in ("reference_norm", "candidate_norm", "difference_norm", "max_abs_diff"):
        actual, expected = float(getattr(leaf, name)), getattr(stats, name)
        assert math.isclose(actual, expected, rel_tol=error, abs_tol=1e-37), (
            f"{what}: {name} is {actual}, not {expected}"
        )


SPECS = [
    (P("x", "y"), P("x", "y")),
    (P("x", "y"), P("y", "x")),
    (P("x"), P(None, "x")),
    (P("x"), P(None, "y")),
    (P(("x", "y")), P("x", "y")),
    (P(("x", "y")), P(("y", "x"))),
    (P("y"), P()),
    (P(), P("x", "y")),
    (P(), P()),
    (None, P("x", "y")),
    (P(None, "x"), None),
    (None, None),
]


@pytest.mark.parametrize(("left", "right"), SPECS)
def test_any_two_shardings_give_the_same_numbers(left: Any, right: Any) -> None:
    reference, candidate = noisy_pair()
    result = compare_arrays(put(reference, left), put(candidate, right), tolerance=1e-2)
    (leaf,) = result
    assert_as_the_oracle(leaf, reference, candidate, error=1e-12, what="sharded")
    assert leaf.rel_err == pytest.approx(1e-3, rel=0.1)
    assert result.diverged is leaf.diverged is False


COLLECTIVE = re.compile(
    r"= (?P<shape>.*?) "
    r"(?P<op>all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    r"|collective-broadcast)(?:-start)?\("
)


def compiled_pair(left: PartitionSpec, right: PartitionSpec) -> Any:
    reference, candidate = noisy_pair()
    sides = put(reference, left), put(candidate, right)
    kernel = pair_kernel(shared_sharding(*sides), may_reassociate=True)
    with x64_scope(True):
        return kernel.lower(*sides).compile()


def collectives(compiled: Any) -> list[tuple[str, list[int]]]:
    """Each collective of a program, and the sizes of the arrays that it gives."""
    return [
        (
            match["op"],
            [
                math.prod(map(int, filter(None, dims.split(","))))
                for dims in re.findall(r"\w+\[([\d,]*)\]", match["shape"])
            ],
        )
        for match in COLLECTIVE.finditer(compiled.as_text())
    ]


@pytest.mark.parametrize("spec", [P("x", "y"), P(("x", "y")), P(None, "x")])
def test_equal_shardings_reduce_scalars_and_nothing_else(spec: PartitionSpec) -> None:
    found = collectives(compiled_pair(spec, spec))
    assert found, "shards are summed up somewhere"
    assert {op for op, _ in found} == {"all-reduce"}
    assert all(size == 1 for _, sizes in found for size in sizes)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (left, right)
        for left, right in SPECS
        if left is not None and right is not None and left != right
    ],
)
def test_no_array_is_gathered(left: PartitionSpec, right: PartitionSpec) -> None:
    found = collectives(compiled_pair(left, right))
    assert not [op for op, _ in found if op == "all-gather"]
    whole = math.prod(SHAPE)
    assert all(size < whole for _, sizes in found for size in sizes)


def test_the_collectives_of_a_gather_are_seen() -> None:
    """So that the tests above can fail."""
    array = put(noisy_pair()[0], P("x", "y"))
    gathered = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh(), P()))
    found = collectives(gathered.lower(array).compile())
    assert ("all-gather", [math.prod(SHAPE)]) in found


def test_little_memory_beside_the_arrays() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1 << 20,)).astype(np.float32)
    array = put(values, P("x"))
    kernel = pair_kernel(array.sharding, may_reassociate=True)
    with x64_scope(True):
        compiled = kernel.lower(array, array).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < values.nbytes // 4 // 8, "of a shard"


FAMILIES_OF_LEAVES = (
    "normal",
    "mixed",
    "huge",
    "one differs",
    "signed zero",
    "reference zero",
    "inf",
    "nan both",
)
"""Each is a part of one program: compiled anew for every dtype."""


@pytest.mark.parametrize(
    ("name", "other"),
    [(name, name) for name in DTYPES]
    + [("bfloat16", "float32"), ("int64", "int32"), ("uint64", "float32")]
    + [("float8_e4m3fn", "float16"), ("float32", "float64")],
)
def test_parity_with_the_oracle(name: str, other: str) -> None:
    rng = np.random.default_rng(0)
    pairs = {
        f"{family} {size}": tuple(
            cast(side, dtype)
            for side, dtype in zip(
                FAMILIES[family](rng, size), (name, other), strict=True
            )
        )
        for family, size in [*((f, 600) for f in FAMILIES_OF_LEAVES), ("normal", 0)]
    }
    references = {key: pair[0] for key, pair in pairs.items()}
    candidates = {key: pair[1] for key, pair in pairs.items()}
    result = compare_arrays(references, candidates, tolerance=0.0)
    assert len(result.leaves) == len(pairs)
    for leaf in result:
        key = leaf.path
        assert_as_the_oracle(leaf, *pairs[key], error=1e-12, what=key)
        is_nonfinite = leaf.num_nonfinite_reference + leaf.num_nonfinite_candidate > 0
        assert leaf.diverged is (leaf.num_unequal > 0 or is_nonfinite), key


def test_denormals_are_told_apart() -> None:
    reference = np.full(8, 1e-40, np.float32)
    candidate = reference.copy()
    candidate[3] = 2e-40
    (leaf,) = compare_arrays(reference, candidate, tolerance=0)
    assert leaf.num_unequal == 1 and leaf.diverged


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "int32", "bool"])
def test_parity_inside_of_a_jitted_function(name: str) -> None:
    rng = np.random.default_rng(0)
    families = ["normal", "tiny", "huge", "equal", "inf", "nan left", "reference zero"]
    pairs = {
        family: tuple(cast(side, name) for side in FAMILIES[family](rng, 600))
        for family in families
    }
    references = {key: jnp.asarray(pair[0]) for key, pair in pairs.items()}
    candidates = {key: jnp.asarray(pair[1]) for key, pair in pairs.items()}

    @jax.jit
    def step(r: Any, c: Any) -> Any:
        return compare_arrays(r, c, tolerance=1e-3)

    for leaf in step(references, candidates):
        assert_as_the_oracle(leaf, *pairs[leaf.path], error=1e-5, what=leaf.path)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_inside_of_a_jitted_function_shards_stay(axis_type: AxisType) -> None:
    reference, candidate = noisy_pair()
    on = mesh(axis_type)
    sides = [put(side, P("x", "y"), on) for side in (reference, candidate)]
    step = jax.jit(lambda r, c: compare_arrays(r, c, tolerance=1e-4))
    assert {op for op, _ in collectives(step.lower(*sides).compile())} == {"all-reduce"}
    result = step(*sides)
    assert bool(result.diverged)
    with pytest.raises(DivergedError, match="1 of 1 arrays diverged"):
        result.raise_if_diverged()


def test_explicit_shardings_that_differ_inside_of_a_jitted_function() -> None:
    reference, candidate = noisy_pair()
    on = mesh(AxisType.Explicit)
    step = jax.jit(lambda r, c: compare_arrays(r, c, tolerance=1e-2))
    result = step(put(reference, P("x", "y"), on), put(candidate, P("y", "x"), on))
    assert not bool(result.diverged)


def test_a_training_loop_can_act_on_it() -> None:
    reference, candidate = map(jnp.asarray, noisy_pair())

    @jax.jit
    def step(r: Any, c: Any) -> Any:
        result = compare_arrays({"w": r}, {"w": c}, tolerance=1e-4)
        return jax.lax.cond(result.diverged, lambda: r, lambda: c)

    np.testing.assert_array_equal(step(reference, candidate), reference)
    np.testing.assert_array_equal(step(reference, reference), reference)

    def checked(r: Any, c: Any) -> None:
        result = compare_arrays(r, c, tolerance=1e-4)
        checkify.check(~result.diverged, "diverged")

    error, _ = jax.jit(checkify.checkify(checked))(reference, candidate)
    assert error.get() is not None
    error, _ = jax.jit(checkify.checkify(checked))(reference, reference)
    assert error.get() is None


def test_leaves_that_look_the_same_share_a_program() -> None:
    reference, candidate = noisy_pair((40, 8))
    compiled = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if "backend_compile" in event:
            compiled.append(duration_secs)

    trees = [
        {f"w{i:02}": put(side, P("x")) for i in range(12)}
        for side in (reference, candidate)
    ]
    jax.monitoring.register_event_duration_secs_listener(listen)
    result = compare_arrays(*trees, tolerance=1)
    assert [leaf.path for leaf in result] == [f"w{i:02}" for i in range(12)]
    assert len(compiled) == 1
    assert compare_arrays(*trees, tolerance=1) == result
    assert len(compiled) == 1


def test_trees_of_all_kinds_of_arrays() -> None:
    reference, candidate = noisy_pair()
    tree = {
        "layers": [torch.from_numpy(reference).requires_grad_(), jnp.arange(3)],
        "scale": 2.0,
    }
    other = {
        "layers": [candidate, torch.arange(3)],
        "scale": np.float32(2),
    }
    result = compare_arrays(tree, other, tolerance={"layers": 1e-2, "scale": 0})
    assert [leaf.path for leaf in result] == ["layers.0", "layers.1", "scale"]
    assert not result.diverged
    assert result["layers.0"].tolerance == 1e-2
    assert result["layers.0"].rel_err == pytest.approx(1e-3, rel=0.1)
    with pytest.raises(KeyError):
        result["layers.7"]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64]
)
def test_torch_keeps_its_dtype(dtype: torch.dtype) -> None:
    tensor = torch.arange(8).to(dtype)
    (leaf,) = compare_arrays(tensor, tensor.clone(), tolerance=0)
    assert leaf.reference_dtype == str(dtype).removeprefix("torch.")
    assert not leaf.diverged


def test_a_transposed_tensor_of_torch() -> None:
    reference, candidate = noisy_pair()
    (leaf,) = compare_arrays(
        torch.from_numpy(reference).t()[1:], candidate.T[1:], tolerance=1
    )
    assert_as_the_oracle(
        leaf, reference.T[1:], candidate.T[1:], error=1e-12, what="transposed"
    )


def test_large_sums_lose_nothing() -> None:
    reference = np.full(1 << 24, 0.1, np.float32)
    candidate = np.full(1 << 24, 0.1001, np.float32)
    (leaf,) = compare_arrays(reference, candidate, tolerance=1)
    assert_as_the_oracle(leaf, reference, candidate, error=1e-11, what="constant")
    inside = jax.jit(lambda r, c: compare_arrays(r, c, tolerance=1))
    (leaf,) = inside(reference, candidate)
    assert_as_the_oracle(leaf, reference, candidate, error=1e-4, what="in float32")


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 3 * 4096 + 5])
def test_sizes_around_blocks(size: int) -> None:
    reference, candidate = noisy_pair((size,))
    (leaf,) = compare_arrays(reference, candidate, tolerance=1)
    assert_as_the_oracle(leaf, reference, candidate, error=1e-13, what=str(size))


def test_how_it_prints() -> None:
    reference, candidate = noisy_pair()
    broken = candidate.copy()
    broken[0, :3] = np.nan
    result = compare_arrays(
        {"a": reference, "b": reference, "c": reference},
        {"a": reference, "b": candidate, "c": broken},
        tolerance=1e-4,
    )
    lines = str(result).splitlines()
    assert lines[0] == "2 of 3 arrays diverged"
    assert lines[1] == "  ok        a  rel_err 0  tolerance 0.0001"
    assert re.fullmatch(r"  DIVERGED  b  rel_err 0\.00\d+  tolerance 0.0001", lines[2])
    assert lines[3].endswith("  3 of 2048 not finite in the candidate")
    with pytest.raises(DivergedError) as caught:
        result.raise_if_diverged()
    text = str(caught.value)
    assert text.startswith("2 of 3 arrays diverged")
    assert text.index("  c  ") < text.index("  b  "), "not finite is worst"
    assert isinstance(caught.value, AssertionError)


def test_many_diverged_are_not_all_named() -> None:
    tree = {f"w{i:02}": np.ones(3) for i in range(20)}
    other = {name: 2 * value for name, value in tree.items()}
    with pytest.raises(DivergedError, match="and 12 more"):
        compare_arrays(tree, other, tolerance=0.1).raise_if_diverged()


def test_raising_inside_of_a_jitted_function_is_an_error() -> None:
    def step(r: Any, c: Any) -> None:
        result = compare_arrays(r, c, tolerance=0)
        assert "not known until" in str(result)
        result.raise_if_diverged()

    with pytest.raises(UsageError, match="not known inside of a jitted function"):
        jax.jit(step)(jnp.ones(3), jnp.ones(3))


ONES = np.ones(3, np.float32)
ERRORS = {
    "a leaf is missing": (
        {"a": {"b": ONES, "c": ONES}},
        {"a": {"b": ONES}},
        0,
        r"same leaves\n  where:    a\.c\n.*2 leaves in the reference\n.*none in",
    ),
    "a leaf is additional": (
        [ONES],
        [ONES, ONES],
        0,
        r"same leaves\n  where:    1\n.*\n.*none in the reference",
    ),
    "empty": ({}, {}, 0, "no arrays to compare"),
    "shapes": (
        {"w": ONES},
        {"w": np.ones((3, 1))},
        0,
        r"same shape\n  where:    w\n  expected: \[3\].*\n  got:      \[3, 1\]",
    ),
    "tolerance of no number": ([ONES], [ONES], ["much"], "got:      'much'"),
    "negative tolerance": ([ONES], [ONES], -1e-3, "expected: a finite number of 0"),
    "tolerance of NaN": (ONES, ONES, math.nan, "where:    the array"),
    "tree of tolerances": (
        {"a": ONES, "b": ONES},
        {"a": ONES, "b": ONES},
        {"a": 0.1},
        "tree of tolerances does not fit",
    ),
}


@pytest.mark.parametrize("case", list(ERRORS))
def test_errors(case: str) -> None:
    reference, candidate, tolerance, message = ERRORS[case]
    with pytest.raises(UsageError, match=message):
        compare_arrays(reference, candidate, tolerance=tolerance)


@pytest.mark.parametrize(
    "value", [np.ones(3, complex), np.array(["a"]), jnp.ones(3, complex)]
)
def test_dtypes_that_are_not_compared(value: Any) -> None:
    with pytest.raises(DtypeError, match="dtype are not compared") as caught:
        compare_arrays([value], [value], tolerance=0)
    assert "where:    0 of the reference" in str(caught.value)
    assert "trace" not in str(caught.value) and "filter" not in str(caught.value)


@pytest.mark.parametrize("is_traced", [False, True])
def test_random_keys_are_compared_by_their_numbers(is_traced: bool) -> None:
    def diverged(*seeds: int) -> bool:
        sides = [{"key": jax.random.key(seed), "w": ONES} for seed in seeds]

        def compare(reference: Any, candidate: Any) -> Any:
            result = compare_arrays(reference, candidate, tolerance=0)
            return result.leaves[0].diverged

        return bool((jax.jit(compare) if is_traced else compare)(*sides))

    assert not diverged(0, 0)
    assert diverged(0, 1)


def test_one_leaf_is_a_leaf() -> None:
    with pytest.raises(UsageError, match="which has 1 leaf and lacks 1 of these"):
        compare_arrays({"a": ONES, "b": ONES}, {"a": ONES}, tolerance=0)


def test_a_tensor_that_jax_cannot_share() -> None:
    tensor = torch.empty(3, device="meta")
    with pytest.raises(UsageError, match="cannot share the memory") as caught:
        compare_arrays({"w": tensor}, {"w": ONES}, tolerance=0)
    assert "where:    w of the reference" in str(caught.value)


def test_refinements() -> None:
    assert common_refinement((("x",), ()), ((), ("y",))) == (("x",), ("y",))
    assert common_refinement((("x", "y"), ()), (("x",), ())) == (("x", "y"), ())
    assert common_refinement((("x",), ()), ((), ("x",))) is None
    assert common_refinement((("x",),), (("y",),)) is None


def test_exported_from_ttrace_when_asked_for() -> None:
    assert getattr(ttrace, "compare_arrays") is compare_arrays  # noqa: B009
    assert "compare_arrays" in dir(ttrace)
