"""A conversation as one stream of tokens: template, loss mask, window, and the chat itself. Taught in notebook 06."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .corpus import Conversation
from .gpt import GPT
from .sampling import generate
from .tokenizer import BPETokenizer
from .training import read_model

ROLES = ("system", "user", "assistant")
END_OF_TURN = "<|end|>"
THOUGHT = "<|thought:"  # how the special token of a thought begins
THOUGHT_WEIGHT = 6.0  # in the loss, against a spoken token

# The same template for stock transformers; `render` and this give the same ids.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% for name in message['thoughts'] or [] %}{{ '" + THOUGHT + "' + name + '|>' }}{% endfor %}{% endif %}"
    "{{ message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def thought_token(name: str) -> str:
    """The special token for a thought: Sprout notes what a message is about before it answers.

    One token of reasoning: the answer depends on the thought, and the thought on all the ways to ask. Without it the
    loss on the few words that tell answers apart drowns in that of all the others, and the model learned every
    answer by heart before it looked at the question (after 15,000 questions, 4 % of unseen ones were understood;
    with a thought 41 %). A very short chain of thought (Wei et al. 2022), with control codes for words (Keskar et al. 2019).

    >>> thought_token("joke")
    '<|thought:joke|>'
    """
    return f"{THOUGHT}{name}|>"


def thought_names(tokenizer: BPETokenizer) -> dict[int, str]:
    """The thoughts a tokenizer knows: id -> name."""
    specials = tokenizer.special_tokens.items()
    return {id: token[len(THOUGHT) : -len("|>")] for token, id in specials if token.startswith(THOUGHT)}


def loss_weights(tokenizer: BPETokenizer) -> torch.Tensor:
    """How much each token counts in the loss, (vocab_size,): a thought decides a whole answer, so it counts more."""
    weights = torch.ones(tokenizer.vocab_size)
    weights[list(thought_names(tokenizer))] = THOUGHT_WEIGHT
    return weights


def render(
    messages: Conversation, tokenizer: BPETokenizer, add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """A conversation as (ids, mask): <|user|>Hi<|end|><|assistant|>Hello.<|end|>, mask 1 where the loss counts.

    Only what the assistant says, and the <|end|> by which it stops, is learned; if an assistant's message has
    "thoughts", a list of names, their tokens come before its words and are learned too. Content is always ordinary text: a
    user who types <|assistant|> cannot forge a turn. add_generation_prompt appends <|assistant|>, the model's cue.
    Raises ValueError for an unknown role or a tokenizer without role tokens.

    >>> tok = BPETokenizer.train("", vocab_size=261)
    >>> ids, mask = render([{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], tok)
    >>> ids, mask
    ([258, 65, 260, 259, 66, 260], [0, 0, 0, 0, 1, 1])
    """
    ids, mask = [], []
    for message in messages:
        role = message["role"]
        if role not in ROLES:
            raise ValueError(f"the role must be one of {', '.join(ROLES)}, got {role!r}")
        content = tokenizer.encode_ordinary(message["content"])
        if role == "assistant":
            content = [_role_token(tokenizer, thought_token(name)) for name in message.get("thoughts", [])] + content
        ids += [_role_token(tokenizer, f"<|{role}|>"), *content, _role_token(tokenizer, END_OF_TURN)]
        mask += [0] + [1 if role == "assistant" else 0] * (len(content) + 1)
    if add_generation_prompt:
        ids.append(_role_token(tokenizer, "<|assistant|>"))
        mask.append(0)
    return ids, mask


def _role_token(tokenizer: BPETokenizer, name: str) -> int:
    if name not in tokenizer.special_tokens:
        raise ValueError(f"the tokenizer has no {name}; chat needs a tokenizer with role tokens")
    return tokenizer.special_tokens[name]


def fit_context(messages: Conversation, tokenizer: BPETokenizer, n_tokens: int) -> Conversation:
    """The newest whole turns that fit into `n_tokens`, the generation prompt included; a system message always stays.

    A turn is a user message with the replies to it: half a turn would answer a question nobody asked. The last turn
    is kept even if it alone is too long. Raises ValueError when the system message leaves no room.
    """
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    turns: list[Conversation] = []
    for message in messages[len(system) :]:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    room = n_tokens - len(render(system, tokenizer, add_generation_prompt=True)[0])
    if room <= 0:
        raise ValueError(f"the system message needs more than the {n_tokens} tokens there are; shorten it")
    kept: Conversation = []
    for turn in reversed(turns):
        room -= len(render(turn, tokenizer)[0])
        if kept and room < 0:
            break
        kept = turn + kept
    return system + kept


class Chat:
    """A conversation with a model that remembers what fits its context.

    >>> chat = Chat.load()                         # doctest: +SKIP
    >>> chat.reply("Hi! My name is Ada.")          # doctest: +SKIP
    'Nice to meet you, Ada. ...'

    system: an optional first message that never falls out of the window. `messages` holds everything said.
    """

    def __init__(self, model: GPT, tokenizer: BPETokenizer, *, system: str | None = None):
        _role_token(tokenizer, END_OF_TURN)
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.thought_names = thought_names(tokenizer)
        self.reset()

    @classmethod
    def load(cls, folder: str | Path | None = None, *, system: str | None = None) -> "Chat":
        """Open a model folder; by default the Sprout that was grown here. Raises FileNotFoundError if there is none."""
        return cls(*read_model(folder, chat=True), system=system)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages: Conversation = [{"role": "system", "content": self.system}] if self.system else []

    def reply(self, text: str, **settings) -> str:
        """Say `text`, get the whole answer. Settings as in `stream`."""
        return "".join(self.stream(text, **settings))

    def stream(
        self,
        text: str,
        *,
        max_new_tokens: int = 160,
        temperature: float = 0.6,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        min_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[str]:
        """Say `text`, get the answer piece by piece. If you stop listening, the part you heard stays in `messages`.

        The defaults are careful; temperature 1.5 makes Sprout wild. Raises ValueError for blank text, a text that
        cannot be encoded, or a setting out of range; nothing is added to the conversation then.
        """
        if not text.strip():
            raise ValueError("there is nothing to answer; type a few words")
        question = {"role": "user", "content": text}
        context_length = self.model.config.context_length
        # Room for the reply is kept free, so that windowing happens here, by whole turns, not in the middle of one.
        room = context_length - min(max_new_tokens, context_length // 3)
        window = fit_context([*self.messages, question], self.tokenizer, room)
        ids, _ = render(window, self.tokenizer, add_generation_prompt=True)
        ids = shorten_middle(ids, room)
        new_ids = generate(
            self.model,
            ids,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop_ids=set(self.tokenizer.special_tokens.values()) - self.thought_names.keys(),
            generator=generator,
        )
        return self._speak(question, new_ids)

    def _speak(self, question: dict, new_ids: Iterator[int]) -> Iterator[str]:
        answer = {"role": "assistant", "content": ""}
        self.messages += [question, answer]
        for piece in self.tokenizer.decode_stream(self._spoken(new_ids, answer)):
            answer["content"] += piece
            yield piece

    def _spoken(self, new_ids: Iterator[int], answer: dict) -> Iterator[int]:
        """The ids that are words; the thoughts between them go to answer["thoughts"]."""
        for id in new_ids:
            if id in self.thought_names:
                answer.setdefault("thoughts", []).append(self.thought_names[id])
            else:
                yield id


def shorten_middle(ids: Sequence[int], n_tokens: int) -> list[int]:
    """`ids` cut to `n_tokens` by taking out their middle: one over-long message keeps its beginning and its end."""
    if len(ids) <= n_tokens:
        return list(ids)
    head = n_tokens // 2
    return [*ids[:head], *ids[len(ids) - (n_tokens - head) :]]
