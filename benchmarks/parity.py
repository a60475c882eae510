"""That PyTorch's CartesianMoE layer computes what ours does: else its times would prove nothing."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from cartesian_moe_jax import CartesianProductLayer, SubLayerShape

SHAPE = {"d_model": 32, "d_expert": 24, "experts": 6, "top_k": 2}
TOKENS, SUBLAYERS = 50, 2
LARGEST = 1e-4
"""Largest difference of outputs, of the order of 1, that float32 explains."""


class Computes(Protocol):
    """PyTorch's process."""

    def compute(self, form: str, shape: Mapping[str, int], file: Path) -> Path:
        """Load weights and input x from an .npz; return the .npy file of the output."""


def torch_weights(layer: CartesianProductLayer) -> dict[str, Float[np.ndarray, "..."]]:
    """Return the layer's weights under the names and in the layout of benchmarks/pytorch."""
    found = {}
    for i, (norm, sublayer) in enumerate(zip(layer.norms, layer.sublayers, strict=True)):
        experts, shared = sublayer.experts, sublayer.shared_expert
        dense = shared.feed_forward
        both = np.concatenate([dense.gate[...].T, dense.up[...].T])
        found[f"norms.{i}.weight"] = norm.gain[...]
        own = {
            "router.weight": sublayer.router.weight[...].T,
            "gate": experts.gate[...],
            "up": experts.up[...],
            "down": experts.down[...],
            "shared_in.weight": both,
            "shared_out.weight": dense.down[...].T,
            "coefficient.weight": shared.coefficient[...].T,
            "coefficient.bias": shared.bias[...],
        }
        found |= {f"sublayers.{i}.{name}": value for name, value in own.items()}
    return {name: np.asarray(value) for name, value in found.items()}


def difference(torch: Computes, form: str) -> float:
    """Return the largest difference of the outputs for one input and equal weights."""
    sizes = (SHAPE[name] for name in ("d_model", "experts", "top_k", "d_expert"))
    layer = CartesianProductLayer(SubLayerShape(*sizes, init_std=0.3), SUBLAYERS, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (TOKENS, SHAPE["d_model"]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        np.savez(file, x=np.asarray(x), **torch_weights(layer))
        theirs = np.load(torch.compute(form, SHAPE, file))
    return float(np.abs(theirs - layer(x)[0]).max())


def check(torch: Computes, form: str) -> str:
    """Return a line on the difference; SystemExit where it is too large."""
    found = difference(torch, form)
    if not found <= LARGEST:
        raise SystemExit(f"PyTorch's {form} layer differs from ours by {found:.1e}: not comparable")
    return f"PyTorch's {form} layer differs from ours by {found:.1e} at equal weights"
