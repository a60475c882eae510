"""What is timed in PyTorch, by name: each makes a function that runs it once."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.pytorch.cartesian import CartesianLayer, Model, Shape
from benchmarks.pytorch.training import AdamW, Training

Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One case: what, with which form of experts, how large, and whether with gradients."""

    kind: str
    """A name in CASES."""
    experts: str
    """transformers: eager, grouped_mm or batched_mm; our own: loop or grouped."""
    shape: Shape
    rows: int
    """Tokens of a layer, sequences of a model."""
    seq_len: int = 0
    backward: bool = True
    remat: bool = False
    """Of a model: compute each layer again in the backward pass."""
    optimizer: AdamW | None = None
    """Of a model."""


def layer_case(wanted: Wanted) -> Run:
    """The layer on [tokens, d_model], with the gradients of input and weights."""
    return _of_block(CartesianLayer(wanted.shape, wanted.experts), wanted, batched=False)


class Block(NamedTuple):
    """A mixture of transformers: where it lies, and how its config calls the sizes."""

    module: str
    config: str
    block: str
    width: str
    experts: str
    others: Mapping[str, int] = MappingProxyType({})
    """Further fields of the config."""
    shared_width: str = ""
    """The field that takes the width too, of a shared expert with a field of its own."""


BLOCKS = {
    "mixtral": Block(
        "mixtral",
        "MixtralConfig",
        "MixtralSparseMoeBlock",
        width="intermediate_size",
        experts="num_local_experts",
    ),
    "qwen2_moe": Block(
        "qwen2_moe",
        "Qwen2MoeConfig",
        "Qwen2MoeSparseMoeBlock",
        width="moe_intermediate_size",
        experts="num_experts",
        shared_width="shared_expert_intermediate_size",
    ),
    "deepseek_v3": Block(
        "deepseek_v3",
        "DeepseekV3Config",
        "DeepseekV3MoE",
        width="moe_intermediate_size",
        experts="n_routed_experts",
        others=MappingProxyType({"n_shared_experts": 1, "n_group": 1, "topk_group": 1}),
    ),
}
"""Top-k experts alone; with a gated shared expert; by sigmoid scores with a shared expert."""


def block_case(wanted: Wanted) -> Run:
    """A block of transformers on [1, tokens, d_model], with the gradients of input and weights."""
    known, shape = BLOCKS[wanted.kind], wanted.shape
    models = importlib.import_module(f"transformers.models.{known.module}.modeling_{known.module}")
    sizes = {known.width: shape.d_expert, known.experts: shape.experts, **known.others}
    if known.shared_width:
        sizes[known.shared_width] = shape.d_expert
    config = getattr(models, known.config)(
        hidden_size=shape.d_model, num_experts_per_tok=shape.top_k, **sizes
    )
    config._experts_implementation = wanted.experts
    return _of_block(getattr(models, known.block)(config), wanted, batched=True)


def model_step(wanted: Wanted) -> Run:
    """A training step of the whole model: gradients, clipping, fused AdamW."""
    model = Model(wanted.shape, wanted.experts, wanted.remat)
    _initialise(model, wanted.shape.std)
    training = Training(model, wanted.optimizer)
    tokens = torch.randint(wanted.shape.vocab_size, (wanted.rows, wanted.seq_len + 1))
    return lambda: training.step(tokens)


CASES: dict[str, Callable[[Wanted], Run]] = {
    "cartesian": layer_case,
    "model": model_step,
    **dict.fromkeys(BLOCKS, block_case),
}


def _initialise(module: nn.Module, std: float) -> None:
    """As ours: matrices are drawn, and gains and biases left at one and zero."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def _of_block(block: nn.Module, wanted: Wanted, *, batched: bool) -> Run:
    _initialise(block, wanted.shape.std)
    size = (wanted.rows, wanted.shape.d_model)
    x = torch.randn((1, *size) if batched else size, requires_grad=wanted.backward)
    if not wanted.backward:
        return torch.no_grad()(lambda: block(x))
    ones = torch.ones_like(x)

    def run() -> Tensor:
        block.zero_grad(set_to_none=True)
        x.grad = None
        output = block(x)
        output.backward(ones)
        return output

    return run
