"""What one sub-layer is made of."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SubLayerShape:
    """Sizes and choices of one MoE sub-layer; config.py says what each means."""

    d_model: int
    num_experts: int
    top_k: int
    d_expert: int
    activation: str = "swiglu"
    shared_expert: bool = True
    init_std: float = 0.01
    backend: str = "auto"
    router: str = "softmax_top_k"
    top_p: float = 0.4
    table_rows: int = 0
    """Rows of a hash router's own table; 0: it reads the table in its context."""
    shared_feed_forwards: int = 1
