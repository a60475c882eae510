import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from cartesian_moe_jax.kernels import (
    ACTIVATIONS,
    BACKENDS,
    FeedForwardWeights,
    grouped_feed_forward,
)

ROWS, EXPERTS, D_MODEL, D_EXPERT = 700, 6, 20, 12
SIZES = {
    "uneven": [130, 1, 77, 257, 35, 200],
    "empty experts": [0, 300, 0, 0, 400, 0],
    "one hot expert": [0, 0, 700, 0, 0, 0],
    "around tile heights": [32, 64, 160, 161, 31, 33],
    "everything empty": [0, 0, 0, 0, 0, 0],
    "rows behind the live ones": [0, 40, 3, 256, 0, 129],
}
# Fewer rows use fewer tile heights, which compile faster.
FEW_ROWS, FEW_SIZES = 100, [33, 0, 1, 40, 0, 20]
TOLERANCE = 2e-5  # of float32, relative to the largest value: sums are taken in another order
FAST = [name for name in BACKENDS if name != "reference"]
BFLOAT16_TOLERANCE = 2e-2  # five roundings of 2^-9 in a chain of three matmuls, and a margin


def make_arguments(rows=ROWS, experts=EXPERTS, gated=True, seed=0):
    """Rows, weights, and a cotangent of the output."""
    key = jax.random.split(jax.random.key(seed), 5)
    up_shape = (experts, D_MODEL, D_EXPERT)
    gate, up = (jax.random.normal(k, up_shape) / D_MODEL**0.5 for k in key[:2])
    down = jax.random.normal(key[2], (experts, D_EXPERT, D_MODEL)) / D_EXPERT**0.5
    x, cotangent = (jax.random.normal(k, (rows, D_MODEL)) for k in key[3:])
    return x, FeedForwardWeights(gate if gated else None, up, down), cotangent


@functools.partial(jax.jit, static_argnames=("activation", "backend"))
def run(rows, group_sizes, weights, cotangent, activation="swiglu", backend="tiled"):
    """The output and the gradients of rows and weights."""

    def forward(rows, weights):
        return grouped_feed_forward(
            rows, group_sizes, weights, activation=activation, backend=backend
        )

    output, pull = jax.vjp(forward, rows, weights)
    return output, pull(cotangent)


