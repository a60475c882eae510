"""Zero-filled buffers for loops to write into."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num


def zero_buffers(
    group_sizes: Int[Array, "experts"],
    *likes: Num[Array, "..."] | jax.ShapeDtypeStruct,
    salt: int = 0,
) -> list[Num[Array, "..."]]:
    """Zeros of the shape and dtype of each of `likes`, varying over the axes of `group_sizes`.

    XLA makes equal constants once and copies them into each loop carry. The zeros made here come
    from numbers that it cannot know to be zero, so that every buffer is filled in place. Calls in
    one computation need salts as far apart as the buffers are many.
    """
    return [
        jnp.broadcast_to((group_sizes[0] < -1 - salt - index).astype(like.dtype), like.shape)
        for index, like in enumerate(likes)
    ]
