"""Parameters that training leaves alone."""

from flax import nnx


class Frozen(nnx.Variable):
    """Of a model like nnx.Param, but no optimizer that is asked for those moves it."""
