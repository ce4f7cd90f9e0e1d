"""The hand-written corpus: YAML and text in, base text and conversations out. Taught in notebooks 01 and 06.

Everything is drawn from a seed, so the same seed gives the same corpus. Two splits: "train" uses the lines under
`ask` and the slot values under `train`; "held_out" uses only lines and values that training never sees.
The format of the files is described in data/sprout/README.md.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

SPROUT_FOLDER = Path(__file__).resolve().parent.parent / "data" / "sprout"

# {"role": "system" | "user" | "assistant", "content": text}; Sprout's own turns also have "thoughts", a list of names.
Message = dict[str, str | list[str]]
Conversation = list[Message]

SLOT = re.compile(r"\{([a-z_]+)(\d?)(?:\.([a-z_]+))?\}")
SYLLABLES = "ba be bi bo bu da de di do ka ki ko la le lo lu ma mi mo mu na ne no pa pi po ra re ri ro sa so ta te ti to tu va vi zo"
ENDINGS = ["", "", "n", "l", "m", "p", "x", "sh", "ck", "t"]
# Follow-ups that a topic answers with lines of its own, each with the key of those lines.
TOPIC_FOLLOW_UPS = ("why", "example", "simpler", "more", "where")

# How often each kind of turn is drawn for a conversation: memory and repeating often, since copying is learned late.
MOVES = {
    "topic": 40,
    "repeat": 20,
    "tell": 24,
    "recall": 32,
    "unknown": 16,
    "correct": 4,
    "follow_up": 16,
    "dialogue": 4,
}


# Slots whose values are made up half of the time: whoever has met every name by heart need not copy it.
MADE_UP = ("name", "pet_name", "town")


def invented_word(rng: random.Random) -> str:
    """A made-up word of two or three syllables: variety of values is what teaches copying."""
    return "".join(rng.choice(SYLLABLES.split()) for _ in range(rng.choice((2, 2, 3)))) + rng.choice(ENDINGS)


class Slots:
    """The slot values of one exchange: each slot is drawn once, then stays the same.

    {animal} and {animal2} are two different values of one list; {opposites.word} and {opposites.opposite}
    come from the same row of a table; a name in `fixed` always has that value.
    """

    def __init__(self, corpus: "Corpus", rng: random.Random, split: str, fixed: dict[str, str] | None = None):
        self.corpus, self.rng, self.split = corpus, rng, split
        self.values = dict(fixed or {})

    def fill(self, line: str) -> str:
        """`line` with every slot filled in, and a capital where it begins with one.

        Raises ValueError, naming the slot, if it is defined nowhere.
        """
        filled = SLOT.sub(self._value, line)
        return filled[:1].upper() + filled[1:] if line.startswith("{") else filled

    def _value(self, match: re.Match) -> str:
        name, number, column = match.groups()
        key = name + number
        if key not in self.values:
            taken = [self.values.get(name + other) for other in ("", *"23456789")]
            self.values[key] = self._draw(name, match.group(0))
            while self.values[key] in taken:
                self.values[key] = self._draw(name, match.group(0))
        value = self.values[key]
        return str(value[column] if column else value)

    def _draw(self, name: str, written: str):
        if name == "invented":
            return invented_word(self.rng)
        if name in MADE_UP and self.rng.random() < 0.5:
            return invented_word(self.rng).capitalize()
        if name in self.corpus.lists:
            return self.rng.choice(self.corpus.lists[name][self.split])
        if name in self.corpus.tables:
            return self.rng.choice(self.corpus.tables[name])
        raise ValueError(f"the slot {written} is in no list or table of {self.corpus.folder}")


class Corpus:
    """All files of a corpus folder, read and checked. Raises FileNotFoundError or ValueError naming the file."""

    def __init__(self, folder: str | Path = SPROUT_FOLDER):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no corpus folder {self.folder}")
        self.topics, self.dialogues, self.groups = {}, {}, {}
        self.facts, self.follow_ups, self.lists, self.tables = {}, {}, {}, {}
        self.noise = {"before": [""], "after": [""]}
        for path in sorted(self.folder.rglob("*.yaml")):
            self._read_yaml(path)
        self.paragraphs = [
            paragraph.replace("\n", " ").strip()
            for path in sorted(self.folder.rglob("*.txt"))
            for paragraph in path.read_text(encoding="utf-8").split("\n\n")
            if paragraph.strip()
        ]

    def _read_yaml(self, path: Path) -> None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            for kind in ("topics", "dialogues"):
                for name, entry in content.get(kind, {}).items():
                    if name in self.groups:
                        raise ValueError(f"{name} is defined twice")
                    getattr(self, kind)[name] = entry
                    self.groups[name] = content["group"]
            for kind in ("facts", "follow_ups", "lists", "noise"):
                getattr(self, kind).update(content.get(kind, {}))
            for name, table in content.get("tables", {}).items():
                self.tables[name] = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} cannot be used: {error}") from None

    # --- base text -----------------------------------------------------------------------------------------------

    def texts(self, seed: int = 0, passes: int = 1, fixed: dict[str, str] | None = None) -> Iterator[str]:
        """Plain documents for pretraining: paragraphs, and every topic's answers as a paragraph, `passes` times over.

        Slots are filled differently on each pass. fixed: Sprout's own figures, see `grow.self_knowledge`.
        """
        rng = random.Random(seed)
        for _ in range(passes):
            # A paragraph full of slots reads differently each time, so it comes as often as it has slots.
            documents = [
                [text] for text in self.paragraphs for _ in range(max(1, len({m.group() for m in SLOT.finditer(text)})))
            ]
            for topic in self.topics.values():
                parts = [topic["answer"]] + [topic[key] for key in TOPIC_FOLLOW_UPS if key in topic]
                documents += [[rng.choice(lines) for lines in parts] for _ in range(2)]
            rng.shuffle(documents)
            for lines in documents:
                slots = Slots(self, rng, "train", fixed)
                yield " ".join(slots.fill(line) for line in lines)

    def fill_all(self, lines: list[str], seed: int = 0, fixed: dict[str, str] | None = None) -> Iterator[str]:
        """Each line with its slots filled from the training values."""
        rng = random.Random(seed)
        return (Slots(self, rng, "train", fixed).fill(line) for line in lines)

    @property
    def thoughts(self) -> list[str]:
        """All that Sprout can note before it speaks: a topic, dialogue, fact or follow-up, and what to do with a fact."""
        return [*self.groups, *self.facts, *self.follow_ups, "tell", "correct", "ask"]

    # --- conversations -------------------------------------------------------------------------------------------

    def conversations(
        self, seed: int = 0, split: str = "train", fixed: dict[str, str] | None = None
    ) -> Iterator[Conversation]:
        """Endless conversations of 1 to 12 turns that mix topics, memory, follow-ups and play as people do."""
        rng = random.Random(f"{split} {seed}")
        while True:
            yield _Talk(self, rng, split, fixed or {}).hold(rng.choice((1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 12)))


class _Talk:
    """One conversation while it is being drawn."""

    def __init__(self, corpus: Corpus, rng: random.Random, split: str, fixed: dict[str, str]):
        self.corpus, self.rng, self.split, self.fixed = corpus, rng, split, fixed
        self.messages: Conversation = []
        self.told: dict[str, Slots] = {}  # the facts the user has told, with their values
        self.topic: str | None = None  # what was last talked about, for follow-ups

    def hold(self, n_turns: int) -> Conversation:
        while len(self.messages) < 2 * n_turns:
            move = self.rng.choices(list(MOVES), weights=list(MOVES.values()))[0]
            getattr(self, "_" + move)()
        return self.messages

    def _lines(self, entry: dict, key: str, held_out_key: str | None = None) -> list[str]:
        held_out_key = held_out_key or key + "_held_out"
        return entry[held_out_key] if self.split == "held_out" and held_out_key in entry else entry[key]

    def _say(
        self, slots: Slots, questions: list[str], answers: list[str], thoughts: list[str], callback: bool = False
    ) -> None:
        question = slots.fill(self._noisy(self.rng.choice(questions)))
        answer = slots.fill(self.rng.choice(answers))
        if callback and self.told and self.rng.random() < 0.06:
            fact = self.rng.choice(list(self.told))
            answer += " " + self.told[fact].fill(self.rng.choice(self.corpus.facts[fact]["callback"]))
        self.messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, "thoughts": thoughts},
        ]

    def _fresh(self) -> Slots:
        return Slots(self.corpus, self.rng, self.split, self.fixed)

    def _topic(self, among: list[str] | None = None) -> None:
        name = self.rng.choice(among or list(self.corpus.topics))
        topic = self.corpus.topics[name]
        self._say(self._fresh(), self._lines(topic, "ask", "held_out"), topic["answer"], [name], callback=True)
        self.topic = name

    def _repeat(self) -> None:
        self._topic([name for name in self.corpus.topics if name.startswith("repeat_")] or None)

    def _dialogue(self) -> None:
        if not self.corpus.dialogues:
            return
        slots = self._fresh()
        name = self.rng.choice(list(self.corpus.dialogues))
        for turn in self.corpus.dialogues[name]:
            self._say(slots, self._lines(turn, "user", "held_out"), turn["sprout"], [name])
        self.topic = None

    def _tell(self) -> None:
        untold = [name for name in self.corpus.facts if name not in self.told]
        if untold:
            fact = self.rng.choice(untold)
            self.told[fact] = self._fresh()
            entry = self.corpus.facts[fact]
            self._say(self.told[fact], self._lines(entry, "tell"), entry["told"], ["tell", fact])
            self.topic = None

    def _correct(self) -> None:
        if self.told:
            fact = self.rng.choice(list(self.told))
            self.told[fact] = self._fresh()
            entry = self.corpus.facts[fact]
            self._say(self.told[fact], entry["correct"], entry["corrected"], ["correct", fact])
            self.topic = None

    def _recall(self) -> None:
        if self.told:
            fact = self.rng.choice(list(self.told))
            entry = self.corpus.facts[fact]
            self._say(self.told[fact], self._lines(entry, "ask"), entry["recall"], ["ask", fact])
            self.topic = None

    def _unknown(self) -> None:
        untold = [name for name in self.corpus.facts if name not in self.told]
        if untold:
            fact = self.rng.choice(untold)
            entry = self.corpus.facts[fact]
            self._say(self._fresh(), self._lines(entry, "ask"), entry["unknown"], ["ask", fact])
            self.topic = None

    def _follow_up(self) -> None:
        topic = self.corpus.topics.get(self.topic, {})
        kinds = [kind for kind in self.corpus.follow_ups if kind in topic or kind not in TOPIC_FOLLOW_UPS]
        if not self.messages or not kinds:
            return
        # A topic's own follow-ups are what readers ask most.
        kind = self.rng.choices(kinds, weights=[4 if kind in topic else 1 for kind in kinds])[0]
        entry = self.corpus.follow_ups[kind]
        slots = self._fresh()
        if "term" in topic:
            slots.values["term"] = topic["term"]
        questions = [
            line for line in self._lines(entry, "ask", "held_out") if "{term}" not in line or "term" in slots.values
        ]
        previous = self.messages[-1]["content"]
        answers = [previous] if kind == "repeat" else topic.get(kind) or entry["answer"]
        self._say(slots, questions, answers, [kind, self.topic] if kind in topic else [kind])

    def _noisy(self, line: str) -> str:
        """`line` as people type it: sometimes without capitals, full stops or care. Slots stay whole."""
        roll = self.rng.random()
        if roll < 0.6:
            return line
        if roll < 0.8:
            return _outside_slots(line.rstrip(".?!"), str.lower)
        if roll < 0.9:
            before, after = self.rng.choice(self.corpus.noise["before"]), self.rng.choice(self.corpus.noise["after"])
            return before + line.rstrip(".") + after
        return _outside_slots(line, lambda part: misspell(part, self.rng))


def _outside_slots(line: str, change) -> str:
    return "".join(part if part.startswith("{") else change(part) for part in re.split(r"(\{[^}]*\})", line))


def misspell(text: str, rng: random.Random) -> str:
    """`text` with one slip of the fingers in a longer word: two letters swapped, one lost, or one doubled."""
    words = [match for match in re.finditer(r"[A-Za-z]{4,}", text)]
    if not words:
        return text
    word = rng.choice(words)
    i = rng.randrange(word.start() + 1, word.end() - 1)
    slip = rng.choice((text[i + 1] + text[i], text[i], text[i] + text[i] + text[i + 1]))
    return text[:i] + slip + text[i + 2 :]


# --- other people's data ---------------------------------------------------------------------------------------------


def read_source(path: str | Path) -> tuple[list[str], list[Conversation]]:
    """Texts and conversations from a file or folder; one of the two lists is empty.

    .txt, or a folder of them: texts. .jsonl with a `messages` list per line, or .json with a list of such records or
    of instruction/input/output records: conversations. Raises FileNotFoundError or ValueError, naming the file.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise ValueError(f"the folder {path} holds no .txt file")
        return [_read_text(file) for file in files], []
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    text = _read_text(path)
    if path.suffix not in (".json", ".jsonl"):
        return [text], []
    try:
        lines = [line for line in text.splitlines() if line.strip()]
        records = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in lines]
        conversations = [_conversation(record) for record in records]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold conversations: expected records with `messages`, or with "
            f"`instruction`, `input` and `output` ({error})"
        ) from None
    if not conversations:
        raise ValueError(f"{path} holds no conversation")
    return [], conversations


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8; save it as UTF-8, or name another file") from None
    if "\0" in text:
        raise ValueError(f"{path} is a binary file, not text")
    if not text.strip():
        raise ValueError(f"{path} is empty; there is nothing to learn from")
    return text


def _conversation(record: dict) -> Conversation:
    if "messages" in record:
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in record["messages"]]
    else:
        question = "\n\n".join(part for part in (record["instruction"], record.get("input")) if part)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": record["output"]}]
    for message in messages:
        if message["role"] not in ("system", "user", "assistant") or not isinstance(message["content"], str):
            raise ValueError(f"a message needs a role and a text, got {message}")
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("a conversation needs at least one assistant message to learn from")
    return messages
