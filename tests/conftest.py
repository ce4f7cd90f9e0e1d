"""Small things that many tests share."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from helpers.gpt import GPT, GPTConfig
from helpers.tokenizer import BPETokenizer

from .notebooks import ROOT

SHARED = ROOT.parent / "shared"
# What tests and re-executed notebooks grow must not replace the reader's own Sprout.
os.environ.setdefault("SPROUT_HOME", tempfile.mkdtemp(prefix="sprout-tests-"))
if (SHARED / "tiktoken_cache").is_dir():
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))

TEXT = (
    "the cat sat by the kettle because it was warm. the cat said: the kettle is warm, and the cat is warm. "
    "a snail went over the keys of the old computer, and it didn't mind at all. " * 3
)


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXT, vocab_size=300)


def make_model(block: str = "modern", seed: int = 0, **changes) -> GPT:
    """A tiny model with random weights everywhere, so that nothing is hidden by zeros."""
    shape = dict(vocab_size=300, context_length=32, d_model=32, n_layers=2, n_heads=4, block=block) | changes
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=["modern", "gpt2"])
def model(request) -> GPT:
    return make_model(request.param)


def need_shared(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{name} is not here; it is no part of the project")
    return path
