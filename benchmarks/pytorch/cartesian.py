"""CartesianMoE in plain PyTorch: the layer and the model that ours are timed against.

Written for speed on a CPU with what PyTorch offers: rows sorted by expert, then either one matrix
product per expert and weight, or PyTorch's grouped matrix product. Nothing is dropped.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a model; of a layer, those fields that it has."""

    d_model: int
    d_expert: int
    experts: int
    top_k: int
    sublayers: int = 2
    layers: int = 1
    heads: int = 1
    vocab_size: int = 0
    std: float = 0.02


def by_loop(rows: Tensor, sizes: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Run each expert on its rows [rows, d_model]: a product per expert.

    The weights are unbound: indexed one by one, each would get a gradient as large as all of them.
    """
    experts = zip(
        rows.split(sizes.tolist()), gate.unbind(), up.unbind(), down.unbind(), strict=True
    )
    return torch.cat([(functional.silu(x @ g) * (x @ u)) @ d for x, g, u, d in experts])


def by_grouped_product(
    rows: Tensor, sizes: Tensor, gate: Tensor, up: Tensor, down: Tensor
) -> Tensor:
    """Run each expert on its rows [rows, d_model]: one grouped product per weight."""
    ends = sizes.cumsum(0).to(torch.int32)
    product = functional.grouped_mm
    hidden = functional.silu(product(rows, gate, offs=ends)) * product(rows, up, offs=ends)
    return product(hidden, down, offs=ends)


EXPERTS: dict[str, Callable[..., Tensor]] = {"loop": by_loop, "grouped": by_grouped_product}


class SubLayer(nn.Module):
    """Top-k of E experts, and a shared expert: c_0 routed(x) + c_1 shared(x)."""

    def __init__(self, shape: Shape, experts: str):
        super().__init__()
        self.shape, self.run_experts = shape, EXPERTS[experts]
        e, d, f = shape.experts, shape.d_model, shape.d_expert
        self.router = nn.Linear(d, e, bias=False)
        self.gate, self.up, self.down = (
            nn.Parameter(torch.randn(size) * shape.std)
            for size in ((e, d, f), (e, d, f), (e, f, d))
        )
        self.shared_in, self.shared_out = nn.Linear(d, 2 * f, bias=False), nn.Linear(f, d, False)
        self.coefficient = nn.Linear(d, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of the residual stream, [tokens, d_model]."""
        k, experts = self.shape.top_k, self.shape.experts
        chosen, ids = self.router(x).softmax(-1).topk(k, dim=-1)
        weights = chosen / chosen.sum(-1, keepdim=True)
        order = ids.flatten().argsort()
        tokens = order // k
        sizes = torch.bincount(ids.flatten(), minlength=experts)
        rows = self.run_experts(x[tokens], sizes, self.gate, self.up, self.down)
        rows = rows * weights.flatten()[order, None]
        routed = torch.zeros_like(x).index_add(0, tokens, rows)
        gate, up = self.shared_in(x).chunk(2, dim=-1)
        shared = self.shared_out(functional.silu(gate) * up)
        c = self.coefficient(x).softmax(-1)
        return c[:, :1] * routed + c[:, 1:] * shared


class CartesianLayer(nn.Module):
    """Sub-layers in sequence, each pre-normed and residual."""

    def __init__(self, shape: Shape, experts: str):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(shape.d_model, 1e-5) for _ in range(shape.sublayers))
        self.sublayers = nn.ModuleList(SubLayer(shape, experts) for _ in range(shape.sublayers))

    def forward(self, h: Tensor) -> Tensor:
        """Return the residual stream behind the layer, [tokens, d_model]."""
        for norm, sublayer in zip(self.norms, self.sublayers, strict=True):
            h = h + sublayer(norm(h))
        return h


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model, bias=False)
        self.out = nn.Linear(shape.d_model, shape.d_model, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return what each position reads, [batch, seq, d_model]."""
        batch, seq, width = x.shape
        q, k, v = self.qkv(x).view(batch, seq, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotation), rotate(k, rotation)
        read = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(read.transpose(1, 2).reshape(batch, seq, width))


def rotary(seq: int, d_head: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, [seq, d_head / 2]."""
    angles = torch.arange(seq)[:, None] * 10_000.0 ** (-torch.arange(0, d_head, 2) / d_head)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the halves of each head by its position, [batch, heads, seq, d_head]."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Model(nn.Module):
    """A decoder whose every layer is attention and a Cartesian Product Layer.

    With ``remat`` the backward pass computes each layer again from its input, which alone is kept.
    """

    def __init__(self, shape: Shape, experts: str, remat: bool = False):
        super().__init__()
        self.shape, self.remat, d = shape, remat, shape.d_model
        self.embedding = nn.Embedding(shape.vocab_size, d)
        self.norms = nn.ModuleList(nn.RMSNorm(d, 1e-5) for _ in range(shape.layers))
        self.attentions = nn.ModuleList(Attention(shape) for _ in range(shape.layers))
        self.mixtures = nn.ModuleList(CartesianLayer(shape, experts) for _ in range(shape.layers))
        self.norm, self.head = nn.RMSNorm(d, 1e-5), nn.Linear(d, shape.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean loss of predicting each next token; tokens [batch, seq + 1]."""
        logits = self.logits(tokens[:, :-1]).flatten(0, 1)
        return functional.cross_entropy(logits, tokens[:, 1:].flatten())

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token, [batch, seq, vocab]; tokens [batch, seq]."""
        h = self.embedding(tokens)
        rotation = rotary(h.shape[1], self.shape.d_model // self.shape.heads)
        for layer in range(self.shape.layers):
            if self.remat:
                again = {"use_reentrant": False, "preserve_rng_state": False}
                h = checkpoint(self._layer, layer, h, rotation, **again)
            else:
                h = self._layer(layer, h, rotation)
        return self.head(self.norm(h))

    def _layer(self, layer: int, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        h = h + self.attentions[layer](self.norms[layer](h), rotation)
        return self.mixtures[layer](h.flatten(0, 1)).view_as(h)
