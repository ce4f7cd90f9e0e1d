"""The training loop: schedule, optimizers, evaluation, checkpoints. Taught in notebook 05.

Notable: Muon for the hidden matrices, which reaches a given loss on about a third of the tokens AdamW needs, and
AdamW for embeddings, head and vectors; batch k is always the same batch, so a resumed run repeats the uninterrupted
one number for number; a checkpoint is written beside its final place and renamed, so it is whole or absent.
"""

import copy
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from .batches import IGNORED, Batches
from .corpus import SPROUT_FOLDER
from .gpt import GPT
from .tokenizer import BPETokenizer


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything that decides a run, besides model and data. Learning rates are the peaks of the schedule."""

    steps: int
    matrix_lr: float = 0.02  # Muon: hidden matrices
    vector_lr: float = 0.01  # AdamW: head, norms, biases
    embedding_lr: float = 0.03  # AdamW: embeddings; unit-scale rows have further to go
    weight_decay: float = 0.0
    warmup: float = 0.02  # share of the steps
    decay: float = 0.5  # share of the steps, at the end
    clip: float = 1.0  # largest norm of all gradients together
    precision: str = "fp32"  # or "bf16"


def learning_rate_scale(step: int, steps: int, warmup: float, decay: float) -> float:
    """Up linearly, flat, down linearly to (almost) zero: the share of the peak learning rate at `step`.

    >>> [learning_rate_scale(step, steps=10, warmup=0.2, decay=0.5) for step in (0, 1, 4, 5, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.2]

    Hu et al. 2024 (MiniCPM), section 4.1, "warmup-stable-decay".
    """
    n_warmup, n_decay = max(1, round(warmup * steps)), max(1, round(decay * steps))
    return min(1.0, (step + 1) / n_warmup, (steps - step) / n_decay)


class Optimizers:
    """Muon for hidden matrices and AdamW for all else, behind one `zero_grad()` and one `step()`.

    Muon makes every update an (almost) orthogonal matrix, so that all directions of a matrix learn equally fast;
    that has no meaning for an embedding table, whose rows are independent, nor for vectors. Jordan et al. 2024.
    """

    def __init__(self, model: GPT, plan: TrainingPlan):
        matrices, embeddings, others = [], [], []
        for name, parameter in model.named_parameters():
            if "embedding" in name:
                # GPT-2's embeddings start at 0.02 and need small steps; ours start at 1.
                (others if model.config.block == "gpt2" else embeddings).append(parameter)
            else:
                (matrices if name.startswith("blocks.") and parameter.ndim == 2 else others).append(parameter)
        groups = [{"params": others, "lr": plan.vector_lr}]
        if embeddings:
            groups.append({"params": embeddings, "lr": plan.embedding_lr})
        self.muon = torch.optim.Muon(
            matrices, lr=plan.matrix_lr, momentum=0.95, nesterov=True, weight_decay=plan.weight_decay
        )
        self.adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.all = {"muon": self.muon, "adamw": self.adamw}
        for optimizer in self.all.values():
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]

    def set_scale(self, scale: float) -> None:
        """Set every learning rate to `scale` times its peak."""
        for optimizer in self.all.values():
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale

    def zero_grad(self) -> None:
        for optimizer in self.all.values():
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.all.values():
            optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors, for a checkpoint."""
        return {
            f"{kind}.{index}.{name}": torch.as_tensor(value)
            for kind, optimizer in self.all.items()
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for kind, optimizer in self.all.items():
            state = optimizer.state_dict()
            for key, value in tensors.items():
                owner, index, name = key.split(".", 2)
                if owner == kind:
                    state["state"].setdefault(int(index), {})[name] = value
            optimizer.load_state_dict(state)


def pick_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_precision(model: GPT, batches: Batches, plan: TrainingPlan) -> str:
    """ "fp32" or "bf16", whichever runs two training steps faster here, on a copy. Most CPUs have no bf16 units."""
    seconds = {}
    for precision in ("fp32", "bf16"):
        trial = copy.deepcopy(model)
        steps = train(trial, batches, TrainingPlan(**{**vars(plan), "steps": 3, "precision": precision}))
        next(steps)  # the first step also allocates memory
        start = time.perf_counter()
        next(steps), next(steps)
        seconds[precision] = time.perf_counter() - start
    return min(seconds, key=seconds.get)


@dataclass
class Step:
    """What the loop reports after each step. loss: nats per counted token of this batch."""

    number: int  # steps done, from 1
    loss: float
    gradient_norm: float
    tokens: int  # tokens read in this step


def train(
    model: GPT,
    batches: Batches,
    plan: TrainingPlan,
    *,
    optimizers: Optimizers | None = None,
    done: int = 0,
    token_weights: Tensor | None = None,
) -> Iterator[Step]:
    """Train `model` in place, yielding after every step, so that the caller can evaluate, save, show or stop.

    done: steps that lie behind (with their `optimizers`), to go on from a checkpoint. token_weights, (vocab_size,):
    how much each token counts as a target in the mean; all the same if None. Raises FloatingPointError when
    the loss is not a number any more; the weights are then still those of the step before.
    """
    optimizers = optimizers or Optimizers(model, plan)
    device = model.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16")
    # RMSNorm of bf16 queries with fp32 weights takes PyTorch's unfused path, and says so once; nothing is wrong.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    model.train()
    for step in range(done, plan.steps):
        x, y = (part.to(device) for part in batches[step])
        counts = y != IGNORED
        optimizers.set_scale(learning_rate_scale(step, plan.steps, plan.warmup, plan.decay))
        with autocast:
            logits = model(x, only=counts)
        loss = F.cross_entropy(logits.float(), y[counts], weight=token_weights)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step + 1}; lower the learning rates, or look at that batch"
            )
        optimizers.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizers.step()
        yield Step(step + 1, loss.item(), norm.item(), x.numel())
    model.eval()


