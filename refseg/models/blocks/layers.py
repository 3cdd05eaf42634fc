"""Small layers that several networks are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from refseg.models.serialise import rename_weights


def feed_forward(dim: int, inner: int) -> nn.Sequential:
    """Two layers with a ReLU between them, [...,dim] -> [...,dim]."""
    return nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, dim))


class CrossAttentionLayer(nn.Module):
    """Attention to a memory and a feed-forward part, each normalised after its residual.

    Args:
        dim: D, of what attends.
        heads: of the attention.
        inner: width of the feed-forward part.
        memory_channels: of the memory; None means D.
        lone_query: a single query also attends to itself in between. The softmax over one key is 1, so that of this
            attention only the value and the output remain.
    """

    def __init__(self, dim: int, heads: int, inner: int, memory_channels: int | None = None, lone_query: bool = False):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, kdim=memory_channels, vdim=memory_channels, batch_first=True)
        self.attention_norm = nn.LayerNorm(dim)
        self.itself = self.itself_norm = None
        if lone_query:
            self.itself = nn.Sequential(nn.Linear(dim, dim), nn.Linear(dim, dim))
            self.itself_norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, inner)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, place: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        """Args: x [B,S,D], place [S,D] added to it for the query, keys and values [B,N,C], hidden [B,N]: no keys."""
        read, _ = self.attention(x + place, keys, values, key_padding_mask=hidden, need_weights=False)
        x = self.attention_norm(x + read)
        if self.itself is not None and self.itself_norm is not None:
            x = self.itself_norm(x + self.itself(x))
        return self.feed_forward_norm(x + self.feed_forward(x))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Older checkpoints of MagNet call the attention "regions"."""
        rename_weights(state_dict, prefix, {"regions": "attention"})
        super()._load_from_state_dict(state_dict, prefix, *args)


class ResidualGate(nn.Module):
    """How much of a residual goes in: x + tanh(W2 act(W1 r)) * r, both matrices small and random at the beginning.

    The constructors of the releases of MagNet (for words) and of LGFormer set W1 = W2 = 0, so that a pretrained network
    begins undisturbed. Alone that would be a dead gate: the gradient of W2 is a multiple of act(W1 r) = 0, that of W1
    goes through W2 = 0, and two zeros stay zero forever. LGFormer's comes to life by accident, because the backbone's
    ``init_weights`` runs later and fills every linear layer. Ours begin as that leaves them: nearly closed, and able to
    learn.
    """

    def __init__(self, dim: int, activation: nn.Module):
        super().__init__()
        first, last = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate = nn.Sequential(first, activation, last)
        for linear in (first, last):
            nn.init.trunc_normal_(linear.weight, std=0.02)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """[...,C] and [...,C] -> [...,C]."""
        return x + self.gate(residual).tanh() * residual
