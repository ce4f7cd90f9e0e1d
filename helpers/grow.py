"""The whole recipe in one place: data to tokenizer to base model to chat model, in a folder. Used by 05, 06 and the command line."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from .batches import Batches, pack, repetition_rows, windows
from .chat import CHAT_TEMPLATE, Chat, loss_weights, render, thought_names, thought_token
from .corpus import Conversation, Corpus, read_source
from .gpt import GPT, GPTConfig
from .sampling import generate
from .tokenizer import END_OF_TEXT, BPETokenizer
from .training import (
    Optimizers,
    Step,
    TrainingPlan,
    evaluate,
    latest_checkpoint,
    load_checkpoint,
    models_folder,
    pick_device,
    pick_precision,
    read_model,
    save_checkpoint,
    steps_for_seconds,
    train,
    write_whole_folder,
)

STAGES = ("base", "chat")


PRACTICE_SHARE = 0.1  # of the rows, where practice in copying is mixed into text or talk


@dataclass(frozen=True)
class Size:
    """A model's shape and how long it trains: steps of practice in copying, of the base and of the chat stage."""

    shape: dict
    batch_size: int
    steps: dict[str, int]


SIZES = {
    "tiny": Size(
        dict(vocab_size=768, context_length=96, d_model=32, n_layers=2, n_heads=2, tied_head=True),
        batch_size=8,
        steps={"practice": 5, "base": 30, "chat": 60},
    ),
    "sprout": Size(
        dict(vocab_size=1536, context_length=512, d_model=256, n_layers=2, n_heads=4, tied_head=True),
        batch_size=4,
        steps={"practice": 110, "base": 120, "chat": 950},
    ),
    "gpt2": Size(vars(GPTConfig.gpt2("124M")), batch_size=32, steps={"practice": 0, "base": 20_000, "chat": 2_000}),
}


def self_knowledge(config: GPTConfig) -> dict[str, str]:
    """What Sprout says of itself, from its configuration: the corpus slots {parameters}, {vocab_size} and so on."""
    with torch.device("meta"):  # counts without taking memory
        millions = GPT(config).n_parameters / 1e6
    return {
        "parameters": f"about {millions:.1f} million" if millions >= 0.95 else f"about {1000 * millions:.0f} thousand",
        "vocab_size": f"{config.vocab_size:,}",
        "context_length": f"{config.context_length:,}",
        "minutes": "a few minutes",
    }


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What a run learns from and is measured on. texts and conversations start anew at each call; conversations may
    be endless."""

    texts: Callable[[], Iterator[str]]
    conversations: Callable[[], Iterator[Conversation]] | None  # None: plain text, a base model only
    held_out_texts: list[str]
    held_out_conversations: list[Conversation]
    thoughts: list[str] = field(default_factory=list)  # those that occur in the conversations


def sprout_data(config: GPTConfig, seed: int = 0) -> Data:
    """The hand-written corpus, with Sprout's own figures filled in."""
    corpus, fixed = Corpus(), self_knowledge(config)
    held_out = list(islice(corpus.conversations(seed=seed, split="held_out", fixed=fixed), 100))
    # Every 20th paragraph is never trained on.
    paragraphs, corpus.paragraphs = corpus.paragraphs, [p for i, p in enumerate(corpus.paragraphs) if i % 20]
    held_out_texts = list(corpus.fill_all(paragraphs[::20], seed=seed, fixed=fixed))
    return Data(
        texts=lambda: corpus.texts(seed=seed, passes=3, fixed=fixed),
        conversations=lambda: corpus.conversations(seed=seed, fixed=fixed),
        held_out_texts=held_out_texts,
        held_out_conversations=held_out,
        thoughts=corpus.thoughts,
    )


