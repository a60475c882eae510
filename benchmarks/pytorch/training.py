"""The training step of PyTorch's model: gradients, clipping, AdamW with our hyper-parameters.

Like ours, it decays all weights but biases and the norms inside layers, and warms the rate up. The
cosine after that is left out: it costs nothing.
"""

import dataclasses

import torch
from torch import Tensor, nn

from benchmarks.pytorch.cartesian import Model


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Fields of our ``config.optimizer``."""

    learning_rate: float
    warmup_steps: int
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float


def is_decayed(name: str) -> bool:
    """Say whether weight decay acts on a parameter; it does on the final norm."""
    return not (name.endswith("bias") or "norms." in name)


class Training:
    """A model and its optimizer."""

    def __init__(self, model: Model, wanted: AdamW):
        self.model, self.wanted, self.count = model, wanted, 0
        named = list(model.named_parameters())
        groups = [
            {"params": [p for name, p in named if is_decayed(name) == decayed], "weight_decay": w}
            for decayed, w in ((True, wanted.weight_decay), (False, 0.0))
        ]
        betas = wanted.beta1, wanted.beta2
        self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=wanted.eps, fused=True)

    def step(self, tokens: Tensor) -> float:
        """Move the weights once; return the loss before. Gradients are gone afterwards."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss = self.model(tokens)
        loss.backward()
        if self.wanted.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.wanted.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.count += 1
        return loss.item()

    def rate(self) -> float:
        """Return the learning rate of the step to come."""
        warm = self.wanted.warmup_steps
        return self.wanted.learning_rate * (min(self.count / warm, 1.0) if warm else 1.0)