def assert_close(actual, expected, tolerance=TOLERANCE):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(
        jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        a, e = (np.asarray(value, np.float32) for value in (a, e))
        np.testing.assert_allclose(
            a,
            e,
            rtol=0,
            atol=tolerance * max(1, np.abs(e).max()),
            err_msg=jax.tree_util.keystr(path),
        )


def by_hand(rows, group_sizes, weights):
    """SwiGLU in numpy, one row at a time."""
    experts = np.repeat(np.arange(len(group_sizes)), group_sizes)
    output = np.zeros_like(rows)
    for row, e in enumerate(experts):
        gate, up = rows[row] @ weights.gate[e], rows[row] @ weights.up[e]
        output[row] = (gate / (1 + np.exp(-gate)) * up) @ weights.down[e]
    return output


def test_reference_follows_the_definition():
    rows, weights, _ = make_arguments(rows=30)
    sizes = [4, 0, 9, 1, 0, 12]
    output = grouped_feed_forward(
        rows, jnp.array(sizes), weights, activation="swiglu", backend="reference"
    )
    expected = by_hand(np.asarray(rows), sizes, jax.tree.map(np.asarray, weights))
    assert_close(output, expected)


def assert_matches_reference(rows, sizes, activation="swiglu", backend="tiled"):
    x, weights, cotangent = make_arguments(rows, len(sizes), ACTIVATIONS[activation].gated)
    actual, expected = (
        run(x, jnp.array(sizes), weights, cotangent, activation, backend)
        for backend in (backend, "reference")
    )
    assert_close(actual, expected)


@pytest.mark.parametrize("activation", ["swiglu", pytest.param("gelu", marks=pytest.mark.long)])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("backend", FAST)
def test_matches_reference(activation, sizes, backend):
    assert_matches_reference(ROWS, sizes, activation, backend)


@pytest.mark.parametrize("backend", FAST)
def test_without_a_gate_it_matches_the_reference(backend):
    assert_matches_reference(ROWS, SIZES["uneven"], "gelu", backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [FEW_SIZES, [0, 0, 100, 0, 0, 0], [0] * 6], ids=str)
def test_every_activation_matches_reference(activation, sizes):
    assert_matches_reference(FEW_ROWS, sizes, activation)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_behind_the_live_ones_are_ignored(backend):
    rows, weights, cotangent = make_arguments()
    group_sizes = jnp.array(SIZES["rows behind the live ones"])
    live = int(group_sizes.sum())
    clean = run(rows, group_sizes, weights, cotangent, backend=backend)
    garbage = jnp.where(jnp.arange(ROWS)[:, None] < live, 0, jnp.nan)
    dirty = run(rows + garbage, group_sizes, weights, cotangent + garbage, backend=backend)
    assert_close(dirty, clean, tolerance=0)
    output, (d_rows, _) = dirty
    assert not output[live:].any() and not d_rows[live:].any()


@pytest.mark.parametrize(
    ("rows", "sizes"), [(7, [0, 2, 0, 1, *[0] * 14, 3, 1]), (1, [0, 1, 0]), (33, [1] * 33)]
)
@pytest.mark.parametrize("backend", FAST)
def test_more_experts_than_rows_and_fewer_rows_than_a_tile(rows, sizes, backend):
    assert_matches_reference(rows, sizes, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_experts_that_lie_among_those_of_other_layers(backend):
    rows, weights, _ = make_arguments(FEW_ROWS, 3 * EXPERTS)
    forward = functools.partial(grouped_feed_forward, activation="swiglu", backend=backend)
    for layer in (0, 2):
        begin = layer * EXPERTS
        own = jax.tree.map(lambda w, begin=begin: w[begin : begin + EXPERTS], weights)
        expected = forward(rows, jnp.array(FEW_SIZES), own)
        found = forward(rows, jnp.array(FEW_SIZES), weights, first=jnp.array(begin))
        assert_close(found, expected, tolerance=1e-6)


def test_value_without_gradient():
    rows, weights, _ = make_arguments(FEW_ROWS)
    group_sizes = jnp.array(FEW_SIZES)
    actual, expected = (
        grouped_feed_forward(rows, group_sizes, weights, activation="swiglu", backend=backend)
        for backend in ("auto", "reference")
    )
    assert_close(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weights_dtype", [jnp.float32, jnp.bfloat16])
def test_bfloat16_is_near_float32(weights_dtype, backend):
    """Both get the same inputs, rounded to bfloat16; the comparison is the float32 reference."""
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_arguments(FEW_ROWS))
    rows, weights, cotangent = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    group_sizes = jnp.array(FEW_SIZES)
    expected = run(rows, group_sizes, weights, cotangent, backend="reference")
    weights = jax.tree.map(lambda x: x.astype(weights_dtype), weights)
    actual = run(narrow[0], group_sizes, weights, narrow[2], backend=backend)
    output, (d_rows, d_weights) = actual
    assert output.dtype == d_rows.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in d_weights} == {jnp.dtype(weights_dtype)}
    assert_close(actual, expected, BFLOAT16_TOLERANCE)


@pytest.mark.parametrize("sizes", [[900, 500], [512, 576], [0, 1400], [640, 641]])
def test_tall_tiles_match_reference(sizes):
    rows, weights, cotangent = make_arguments(rows=1400, experts=2)
    sizes = jnp.array(sizes)
    assert_close(
        run(rows, sizes, weights, cotangent),
        run(rows, sizes, weights, cotangent, backend="reference"),
    )


@pytest.mark.parametrize("backend", FAST)
def test_weight_gradients_accumulate_in_float32(backend):
    """2048 equal terms: a bfloat16 sum would stop growing after 256."""
    rows = jnp.ones((2048, 4), jnp.bfloat16)
    weights = FeedForwardWeights(None, jnp.ones((1, 4, 4)) / 4, jnp.ones((1, 4, 4)))
    _, (_, d_weights) = run(rows, jnp.array([2048]), weights, rows, "relu", backend)
    np.testing.assert_array_equal(d_weights.down, np.full((1, 4, 4), 2048))


@pytest.mark.parametrize("split", ["weights on every device", "experts split over the devices"])
@pytest.mark.parametrize("backend", FAST)
def test_shard_map(split, backend):
    """Two devices, each with its own rows, match two runs on one device."""
    mesh = jax.make_mesh((2,), ("expert",), axis_types=(AxisType.Auto,))
    shared = split == "weights on every device"
    rows, weights, cotangent = make_arguments(2 * FEW_ROWS, EXPERTS if shared else 2 * EXPERTS)
    group_sizes = jnp.array([*FEW_SIZES, 0, 60, 0, 5, 5, 30])

    def per_device(backend, rows, group_sizes, weights):
        return grouped_feed_forward(
            rows, group_sizes, weights, activation="swiglu", backend=backend
        )

    sharded, replicated = PartitionSpec("expert"), PartitionSpec()
    specs = (sharded, sharded, replicated if shared else sharded)

    @functools.partial(jax.jit, static_argnums=0)
    def mapped(backend, rows, group_sizes, weights, cotangent):
        forward = jax.shard_map(
            functools.partial(per_device, backend),
            mesh=mesh,
            in_specs=specs,
            out_specs=sharded,
            check_vma=True,
        )
        output, pull = jax.vjp(lambda r, w: forward(r, group_sizes, w), rows, weights)
        return output, pull(cotangent)

    def take(tree, device, size):
        return jax.tree.map(lambda x: x[device * size : (device + 1) * size], tree)

    parts = [
        run(
            *take((rows,), device, FEW_ROWS),
            *take((group_sizes,), device, EXPERTS),
            weights if shared else take(weights, device, EXPERTS),
            *take((cotangent,), device, FEW_ROWS),
            backend="reference",
        )
        for device in range(2)
    ]
    output, d_rows = (
        jnp.concatenate(x) for x in zip(*[(y, d_rows) for y, (d_rows, _) in parts], strict=True)
    )
    d_weights = jax.tree.map(
        (lambda a, b: a + b) if shared else (lambda a, b: jnp.concatenate([a, b])),
        parts[0][1][1],
        parts[1][1][1],
    )
    actual = mapped(backend, rows, group_sizes, weights, cotangent)
    assert_close(actual, (output, (d_rows, d_weights)))


@pytest.mark.parametrize("backend", FAST)
def test_scanned_and_rematerialised_layers(backend):
    """In each of them two devices run the same experts, each on its own rows."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows, weights, cotangent = make_arguments(2 * FEW_ROWS, 3 * EXPERTS)
    stacked = jax.tree.map(lambda w: w.reshape(3, EXPERTS, *w.shape[1:]), weights)
    group_sizes = jnp.array([*FEW_SIZES, 0, 60, 0, 5, 5, 30])

    def loss(rows, stacked, backend, wrap):
        def layer(x, weights):
            run_each = functools.partial(grouped_feed_forward, activation="swiglu", backend=backend)
            split, whole = PartitionSpec("data"), PartitionSpec()
            run = jax.shard_map(
                run_each, mesh=mesh, in_specs=(split, split, whole), out_specs=split
            )
            return x + run(x, group_sizes, weights), None

        return jnp.sum(jax.lax.scan(wrap(layer), rows, stacked)[0] * cotangent)

    grad = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=(2, 3))
    assert_close(
        grad(rows, stacked, backend, jax.checkpoint),
        grad(rows, stacked, "reference", lambda layer: layer),
        tolerance=1e-4,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_temporary_memory_does_not_grow_with_the_experts(dtype):
    def temporary_bytes(experts):
        rows, weights, cotangent = make_arguments(FEW_ROWS, experts)
        rows, cotangent = rows.astype(dtype), cotangent.astype(dtype)
        lowered = run.lower(rows, jnp.zeros(experts, int), weights, cotangent)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(8), temporary_bytes(64)
    tables = 64 * 8 * 4  # the group bounds: a few integers per expert
    assert many - few <= tables


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "silu"}, r"activation='silu': must be one of swiglu, "),
        ({"backend": "dense"}, r"backend='dense': must be one of auto, reference, native, tiled"),
        ({"activation": "relu"}, r"weights.gate=array: must be None for activation='relu'"),
    ],
)
def test_errors_name_the_field_and_the_choices(changes, message):
    rows, weights, _ = make_arguments(rows=8)
    options = {"activation": "swiglu", **changes}
    with pytest.raises(ValueError, match=message):
        grouped_feed_forward(rows, jnp.zeros(EXPERTS, int), weights, **options)