@dataclass
class Evaluation:
    """How well a model predicts held-out text. loss: nats per token; bits_per_byte does not depend on the tokenizer."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def evaluate(model: GPT, x: Tensor, y: Tensor, tokenizer: BPETokenizer, batch_size: int = 16) -> Evaluation:
    """Mean loss over all counted targets y of rows x, both (n, context_length); the model is left as it was found."""
    was_training = model.training
    model.eval()
    nats = 0.0
    for rows in range(0, len(x), batch_size):
        logits = model(x[rows : rows + batch_size].to(model.device))
        targets = y[rows : rows + batch_size].to(model.device)
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    model.train(was_training)
    counted = y[y != IGNORED]
    n_bytes = len(tokenizer.decode_bytes(counted.tolist()))
    loss = nats / max(len(counted), 1)
    return Evaluation(loss, math.exp(loss), nats / math.log(2) / max(n_bytes, 1), len(counted))


def steps_for_seconds(model: GPT, batches: Batches, plan: TrainingPlan, seconds: float) -> int:
    """How many steps fit into `seconds`, from a short trial on a copy; the trial's own time is taken off."""
    start = time.perf_counter()
    trial = train(copy.deepcopy(model), batches, TrainingPlan(**{**vars(plan), "steps": 1000}))
    next(trial)
    times = []
    while len(times) < 5 or (time.perf_counter() - start < min(3.0, seconds / 20) and len(times) < 900):
        before = time.perf_counter()
        next(trial)
        times.append(time.perf_counter() - before)
    left = seconds - (time.perf_counter() - start)
    return max(1, int(left / (sum(times) / len(times))))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def write_whole_folder(folder: Path, write) -> None:
    """Let `write(path)` fill a new folder, then move it to `folder`: whoever looks finds the whole one or none."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    for path in partial.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def save_checkpoint(folder: Path, model: GPT, optimizers: Optimizers, done: int, run: dict, keep: int = 2) -> None:
    """Write checkpoints/step-000123 in `folder`: a model folder, the optimizers' state, and what the run is."""

    def write(path):
        model.save_pretrained(path)
        save_file(
            {name: tensor.contiguous() for name, tensor in optimizers.tensors().items()},
            path / "optimizers.safetensors",
        )
        (path / "run.json").write_text(json.dumps(run | {"done": done}, indent=1), encoding="utf-8")

    write_whole_folder(folder / "checkpoints" / f"step-{done:06d}", write)
    for old in sorted((folder / "checkpoints").glob("step-??????"))[:-keep]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None."""
    return max((folder / "checkpoints").glob("step-??????"), default=None)


def load_checkpoint(path: Path, plan: TrainingPlan) -> tuple[GPT, Optimizers, int]:
    """Model, optimizers and number of steps done, to hand back to `train`."""
    model = GPT.from_pretrained(path).to(pick_device())
    optimizers = Optimizers(model, plan)
    optimizers.load_tensors(load_file(path / "optimizers.safetensors"))
    return model, optimizers, json.loads((path / "run.json").read_text(encoding="utf-8"))["done"]


# --- where finished models live --------------------------------------------------------------------------------------


def models_folder() -> Path:
    """Where grown models live: SPROUT_HOME if it is set, else data/models in the checkout, else the user's cache folder."""
    if home := os.environ.get("SPROUT_HOME"):
        return Path(home) / "models"
    checkout = SPROUT_FOLDER.parent
    if os.access(checkout, os.W_OK):
        return checkout / "models"
    home = Path.home() / ".cache" / "sprout"
    print(f"{checkout} cannot be written to, so models are kept in {home / 'models'}", file=sys.stderr)
    return home / "models"


def is_base(folder: str | Path) -> bool:
    """Whether the model in `folder` was grown here and only pretrained."""
    run = Path(folder) / "run.json"
    return run.is_file() and json.loads(run.read_text(encoding="utf-8")).get("stage") == "base"


def read_model(folder: str | Path | None = None, chat: bool = False) -> tuple[GPT, BPETokenizer]:
    """Model and tokenizer from a folder, by default the grown Sprout. chat: refuse a model that never learned to chat.

    Raises FileNotFoundError or ValueError, saying what to run instead.
    """
    folder = Path(folder) if folder else models_folder() / "sprout"
    if not folder.exists():
        raise FileNotFoundError(f"there is no model at {folder}; grow one with: python -m helpers train --out {folder}")
    model, tokenizer = GPT.from_pretrained(folder), BPETokenizer.load(folder)
    if chat and is_base(folder):
        raise ValueError(
            f"the model in {folder} continues text but was never taught to chat; use: python -m helpers complete "
            f"--model {folder} --prompt TEXT, or teach it with: python -m helpers train --from {folder} --data sprout"
        )
    return model, tokenizer