def source_data(path: str | Path) -> Data:
    """Somebody else's texts or conversations; one part in twenty, the last, is held out."""
    texts, conversations = read_source(path)
    if conversations:
        cut = len(conversations) - max(1, len(conversations) // 20)
        if cut < 1:
            raise ValueError(f"{path} holds one conversation; at least two are needed, one of them to test on")
        train_on, held_out = conversations[:cut], conversations[cut:]
        plain = ["\n".join(message["content"] for message in conversation) for conversation in conversations]
        return Data(lambda: iter(plain[:cut]), lambda: iter(train_on), plain[cut:], held_out)
    if len(texts) == 1:
        cut = int(len(texts[0]) * 0.95)
        texts = [texts[0][:cut], texts[0][cut:]]
    cut = len(texts) - max(1, len(texts) // 20)
    return Data(lambda: iter(texts[:cut]), None, texts[cut:], [])


def load_data(name: str, config: GPTConfig) -> Data:
    """`--data`: "sprout", or a path."""
    return sprout_data(config) if name == "sprout" else source_data(name)


def text_rows(texts, tokenizer: BPETokenizer, context_length: int) -> tuple[Tensor, Tensor]:
    """Documents joined by <|endoftext|> and cut into windows: x, y (n, context_length)."""
    end = tokenizer.special_tokens[END_OF_TEXT]
    return windows([id for text in texts for id in chain(tokenizer.encode_ordinary(text), [end])], context_length)


def conversation_rows(
    conversations, tokenizer: BPETokenizer, context_length: int, n_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Conversations packed into at most `n_rows` rows, the loss on the assistant's tokens only: x, y (n, context_length)."""
    end = tokenizer.special_tokens[END_OF_TEXT]
    return pack((render(conversation, tokenizer) for conversation in conversations), context_length, end, n_rows)


def without_thoughts(conversations) -> Iterator[Conversation]:
    """The same conversations, for a tokenizer that knows no thoughts."""
    for conversation in conversations:
        yield [{"role": message["role"], "content": message["content"]} for message in conversation]


def practise_copying(model: GPT, text: tuple[Tensor, Tensor], steps: int) -> None:
    """Train a new model on random ids that repeat, and then on `text` (x and y) with a tenth of such rows in it.

    A chat model must say back what it was told, and text alone teaches that late: without this practice no head had
    learned to copy after 1.7 million tokens of text and talk. 100 steps, 0.1 million tokens, are enough for a model that
    starts as `GPT.initialise` does. For one that has read before they are not (nothing in 120 steps), nor are the same
    rows strewn among the first text (nothing in 200). With such rows to the end of its text, a base model stammers.
    """
    batch_size = 16
    rows = repetition_rows(batch_size * steps, model.config.vocab_size)
    mixed = add_practice(text, PRACTICE_SHARE, model.config.vocab_size)
    for part, decay in ((rows, 0.1), (mixed, 0.01)):
        for _ in train(model, Batches(*part, batch_size), TrainingPlan(steps=steps, decay=decay)):
            pass


def add_practice(rows: tuple[Tensor, Tensor], share: float, vocab_size: int) -> tuple[Tensor, Tensor]:
    """`rows`, x and y (n, context_length), with so many rows of practice in copying that they are `share` of all.

    What nothing asks for is forgotten: without them the heads that copy were gone after 800,000 tokens.
    """
    x, y = rows
    n = round(len(x) * share / (1 - share))
    more_x, more_y = repetition_rows(n, vocab_size, x.shape[1] + 1)
    return torch.cat([x, more_x]), torch.cat([y, more_y])


# --- running ---------------------------------------------------------------------------------------------------------


class Grower:
    """Grows a model in `folder`, stage by stage; every stage goes on from where it is.

    The base model ends up in folder/base, the chat model in folder itself; plain text ends with a base model in
    folder. stages=("base",) stops after pretraining, and start_from=folder/base goes on from there. `show` receives
    lines for people; progress=False leaves out the bar. Raises ValueError or FileNotFoundError before anything is written when
    the data or the size is unusable.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        data: str = "sprout",
        size: str = "sprout",
        start_from: str | Path | None = None,
        max_seconds: float | None = None,
        resume: bool = False,
        stages: tuple[str, ...] = STAGES,
        show: Callable[[str], None] = print,
        progress: bool = True,
    ):
        if size not in SIZES:
            raise ValueError(f"the size must be one of {', '.join(SIZES)}, got {size!r}")
        if max_seconds is not None and max_seconds <= 0:
            raise ValueError(f"--max-seconds must be above 0, got {max_seconds}")
        name = "sprout" if data == "sprout" else Path(data).stem
        self.folder = Path(folder) if folder else models_folder() / name
        self.show, self.progress = show, progress
        self.record = {
            "stages": list(stages),
            "data": data,
            "size": size,
            "from": str(start_from) if start_from else None,
            "max_seconds": max_seconds,
            "plans": {},
        }
        if resume:
            self.record = self._read_record()
        self.size = SIZES[self.record["size"]]
        self.config = GPTConfig(**self.size.shape)
        self.data = load_data(self.record["data"], self.config)
        self.tokenizer = None
        if not resume:
            for old in (
                self.folder / "checkpoints",
                self.folder / "base" / "checkpoints",
                self.folder / "growing.json",
            ):
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)

    def _read_record(self) -> dict:
        path = self.folder / "growing.json"
        if not path.is_file():
            raise FileNotFoundError(f"nothing to resume in {self.folder}: no unfinished run is there")
        return json.loads(path.read_text(encoding="utf-8"))

    def _write_record(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "growing.json"
        path.with_suffix(".partial").write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        os.replace(path.with_suffix(".partial"), path)

    def grow(self) -> Path:
        """Run every stage that is not finished; returns the folder of the last model."""
        start = folder = self.record["from"]
        stages = [stage for stage in self.record["stages"] if stage == "base" or self.data.conversations]
        if start:
            stages = stages[-1:]  # a model to go on from needs no base stage before the chat stage
        for stage in stages:
            folder = self.folder / "base" if stage == "base" and self.data.conversations else self.folder
            if stage not in self.record.get("finished", []):
                self._stage(stage, folder, start, share={"base": 0.3, "chat": 0.7}[stage] if len(stages) > 1 else 1.0)
                self.record.setdefault("finished", []).append(stage)
                self._write_record()
            start = folder
        (self.folder / "growing.json").unlink(missing_ok=True)
        return folder

    def _stage(self, stage: str, folder: Path, start, share: float) -> None:
        began = time.perf_counter()
        checkpoint = latest_checkpoint(folder) if stage in self.record["plans"] else None
        if checkpoint:
            self.tokenizer = BPETokenizer.load(folder / "checkpoints")
            plan = TrainingPlan(**self.record["plans"][stage])
            model, optimizers, done = load_checkpoint(checkpoint, plan)
            batches, held_out = self._rows(stage, model.config, plan.steps)
            self.show(f"going on at step {done} of {plan.steps}")
        else:
            model = self._first_model(start)
            plan = TrainingPlan(steps=self.size.steps[stage])
            batches, held_out = self._rows(stage, model.config, plan.steps)
            plan = replace(plan, precision=pick_precision(model, batches, plan))
            if self.record["max_seconds"]:
                left = self.record["max_seconds"] * share - (time.perf_counter() - began)
                plan = replace(plan, steps=steps_for_seconds(model, batches, plan, max(left, 1.0)))
                batches, held_out = self._rows(stage, model.config, plan.steps)
            optimizers, done = Optimizers(model, plan), 0
        if stage not in self.record["plans"]:
            self.record["plans"][stage] = asdict(plan)
            self._write_record()
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            self.tokenizer.save(folder / "checkpoints", chat_template=CHAT_TEMPLATE)
        self.show(
            f"{'pretraining' if stage == 'base' else 'finetuning'} {model.n_parameters:,} parameters in {plan.precision}"
        )
        losses = self._train(stage, folder, model, batches, plan, optimizers, done)
        result = evaluate(model, *held_out, self.tokenizer)
        run = {
            "stage": stage,
            "data": self.record["data"],
            "parameters": model.n_parameters,
            "plan": asdict(plan),
            "tokens": plan.steps * batches.batch_size * model.config.context_length,
            "seconds": round(time.perf_counter() - began, 1),
            "held_out": {name: round(value, 4) for name, value in vars(result).items()},
            "losses": losses,
        }
        self._write_model(folder, model, run)
        self.show(
            f"held-out loss {result.loss:.3f} ({result.bits_per_byte:.3f} bits per byte) after "
            f"{run['tokens']:,} tokens and {run['seconds']:.0f} s; kept in {folder}"
        )

    def _first_model(self, start) -> GPT:
        """The model a stage begins with, and its tokenizer; a new one that will chat has practised copying."""
        if start:
            model, self.tokenizer = read_model(start)
            return model.to(pick_device())
        began = time.perf_counter()
        material = chain(
            self.data.texts(), _contents(islice(self.data.conversations(), 3000)) if self.data.conversations else ()
        )
        special_tokens = [END_OF_TEXT, *map(thought_token, self.data.thoughts)]
        self.tokenizer = BPETokenizer.train(material, self.config.vocab_size, special_tokens)
        self.config = replace(self.config, vocab_size=self.tokenizer.vocab_size)
        self.show(f"trained a tokenizer of {self.tokenizer.vocab_size:,} tokens in {time.perf_counter() - began:.1f} s")
        torch.manual_seed(0)
        model = GPT(self.config).to(pick_device())
        if self.data.conversations and (steps := self.size.steps["practice"]):
            short = text_rows(self.data.texts(), self.tokenizer, min(128, self.config.context_length))
            practise_copying(model, short, steps)
        return model

    def _rows(self, stage: str, config: GPTConfig, steps: int) -> tuple[Batches, tuple[Tensor, Tensor]]:
        length, batch_size = config.context_length, self.size.batch_size
        if stage == "base":
            rows = text_rows(self.data.texts(), self.tokenizer, length)
            return Batches(*rows, batch_size), text_rows(self.data.held_out_texts, self.tokenizer, length)
        practice = PRACTICE_SHARE if self.size.steps["practice"] else 0.0
        n_rows = math.ceil(steps * batch_size * (1 - practice))
        talks, held_out = self.data.conversations(), self.data.held_out_conversations
        if not thought_names(self.tokenizer):  # a base model from elsewhere
            talks, held_out = without_thoughts(talks), without_thoughts(held_out)
        rows = conversation_rows(talks, self.tokenizer, length, n_rows)
        rows = add_practice(rows, practice, config.vocab_size)
        return Batches(*rows, batch_size), conversation_rows(held_out, self.tokenizer, length)

    def _train(self, stage, folder, model, batches, plan, optimizers, done) -> list[tuple[int, float]]:
        from tqdm import tqdm

        losses, saved = [], time.perf_counter()
        weights = loss_weights(self.tokenizer).to(model.device)
        steps = train(model, batches, plan, optimizers=optimizers, done=done, token_weights=weights)
        bar = tqdm(total=plan.steps, initial=done, unit="step", mininterval=1, disable=None if self.progress else True)
        step = Step(done, float("nan"), 0.0, 0)
        try:
            for step in steps:
                bar.update()
                bar.set_postfix(loss=f"{step.loss:.2f}", refresh=False)
                if step.number % max(1, plan.steps // 100) == 0:
                    losses.append((step.number, round(step.loss, 4)))
                if step.number % max(1, plan.steps // 5) == 0 and step.number < plan.steps:
                    self.show(f"  step {step.number}: {self._sample(stage, model)}")
                if time.perf_counter() - saved > 30:
                    save_checkpoint(folder, model, optimizers, step.number, self.record)
                    saved = time.perf_counter()
        except KeyboardInterrupt:
            save_checkpoint(folder, model, optimizers, step.number, self.record)
            self.show(f"stopped after step {step.number} of {plan.steps}; the work is kept, go on with --resume")
            raise
        finally:
            bar.close()
        return losses

    def _sample(self, stage: str, model: GPT) -> str:
        """A line that shows how the model writes by now."""
        generator = torch.Generator().manual_seed(0)
        if stage == "chat":
            return repr(
                Chat(model, self.tokenizer).reply("Hi! My name is Ada.", max_new_tokens=40, generator=generator)
            )
        start = [self.tokenizer.special_tokens[END_OF_TEXT]]
        ids = generate(model, start, 40, temperature=0.7, stop_ids=start, generator=generator)
        return repr(self.tokenizer.decode(ids))

    def _write_model(self, folder: Path, model: GPT, run: dict) -> None:
        """Replace the files in `folder` by the finished model; the checkpoints have done their work."""

        def write(path):
            model.save_pretrained(path)
            self.tokenizer.save(path, chat_template=CHAT_TEMPLATE)
            (path / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")

        finished = folder / "finished"
        write_whole_folder(finished, write)
        for path in finished.iterdir():
            os.replace(path, folder / path.name)
        finished.rmdir()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _contents(conversations) -> Iterator[str]:
    return (message["content"] for conversation in conversations for message in conversation)
