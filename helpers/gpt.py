"""The model: token ids in, logits for the next token out. Taught in notebook 04.

Two kinds of block. "gpt2" is GPT-2, number for number. "modern" is Qwen3: RMSNorm, query/key norm, rotary
positions, SwiGLU, no biases; what changed in six years, each change motivated by a plot in notebook 04.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import KVCache, MultiHeadAttention
from .embeddings import RotaryPositions
from .pretrained import read_folder, write_folder

HEAD_SCALE = 0.05  # of a "modern" head at the start, against the embedding
GPT2_SIZES = {"124M": (768, 12, 12), "355M": (1024, 24, 16), "774M": (1280, 36, 20), "1558M": (1600, 48, 25)}


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a model. Raises ValueError, naming the field, for one that cannot be built.

    d_ff, the feed-forward's inner width: 4 d_model for "gpt2", about 8/3 d_model for "modern", whose feed-forward has
    three matrices instead of two. tied_head: the head shares the token embedding's weights; GPT-2's way.
    """

    vocab_size: int
    context_length: int
    d_model: int
    n_layers: int
    n_heads: int
    dropout: float = 0.0
    block: str = "modern"
    d_ff: int | None = None
    tied_head: bool | None = None
    rope_theta: float = 10000.0

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "d_model", "n_layers", "n_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.block not in ("modern", "gpt2"):
            raise ValueError(f'block must be "modern" or "gpt2", got {self.block!r}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} cannot be shared evenly by {self.n_heads} heads")
        if self.d_ff is None:
            d_ff = 4 * self.d_model if self.block == "gpt2" else 8 * ((self.d_model + 2) // 3)
            object.__setattr__(self, "d_ff", d_ff)  # how a frozen dataclass fills in a computed default
        if self.tied_head is None:
            object.__setattr__(self, "tied_head", self.block == "gpt2")

    @classmethod
    def gpt2(cls, size: str = "124M") -> "GPTConfig":
        """GPT-2 in one of its four sizes: 124M, 355M, 774M, 1558M. Radford et al. 2019, table 2."""
        if size not in GPT2_SIZES:
            raise ValueError(f"GPT-2 comes in {', '.join(GPT2_SIZES)}, not in {size!r}")
        d_model, n_layers, n_heads = GPT2_SIZES[size]
        return cls(
            vocab_size=50257, context_length=1024, d_model=d_model, n_layers=n_layers, n_heads=n_heads, block="gpt2"
        )


class FeedForward(nn.Module):
    """What each token does by itself between two rounds of attention: widen, bend, narrow.

    "gpt2": down(gelu(up(x))). "modern": down(silu(gate(x)) * up(x)), SwiGLU (Shazeer 2020), where one half decides
    how much of the other half passes. x: (batch, time, d_model) -> the same shape. Taught in notebook 04.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        bias = config.block == "gpt2"
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False) if config.block == "modern" else None
        self.up = nn.Linear(config.d_model, config.d_ff, bias=bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))  # GPT-2's GELU is the tanh approximation
        return self.down(F.silu(self.gate(x)) * self.up(x))


def make_norm(config: GPTConfig) -> nn.Module:
    """LayerNorm for "gpt2", RMSNorm for "modern", with the epsilon of their checkpoints."""
    return nn.LayerNorm(config.d_model, eps=1e-5) if config.block == "gpt2" else nn.RMSNorm(config.d_model, eps=1e-6)


class TransformerBlock(nn.Module):
    """One layer: the tokens talk (attention), then each thinks (feed-forward); both only add to the residual stream.

    Norms come first in each branch (pre-norm), so that the stream itself runs unchanged from the embedding to the
    head. x: (batch, time, d_model) -> the same shape. Taught in notebook 04.
    """

    def __init__(self, config: GPTConfig, rotary: RotaryPositions | None):
        super().__init__()
        modern = config.block == "modern"
        self.attention_norm = make_norm(config)
        self.attention = MultiHeadAttention(
            config.d_model, config.n_heads, bias=not modern, rotary=rotary, qk_norm=modern, dropout=config.dropout
        )
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cache))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x


class GPT(nn.Module):
    """A decoder-only transformer: ids (batch, time) int64 -> logits (batch, time, vocab_size) float.

    Position t holds the scores for the token at t + 1. Raises ValueError for more tokens than context_length.

    >>> config = GPTConfig(vocab_size=300, context_length=16, d_model=32, n_layers=2, n_heads=4)
    >>> GPT(config)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 300])

    Radford et al. 2019 (GPT-2); the modern block follows the Qwen3 technical report (2025). Taught in notebook 04.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        modern = config.block == "modern"
        rotary = None
        if modern:
            rotary = RotaryPositions(config.d_model // config.n_heads, config.context_length, config.rope_theta)
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = None if modern else nn.Embedding(config.context_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config, rotary) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.initialise()
        if config.tied_head:
            self.head.weight = self.token_embedding.weight

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the starting weights. Taught in notebook 04.

        "gpt2": normal with standard deviation 0.02, divided by √(2 n_layers) where a branch joins the stream.
        "modern": everything starts so that copying is easy to learn. The stream has unit scale. Attention's output
        matrix undoes its value matrix, so that what a head looks at arrives as it was; the head is a small copy of
        the embedding, so that what arrives is already a guess; a quarter of the first block's heads look one token back
        (`MultiHeadAttention.look_back`). The feed-forwards add nothing yet.
        """
        gpt2, depth = self.config.block == "gpt2", 2 * self.config.n_layers
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 if gpt2 else 1.0)
            elif isinstance(module, nn.Linear):
                if gpt2:
                    joins_stream = name.endswith(("attention.out", "feed_forward.down"))
                    nn.init.normal_(module.weight, std=0.02 / depth**0.5 if joins_stream else 0.02)
                elif name == "head":
                    module.weight.copy_(HEAD_SCALE * self.token_embedding.weight)
                elif name.endswith("feed_forward.down"):
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if not gpt2:
            for block in self.blocks:
                nn.init.orthogonal_(block.attention.value.weight)
                block.attention.out.weight.copy_(block.attention.value.weight.T)
            if self.config.tied_head:
                nn.init.constant_(self.norm.weight, HEAD_SCALE)
            self.token_embedding.weight[:, 0] = 3.0  # the same in every token, for the head that looks by position
            self.blocks[0].attention.look_back()

    def forward(self, ids: Tensor, cache: list[KVCache] | None = None, only: Tensor | None = None) -> Tensor:
        """With a cache from `new_cache`, ids holds only the tokens that are not in it yet.

        only: (batch, time) bool, True where logits are wanted; they come as (n_wanted, vocab_size). Half of a chat is
        what the user said, and nobody needs a guess there: training skips it.
        """
        start = cache[0].length if cache else 0
        end = start + ids.shape[1]
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens do not fit the context length of {self.config.context_length}")
        x = self.token_embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[start:end]
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):
            x = block(x, cache[i] if cache else None)
        return self.head(self.norm(x if only is None else x[only]))

    def new_cache(self) -> list[KVCache]:
        """An empty key/value cache for every layer."""
        return [KVCache(self.config.context_length) for _ in self.blocks]

    @property
    def n_parameters(self) -> int:
        """All parameters, embeddings included; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors as stock `transformers` reads them."""
        write_folder(folder, asdict(self.config), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "GPT":
        """Open a GPT-2 or Qwen3 folder, ours or anybody's, in evaluation mode.

        Raises FileNotFoundError or ValueError, saying which file or setting is wrong.
        """
        fields, weights = read_folder(folder)
        model = cls(GPTConfig(**fields))
        if model.config.tied_head:
            weights["head.weight"] = weights["token_embedding.weight"]
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ValueError(
                    f"the weights in {folder} do not fit their config.json: {name} is "
                    f"{found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
                )
        model.load_state_dict(weights)
        return model.eval()


@dataclass
class Trace:
    """What `record` saw. attention: one (batch, heads, queries, keys) tensor per layer;
    stream: the residual stream after the embedding and after each block, (batch, time, d_model) each."""

    attention: list[Tensor] = field(default_factory=list)
    stream: list[Tensor] = field(default_factory=list)


@contextmanager
def record(model: GPT) -> Iterator[Trace]:
    """Look inside one forward pass: `with record(model) as trace: model(ids)`. The logits stay the same."""
    trace = Trace()
    hooks = [model.dropout.register_forward_hook(lambda _, __, x: trace.stream.append(x.detach()))]
    for block in model.blocks:
        block.attention.recorded = trace.attention
        hooks.append(block.register_forward_hook(lambda _, __, x: trace.stream.append(x.detach())))
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()
        for block in model.blocks:
            block.attention.recorded = None
