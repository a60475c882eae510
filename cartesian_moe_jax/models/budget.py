"""What a model costs: parameters and floating-point operations, counted from its shapes.

A token's share of the routed experts is ``experts_per_token`` of them in each sub-layer. Where it
is not given, it is what the router says: k, and of a router that chooses a varying number (top_p)
the most that it can choose, so that the counts are upper bounds.
"""

import re
from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models.feed_forwards import sublayer_shape
from cartesian_moe_jax.moe.routers import router_named

BACKWARD_AND_FORWARD = 3
"""Training costs three forwards: the backward pass does two matmuls for each one."""

NOT_MULTIPLIED = re.compile(r"(^embedding|gain|bias|(^|/)table|router/unused)$")
"""Parameters that are looked up, elementwise, or not read at all."""


def total_parameters(parameters: Mapping[str, Any]) -> int:
    """Count all parameters."""
    return sum(value.size for value in parameters.values())


def active_parameters(
    parameters: Mapping[str, Any], config: ModelConfig, experts_per_token: int | float | None = None
) -> int:
    """Count the parameters that one token uses: its share of the routed experts, all the rest."""
    if experts_per_token is None:
        experts_per_token = router_named(config.moe.router).slots(sublayer_shape(config))
    routed = sum(value.size for name, value in parameters.items() if "/experts/" in name)
    per_expert = routed // config.moe.num_experts
    idle = config.moe.num_experts - experts_per_token
    return total_parameters(parameters) - round(per_expert * idle)


def forward_flops_per_token(
    parameters: Mapping[str, Any],
    config: ModelConfig,
    seq_len: int,
    experts_per_token: int | float | None = None,
) -> float:
    """Count matmul FLOPs of one token's forward pass (a multiply-add is 2)."""
    matrices = matrix_flops_per_token(parameters, config, experts_per_token)
    return matrices + attention_flops_per_token(config, seq_len)


def matrix_flops_per_token(
    parameters: Mapping[str, Any], config: ModelConfig, experts_per_token: int | float | None = None
) -> int:
    """Count two per active matrix element: embeddings are looked up, gains are elementwise."""
    matrices = {n: value for n, value in parameters.items() if not NOT_MULTIPLIED.search(n)}
    return 2 * active_parameters(matrices, config, experts_per_token)


def attention_flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Count scores and values: the mean position reads (seq_len + 1) / 2 others."""
    return 4 * config.d_model * (seq_len + 1) / 2 * config.num_layers


def training_flops_per_token(
    parameters: Mapping[str, Any],
    config: ModelConfig,
    seq_len: int,
    experts_per_token: int | float | None = None,
) -> float:
    """Count FLOPs of training on one token, without recomputation: model FLOPs, as MFU wants."""
    forward = forward_flops_per_token(parameters, config, seq_len, experts_per_token)
    return BACKWARD_AND_FORWARD * forward
