import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cartesian_moe_jax.kernels import ACTIVATIONS, get_activation

X = np.linspace(-4, 4, 41, dtype=np.float32)
UP = np.linspace(2, -1, 41, dtype=np.float32)
EXPECTED = {
    "swiglu": X * special.expit(X) * UP,
    "geglu": X * special.ndtr(X) * UP,
    "reglu": np.maximum(X, 0) * UP,
    "gelu": UP * special.ndtr(UP),
    "relu": np.maximum(UP, 0),
}


def test_every_activation_is_checked():
    assert set(EXPECTED) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hidden_values(name):
    activation = get_activation(name)
    gate = jnp.asarray(X) if activation.gated else None
    np.testing.assert_allclose(
        activation.hidden(gate, jnp.asarray(UP)), EXPECTED[name], rtol=1e-5, atol=1e-6
    )


def test_unknown_name():
    with pytest.raises(ValueError, match=r"^activation='silu': must be one of swiglu, .*, relu$"):
        get_activation("silu")
