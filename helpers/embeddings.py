"""Positions: how a model that looks at a set of vectors learns their order. Taught in notebook 02."""

import torch
from torch import Tensor, nn


def sinusoidal_positions(context_length: int, d_model: int) -> Tensor:
    """Fixed position vectors: each pair of columns is a wave, from fast to slow, like the hands of a clock.

    Returns (context_length, d_model) float, to be added to the token embeddings. d_model must be even.

    >>> sinusoidal_positions(context_length=2, d_model=2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])

    Vaswani et al. 2017, section 3.5; taught in notebook 02.
    """
    if d_model % 2:
        raise ValueError(f"d_model must be even to hold pairs of sine and cosine, got {d_model}")
    angles = rotary_angles(context_length, d_model, theta=10000.0)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def rotary_angles(context_length: int, head_dim: int, theta: float) -> Tensor:
    """How far each pair of numbers is turned at each position, in radians: (context_length, head_dim // 2) float.

    Position p turns pair i by p / theta^(2i / head_dim): the first pair by 1 radian per token, the last ones hardly.
    """
    speeds = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return torch.outer(torch.arange(context_length, dtype=torch.float32), speeds)


class RotaryPositions(nn.Module):
    """Turns queries and keys by their position, so that their dot product depends only on the distance.

    The first and second half of a head form the pairs (the half-split layout of Qwen3 and Llama checkpoints;
    the paper pairs neighbours, which is the same after a permutation).

    Su et al. 2021 (RoFormer), section 3.2; taught in notebook 02.
    """

    def __init__(self, head_dim: int, context_length: int, theta: float = 10000.0):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of numbers: head_dim must be even, got {head_dim}")
        angles = rotary_angles(context_length, head_dim, theta)
        # Buffers move with .to(device); persistent=False keeps them out of checkpoints, since they can be recomputed.
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x: (..., time, head_dim), its first token at position `start`. Returns the same shape."""
        time = x.shape[-2]
        cos, sin = self.cos[start : start + time], self.sin[start : start + time]
        first, second = x.chunk(2, dim=-1)
        quarter_turn = torch.cat([-second, first], dim=-1)
        return (x * cos + quarter_turn * sin).to(x.dtype)
