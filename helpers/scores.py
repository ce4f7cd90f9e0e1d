"""How good is the chat? Scores on questions and values it never saw, beside a retrieval baseline. Taught in notebook 06.

Every reply is judged by the authored line it is most similar to, so the model may phrase things its own way.
The baseline answers with the reply to the most similar training question: what a lookup table could do.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from .chat import END_OF_TURN, fit_context, render, thought_names
from .corpus import Conversation, Corpus, Slots, _Talk
from .gpt import GPT
from .sampling import generate_batch
from .tokenizer import BPETokenizer

N_BUCKETS = 4096


@dataclass
class Item:
    """One thing to try: a conversation that ends with a user message, and how to judge the reply to it."""

    score: str  # "topic", "memory", "unknown" or "limits"
    group: str
    messages: Conversation
    kind: str  # the topic or fact that is asked about
    wanted: list[str] = field(default_factory=list)  # memory: the values that must come back


@dataclass
class Result:
    item: Item
    reply: str
    ended: bool  # the model said <|end|> by itself
    right: bool


def ngram_vectors(texts: Sequence[str], n: int = 3) -> Tensor:
    """Counts of letter n-grams, hashed and scaled to length 1: (len(texts), 4096). A dot product is a similarity.

    crc32 and not hash(), which Python seeds anew in every process.
    """
    vectors = torch.zeros(len(texts), N_BUCKETS)
    for row, text in zip(vectors, texts, strict=True):
        text = " " + re.sub(r"[^a-z0-9]+", " ", text.lower()).strip() + " "
        for i in range(len(text) - n + 1):
            row[zlib.crc32(text[i : i + n].encode()) % N_BUCKETS] += 1
    return torch.nn.functional.normalize(vectors.sqrt(), dim=1)


class NearestLine:
    """Finds the authored line most similar to a text, and what it belongs to."""

    def __init__(self, lines: Sequence[tuple[str, str]]):
        """lines: (text, label) pairs."""
        self.lines = list(lines)
        self.vectors = ngram_vectors([text for text, _ in self.lines])

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        """The nearest (text, label) for each text."""
        return [self.lines[i] for i in (ngram_vectors(texts) @ self.vectors.T).argmax(1).tolist()]


def held_out_items(
    corpus: Corpus, fixed: dict[str, str], per_topic: int = 1, n_memory: int = 100, seed: int = 0
) -> list[Item]:
    """Questions from the lines and values that training never uses."""
    rng = random.Random(seed)
    items = []
    for name, topic in corpus.topics.items():
        for question in rng.sample(topic["held_out"], min(per_topic, len(topic["held_out"]))):
            slots = Slots(corpus, rng, "held_out", fixed)
            messages = [{"role": "user", "content": slots.fill(question)}]
            group = corpus.groups[name]
            items.append(Item("limits" if group == "limits" else "topic", group, messages, name))
    facts = list(corpus.facts)
    for i in range(n_memory):
        talk = _Talk(corpus, rng, "held_out", fixed)
        fact = facts[i % len(facts)]
        entry = corpus.facts[fact]
        told, n_between = Slots(corpus, rng, "held_out", fixed), i % 6
        if i % 3:
            talk._say(told, entry["tell_held_out"], entry["told"], ["tell", fact])
        for _ in range(n_between):
            talk._topic()
        question = {"role": "user", "content": told.fill(rng.choice(entry["ask_held_out"]))}
        wanted = sorted(set(told.values.values()) - set(fixed.values()))
        if i % 3:
            items.append(Item("memory", "memory", talk.messages + [question], fact, wanted))
        else:
            items.append(Item("unknown", "memory", talk.messages + [question], fact))
    return items


def add_noise(items: list[Item], corpus: Corpus, seed: int = 0) -> list[Item]:
    """The same items, the last message typed carelessly."""
    rng = random.Random(seed)
    noisy = []
    for item in items:
        talk = _Talk(corpus, rng, "held_out", {})
        text = item.messages[-1]["content"]
        while (changed := talk._noisy(text)) == text and len(text) > 4:
            pass
        messages = item.messages[:-1] + [{"role": "user", "content": changed}]
        noisy.append(Item(item.score, item.group, messages, item.kind, item.wanted))
    return noisy


def authored_lines(corpus: Corpus, fixed: dict[str, str]) -> list[tuple[str, str]]:
    """Every answer in the corpus with the topic or fact it belongs to."""
    rng = random.Random(0)
    lines = []
    for name, topic in corpus.topics.items():
        for line in topic["answer"]:
            lines.append((Slots(corpus, rng, "train", fixed).fill(line), name))
    for name, fact in corpus.facts.items():
        for key in ("told", "recall", "unknown", "corrected"):
            lines += [(Slots(corpus, rng, "train", fixed).fill(line), f"{name} {key}") for line in fact[key]]
    return lines


def is_well_formed(reply: str, ended: bool) -> bool:
    """The reply stops by itself with a full sentence, holds no broken characters, and does not go in circles."""
    words = reply.lower().split()
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    circles = len(fours) - len(set(fours)) > 4
    return (
        ended
        and bool(reply.strip())
        and reply.rstrip("\"')")[-1:] in tuple(".?!")
        and "\ufffd" not in reply
        and not circles
    )


def model_replies(
    model: GPT, tokenizer: BPETokenizer, items: list[Item], max_new_tokens: int = 100
) -> list[tuple[str, bool]]:
    """Greedy replies, in batches of prompts of similar length: (text, ended by itself)."""
    max_new_tokens = min(max_new_tokens, model.config.context_length // 2)
    room = model.config.context_length - max_new_tokens
    prompts = [render(fit_context(item.messages, tokenizer, room), tokenizer, True)[0] for item in items]
    order = sorted(range(len(items)), key=lambda i: len(prompts[i]))
    replies: dict[int, tuple[str, bool]] = {}
    thoughts = thought_names(tokenizer)
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        stop = [tokenizer.special_tokens[END_OF_TURN]]
        written = generate_batch(model, [prompts[i] for i in rows], max_new_tokens, temperature=0, stop_ids=stop)
        for i, ids in zip(rows, written, strict=True):
            spoken = [id for id in ids if id not in thoughts]
            replies[i] = (tokenizer.decode(spoken), len(ids) < max_new_tokens)
    return [replies[i] for i in range(len(items))]


class RetrievalBaseline:
    """Answers with the reply that followed the most similar question in `conversations`."""

    def __init__(self, conversations: Sequence[Conversation]):
        pairs = [
            (before["content"], after["content"])
            for conversation in conversations
            for before, after in zip(conversation, conversation[1:], strict=False)
            if after["role"] == "assistant"
        ]
        self.nearest = NearestLine(pairs)

    def replies(self, items: list[Item]) -> list[tuple[str, bool]]:
        return [(answer, True) for _, answer in self.nearest([item.messages[-1]["content"] for item in items])]


def judge(items: list[Item], replies: list[tuple[str, bool]], nearest: NearestLine, corpus: Corpus) -> list[Result]:
    """Decide for every reply whether it is right."""
    results = []
    labels = [label for _, label in nearest([reply for reply, _ in replies])]
    for item, (reply, ended), label in zip(items, replies, labels, strict=True):
        if item.score == "memory":
            right = all(value.lower() in reply.lower() for value in item.wanted)
        elif item.score == "unknown":
            right = label == f"{item.kind} unknown"
        elif item.score == "limits":
            right = corpus.groups.get(label) == "limits"
        else:
            right = label == item.kind
        results.append(Result(item, reply, ended, right))
    return results


@dataclass
class ScoreCard:
    """Shares between 0 and 1. by_score and by_group: right answers; verbatim: replies that stand word for word in training."""

    by_score: dict[str, float]
    by_group: dict[str, float]
    well_formed: float
    verbatim: float


def score_card(results: list[Result], training_replies: set[str]) -> ScoreCard:
    def share(key: Callable[[Result], str]) -> dict[str, float]:
        keys = sorted({key(result) for result in results})
        return {k: _mean([result.right for result in results if key(result) == k]) for k in keys}

    return ScoreCard(
        by_score=share(lambda result: result.item.score),
        by_group=share(lambda result: result.item.group),
        well_formed=_mean([is_well_formed(result.reply, result.ended) for result in results]),
        verbatim=_mean([result.reply in training_replies for result in results]),
    )


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / max(len(values), 1)


def score_chat(
    model: GPT, tokenizer: BPETokenizer, corpus: Corpus, fixed: dict[str, str], *, n_training: int = 3000
) -> dict[str, ScoreCard]:
    """Score cards of the "model" and the "baseline", and of both on noisy input ("model, noisy" ...)."""
    training = list(islice(corpus.conversations(fixed=fixed), n_training))
    training_replies = {message["content"] for talk in training for message in talk if message["role"] == "assistant"}
    baseline = RetrievalBaseline(training)
    nearest = NearestLine(authored_lines(corpus, fixed))
    clean = held_out_items(corpus, fixed)
    cards = {}
    for name, items in (("", clean), (", noisy", add_noise(clean, corpus))):
        for who, replies in (("model", model_replies(model, tokenizer, items)), ("baseline", baseline.replies(items))):
            cards[who + name] = score_card(judge(items, replies, nearest, corpus), training_replies)
    return cards
