"""What is timed in PyTorch, by name: each makes a function that runs it once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pytorch.cartesian import CartesianLayer, Model, Shape

Run = Callable[[], Any]
LEARNING_RATE, DECAY, CLIP = 1e-3, 0.1, 1.0


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


def layer_case(wanted: Wanted) -> Run:
    """The layer on [tokens, d_model], with the gradients of input and weights."""
    return _of_block(CartesianLayer(wanted.shape, wanted.experts), wanted, batched=False)


def mixtral(wanted: Wanted) -> Run:
    """Top-k experts of transformers' Mixtral."""
    from transformers.models.mixtral import modeling_mixtral as m

    s = wanted.shape
    config = m.MixtralConfig(
        hidden_size=s.d_model,
        intermediate_size=s.d_expert,
        num_local_experts=s.experts,
        num_experts_per_tok=s.top_k,
    )
    config._experts_implementation = wanted.experts
    return _of_block(m.MixtralSparseMoeBlock(config), wanted, batched=True)


def qwen2_moe(wanted: Wanted) -> Run:
    """Top-k experts and a gated shared one, of transformers' Qwen2-MoE."""
    from transformers.models.qwen2_moe import modeling_qwen2_moe as m

    s = wanted.shape
    config = m.Qwen2MoeConfig(
        hidden_size=s.d_model,
        moe_intermediate_size=s.d_expert,
        shared_expert_intermediate_size=s.d_expert,
        num_experts=s.experts,
        num_experts_per_tok=s.top_k,
    )
    config._experts_implementation = wanted.experts
    return _of_block(m.Qwen2MoeSparseMoeBlock(config), wanted, batched=True)


def deepseek_v3(wanted: Wanted) -> Run:
    """Top-k experts by sigmoid scores and a shared one, of transformers' DeepSeek-V3."""
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as m

    s = wanted.shape
    config = m.DeepseekV3Config(
        hidden_size=s.d_model,
        moe_intermediate_size=s.d_expert,
        n_routed_experts=s.experts,
        n_shared_experts=1,
        num_experts_per_tok=s.top_k,
        n_group=1,
        topk_group=1,
    )
    config._experts_implementation = wanted.experts
    return _of_block(m.DeepseekV3MoE(config), wanted, batched=True)


def model_step(wanted: Wanted) -> Run:
    """A training step of the whole model: gradients, clipping, fused AdamW."""
    model = Model(wanted.shape, wanted.experts)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=DECAY, fused=True)
    tokens = torch.randint(wanted.shape.vocab_size, (wanted.rows, wanted.seq_len + 1))

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return run


CASES: dict[str, Callable[[Wanted], Run]] = {
    "cartesian": layer_case,
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "deepseek_v3": deepseek_v3,
    "model": model_step,
}


def _of_block(block: nn.Module, wanted: Wanted, *, batched: bool) -> Run:
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=wanted.shape.std)
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
