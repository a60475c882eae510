"""The code of docs/extending.md does what the page says of it."""

import re
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.kernels import FeedForwardWeights, grouped, grouped_feed_forward
from cartesian_moe_jax.models import methods
from cartesian_moe_jax.models.build import build_model
from cartesian_moe_jax.moe import routers
from cartesian_moe_jax.moe.routing import Scores
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.parallel import layouts
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import tiny

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
SOURCES = dict(re.findall(r"```python\n# (\S+?\.py)[^\n]*\n(.*?)```", PAGE, re.DOTALL))
TOKENS = np.random.default_rng(5).integers(0, 257, (8, 9), np.int32)


def read(file, **names):
    """What the block for ``file`` defines, with ``names`` there before."""
    exec(compile(textwrap.dedent(SOURCES[file]), file, "exec"), names)
    return names


def loss_of(config, layout=layouts.LAYOUTS["data"]):
    """The loss of the tiny model, and the gradients."""
    model = build_model(config, layout, seed=0)

    def loss(model):
        return jnp.mean(jnp.square(model(jnp.asarray(TOKENS))[0]))

    return jax.jit(jax.value_and_grad(loss))(model)


@pytest.fixture
def sigmoid_router(monkeypatch):
    router = read("moe/routers/sigmoid_top_k.py")["SigmoidTopK"]
    monkeypatch.setitem(routers.ROUTERS, "sigmoid_top_k", router)
    return router


def test_the_router_weighs_by_sigmoids(sigmoid_router):
    logits = jnp.log(jnp.array([[1.0, 3.0, 1 / 3]]))  # sigmoids of 1/2, 3/4 and 1/4
    router = sigmoid_router(SubLayerShape(8, 3, 2, 4), rngs=nnx.Rngs(0))
    routing = router.choose(Scores(logits, jax.nn.softmax(logits)))
    np.testing.assert_array_equal(routing.expert_ids, [[1, 0]])
    np.testing.assert_allclose(routing.weights, [[0.6, 0.4]], rtol=1e-6)


def test_the_router_is_trained(sigmoid_router):
    moe = {"router": "sigmoid_top_k"}
    _, gradients = loss_of(tiny.model_config(num_layers=1, init_std=0.3, moe=moe))
    router = gradients.segments[0].blocks[0].feed_forward.sublayers[0].router
    assert np.abs(router.weight[...]).max() > 0


def test_the_method_has_the_plain_layer_s_parameters():
    fields = read("models/methods.py", _fields=methods._fields)["METHOD"](
        methods.PlainLayer(d_ff=24, num_experts=4, top_k=2)
    )
    assert (fields["moe"]["sublayers"], fields["moe"]["d_expert"]) == (3, 8)


def test_the_layout_changes_no_loss():
    layout = read("parallel/layouts.py", Layout=layouts.Layout)["LAYOUT"]
    config = tiny.model_config(num_layers=1, init_std=0.3)
    expected, _ = loss_of(config)
    with jax.set_mesh(make_mesh(tiny.parallel(layout="expert", data=2, expert=4))):
        actual, _ = loss_of(config, layout)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_kernel_computes_what_the_reference_does(monkeypatch):
    kernel = read("kernels/one_by_one.py")["one_by_one_feed_forward"]
    monkeypatch.setattr(grouped, "BACKENDS", {**grouped.BACKENDS, "one_by_one": kernel})
    rng = np.random.default_rng(0)
    shapes = [(4, 5, 3), (4, 5, 3), (4, 3, 5), (9, 5)]
    *weights, rows = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    rows, sizes = rows.at[7:].set(jnp.nan), jnp.array([3, 0, 1, 3])

    def run(backend):
        def forward(rows, weights):
            named = {"activation": "swiglu", "backend": backend}
            return grouped_feed_forward(rows, sizes, weights, **named)

        output, pull = jax.vjp(forward, rows, FeedForwardWeights(*weights))
        return output, *pull(jnp.cos(jnp.arange(45.0)).reshape(9, 5))

    for one, other in zip(
        jax.tree.leaves(run("one_by_one")), jax.tree.leaves(run("reference")), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
