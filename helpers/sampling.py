"""From logits to text: temperature, top-k, nucleus, min-p, and the loop that writes. Taught in notebook 05."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from .gpt import GPT


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` most likely tokens; the rest become -inf.

    logits: (..., vocab_size) float. Returns the same shape. Raises ValueError unless k >= 1.

    >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
    tensor([-inf, 3., 2.])

    Fan et al. 2018, section 5.4; taught in notebook 05.
    """
    if k < 1:
        raise ValueError(f"top_k must be at least 1, got {k}")
    kept = logits.topk(min(k, logits.shape[-1])).indices  # by rank, so that a tie never keeps more than k
    return torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Nucleus filter: keep the fewest most likely tokens whose probabilities reach `p`.

    logits: (..., vocab_size) float. Returns the same shape, the rest -inf. Raises ValueError unless 0 < p <= 1.

    >>> keep_top_p(torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), 0.7).exp()
    tensor([0.5000, 0.3000, 0.0000, 0.0000])

    Holtzman et al. 2020, section 3.1; taught in notebook 05.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {p}")
    ordered, order = logits.sort(descending=True, dim=-1)
    probs = ordered.softmax(-1)
    # A token is dropped when the tokens before it already reach p: the one that crosses the line stays.
    before = probs.cumsum(-1) - probs
    dropped = (before >= p).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens that are at least `p` times as likely as the most likely one.

    logits: (..., vocab_size) float. Returns the same shape, the rest -inf. Raises ValueError unless 0 <= p <= 1.

    >>> keep_min_p(torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), 0.5).exp()
    tensor([0.5000, 0.3000, 0.0000, 0.0000])

    Nguyen et al. 2024, section 3; taught in notebook 05.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p must be between 0 and 1, got {p}")
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.max(-1, keepdim=True).values, -torch.inf)


def next_token_probabilities(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """The distribution that is drawn from: divide by the temperature, then cut by top-k, top-p, min-p, in this order.

    logits: (..., vocab_size) float -> probabilities of the same shape. temperature 0 puts everything on the best
    token. Raises ValueError for a setting out of range.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 (greedy) or above, got {temperature}")
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits.softmax(-1)


class _Reader:
    """Feeds tokens to a model and keeps its cache. At the end of the context the oldest half is dropped."""

    def __init__(self, model: GPT):
        self.model = model
        self.cache = model.new_cache()
        self.window: Tensor | None = None  # the tokens in the cache, (batch, time)

    def read(self, ids: Tensor) -> Tensor:
        """ids (batch, time), the tokens that come next -> logits (batch, vocab_size) for the one after them."""
        limit = self.model.config.context_length
        self.window = ids if self.window is None else torch.cat([self.window, ids], dim=1)
        if self.window.shape[1] > limit:
            # Rotary and learned positions start at 0 again, so every key has to be computed anew.
            self.window = ids = self.window[:, -max(limit // 2, 1) :]
            self.cache = self.model.new_cache()
        return self.model(ids, self.cache)[:, -1]


def _draw(logits: Tensor, generator: torch.Generator | None, **settings) -> Tensor:
    """One token id per row of (batch, vocab_size) logits: (batch,) int64."""
    probs = next_token_probabilities(logits.float(), **settings)
    if settings["temperature"] == 0:
        return probs.argmax(-1)
    if generator is not None:
        probs = probs.to(generator.device)
    return torch.multinomial(probs, 1, generator=generator).squeeze(-1).to(logits.device)


def _checked(model: GPT, ids: Sequence[int] | Tensor, max_new_tokens: int, settings: dict) -> list[int]:
    """The prompt as a list, after every argument has been looked at."""
    ids = [int(id) for id in ids]
    if not ids:
        raise ValueError("the prompt has no tokens; give at least one to continue from")
    if min(ids) < 0 or max(ids) >= model.config.vocab_size:
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise ValueError(f"token id {wrong} is outside the model's vocabulary of {model.config.vocab_size}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be 0 or more, got {max_new_tokens}")
    next_token_probabilities(torch.zeros(2), **settings)
    return ids


def generate(
    model: GPT,
    ids: Sequence[int] | Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that continue `ids`, one at a time; ends before a token in `stop_ids`.

    temperature=0 is greedy. `generator` makes the draw repeatable. A prompt longer than the context keeps its newest
    tokens; where the context is full, the oldest half is dropped and the cache filled again. Raises ValueError for
    an empty prompt, an unknown id or a setting out of range, before the first token is asked for.

    Taught in notebook 05.
    """
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    ids = _checked(model, ids, max_new_tokens, settings)[-model.config.context_length :]
    return _continue(model, ids, max_new_tokens, settings, frozenset(stop_ids), generator)


@torch.inference_mode()
def _continue(model, ids, max_new_tokens, settings, stop_ids, generator):
    was_training = model.training
    model.eval()
    try:
        reader = _Reader(model)
        new = torch.tensor([ids], device=model.device)
        for _ in range(max_new_tokens):
            new = _draw(reader.read(new), generator, **settings)[:, None]
            if (id := new.item()) in stop_ids:
                return
            yield id
    finally:
        model.train(was_training)


@torch.inference_mode()
def generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue many prompts at once: the new ids of each, without its stop token. Arguments as in `generate`.

    No padding: all rows start together, and where a longer prompt still has tokens, they are read instead of drawn
    ones. So every row sees what it would see alone, as long as it stays inside the context; give prompts of
    similar length for speed.
    """
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    prompts = [_checked(model, ids, max_new_tokens, settings)[-model.config.context_length :] for ids in prompts]
    if not prompts:
        return []
    was_training = model.training
    model.eval()
    try:
        reader = _Reader(model)
        position = min(map(len, prompts))
        new = torch.tensor([ids[:position] for ids in prompts], device=model.device)
        written = [[] for _ in prompts]
        open_rows = set(range(len(prompts))) if max_new_tokens else set()
        while open_rows:
            drawn = _draw(reader.read(new), generator, **settings).tolist()
            for row, ids in enumerate(prompts):
                if position < len(ids):
                    drawn[row] = ids[position]
                elif row in open_rows:
                    if drawn[row] not in stop_ids:
                        written[row].append(drawn[row])
                    if drawn[row] in stop_ids or len(written[row]) == max_new_tokens:
                        open_rows.discard(row)
            new = torch.tensor(drawn, device=model.device)[:, None]
            position += 1
        return written
    finally:
        model.train(was_training)
