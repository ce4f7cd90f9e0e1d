"""Causal multi-head attention and its key/value cache. Taught in notebook 03."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import RotaryPositions


class KVCache:
    """The keys and values of the tokens one layer has seen, so that they need not be computed again.

    Memory for `context_length` tokens is taken once, at the first append; later tokens are written into it.
    """

    def __init__(self, context_length: int):
        self.context_length = context_length
        self.length = 0
        self.keys = self.values = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, heads, time, head_dim) keys and values; returns those of all tokens so far.

        Raises ValueError when they do not fit: start a new cache with the tokens you want to keep.
        """
        end = self.length + keys.shape[2]
        if end > self.context_length:
            raise ValueError(f"the cache holds {self.context_length} tokens, and {end} are too many")
        if self.keys is None:
            shape = (*keys.shape[:2], self.context_length, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def causal_mask(n_queries: int, n_keys: int, device=None) -> Tensor:
    """(n_queries, n_keys) bool, True where a query may look: at its own key and those before it.

    The queries are the last of the keys' tokens, so with a cache there are more keys than queries.

    >>> causal_mask(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def attention_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √head_dim) under the causal mask: (batch, heads, n_queries, n_keys), rows summing to 1.

    queries: (batch, heads, n_queries, head_dim); keys: (batch, heads, n_keys, head_dim). For looking inside;
    the model itself uses scaled_dot_product_attention, which never writes this T × T matrix to memory.

    Vaswani et al. 2017, section 3.2.1; taught in notebook 03.
    """
    scores = queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5
    allowed = causal_mask(queries.shape[-2], keys.shape[-2], device=scores.device)
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1)


class MultiHeadAttention(nn.Module):
    """Every token gathers values from itself and the tokens before it, by several heads at once.

    d_model is split into n_heads heads of d_model // n_heads numbers. `rotary` turns queries and keys by position;
    `qk_norm` scales each to unit root mean square first (Qwen3, Gemma 3), which keeps the scores from growing.
    Raises ValueError when the heads do not share d_model evenly.

    Vaswani et al. 2017, section 3.2.2; taught in notebook 03.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        bias: bool = False,
        rotary: RotaryPositions | None = None,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} cannot be shared evenly by {n_heads} heads; make it a multiple")
        self.n_heads = n_heads
        self.dropout = dropout
        self.rotary = rotary
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.query_norm = nn.RMSNorm(d_model // n_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(d_model // n_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.recorded: list[Tensor] | None = None  # set by gpt.record: the weights of each call are added

    @torch.no_grad()
    def look_back(self) -> None:
        """Let a quarter of the heads begin by looking one token back, whatever the tokens are. Needs `rotary` and `qk_norm`.

        Copying takes two heads in a row: one that tells each token what stood before it, and one that finds the token
        which stood after the current one last time, an induction head (Olsson et al. 2022). Training is slow to find
        the first kind; given it, the second came within 150 steps instead of not within 600 (random sequences said
        twice). They read number 0 of their input, which has to be the same in all tokens: only the position is left
        to tell keys apart, and the key is turned ahead by one position.
        """
        half = self.rotary.cos.shape[1] // 2
        cos, sin = self.rotary.cos[1, :half], self.rotary.sin[1, :half]
        strength = torch.atan2(sin, cos).sqrt()  # fast pairs tell neighbours apart, slow ones near from far
        for linear, turned in ((self.query, (strength, 0 * strength)), (self.key, (strength * cos, strength * sin))):
            for rows in linear.weight.view(self.n_heads, 2 * half, -1)[: max(1, self.n_heads // 4)]:
                rows *= 0.1
                rows[:, 0] = torch.cat(turned)
        for norm in (self.query_norm, self.key_norm):
            norm.weight.fill_(1.5)  # sharp enough from the start

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, time, d_model) -> (batch, heads, time, head_dim)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """x: (batch, time, d_model) -> the same shape. With a cache, x holds only the new tokens."""
        queries = self.query_norm(self.split_heads(self.query(x)))
        keys = self.key_norm(self.split_heads(self.key(x)))
        values = self.split_heads(self.value(x))
        if self.rotary is not None:
            start = cache.length if cache is not None else 0
            queries, keys = self.rotary(queries, start), self.rotary(keys, start)
        if cache is not None:
            keys, values = cache.append(keys, values)
        if self.recorded is not None:
            self.recorded.append(attention_weights(queries, keys).detach())
        # One new token may look at everything; a fresh text needs the plain causal mask, which has a fast path.
        new, seen = queries.shape[2], keys.shape[2]
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=causal_mask(new, seen, device=x.device) if 1 < new < seen else None,
            is_causal=1 < new == seen,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))
