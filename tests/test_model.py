"""Attention, blocks, cache and files: equal to plain loops, to themselves without a cache, and to stock transformers."""

import json
import math

import pytest
import torch
import transformers

from helpers.attention import KVCache, MultiHeadAttention, attention_weights, causal_mask
from helpers.embeddings import RotaryPositions, sinusoidal_positions
from helpers.gpt import GPT, GPTConfig, record
from helpers.sampling import generate

from .conftest import make_model


def attention_by_loops(layer: MultiHeadAttention, x):
    """softmax(q·k / √d) v, one number at a time."""
    batch, time, d_model = x.shape
    d = d_model // layer.n_heads
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    out = torch.zeros_like(x)
    for b in range(batch):
        for h in range(layer.n_heads):
            part = slice(h * d, (h + 1) * d)
            for t in range(time):
                scores = [math.exp(float(q[b, t, part] @ k[b, s, part]) / math.sqrt(d)) for s in range(t + 1)]
                for s in range(t + 1):
                    out[b, t, part] += scores[s] / sum(scores) * v[b, s, part]
    return layer.out(out)


@torch.no_grad()
def test_attention_equals_plain_loops():
    torch.manual_seed(0)
    layer = MultiHeadAttention(12, 3, bias=True)
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(layer(x), attention_by_loops(layer, x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_recorded_weights_are_the_ones_that_mix():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, rotary=RotaryPositions(4, 16), qk_norm=True)
    x = torch.randn(1, 5, 8)
    layer.recorded = []
    y = layer(x)
    weights = layer.recorded[0]
    mixed = weights @ layer.split_heads(layer.value(x))
    torch.testing.assert_close(layer.out(mixed.transpose(1, 2).flatten(2)), y)
    assert weights.triu(1).abs().max() == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 5))


def test_the_future_cannot_be_seen(model):
    ids = torch.randint(0, 300, (1, 12))
    changed = ids.clone()
    changed[0, 8:] = torch.randint(0, 300, (4,))
    assert torch.equal(model(ids)[:, :8], model(changed)[:, :8])
    assert not torch.allclose(model(ids)[:, 8:], model(changed)[:, 8:])


def test_causal_mask_with_a_cache():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True] * 4]
    weights = attention_weights(torch.randn(1, 1, 2, 4), torch.randn(1, 1, 4, 4))
    assert weights[0, 0, 0, 3] == 0 and weights[0, 0, 1, 3] > 0


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [1, 3, 8], [11, 1]])
def test_cache_equals_no_cache(model, cuts):
    ids = torch.randint(0, 300, (2, 12))
    cache = model.new_cache()
    parts = [model(part, cache) for part in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-5, rtol=1e-5)


def test_a_full_cache_says_so():
    cache = KVCache(4)
    cache.append(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    with pytest.raises(ValueError, match="4 tokens"):
        cache.append(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


@torch.no_grad()
def test_generation_past_the_window_equals_an_uncached_model(model):
    """The rule, spelled out without a cache: when the context is full, the oldest half is dropped."""
    limit = model.config.context_length
    window, expected = [1, 2, 3], []
    for _ in range(3 * limit):
        if len(window) > limit:
            window = window[-(limit // 2) :]
        expected.append(model(torch.tensor([window]))[0, -1].argmax().item())
        window.append(expected[-1])
    assert list(generate(model, [1, 2, 3], 3 * limit, temperature=0)) == expected


def test_rotary_depends_only_on_the_distance():
    rotary = RotaryPositions(8, 64)
    q, k = torch.randn(1, 8), torch.randn(1, 8)
    dots = [(rotary(q, start + 5) @ rotary(k, start).T).item() for start in (0, 3, 40)]
    assert max(dots) - min(dots) < 1e-5
    torch.testing.assert_close(rotary(q, 17).norm(), q.norm())


def test_sinusoidal_positions_are_the_papers_formula():
    table = sinusoidal_positions(10, 6)
    for p in range(10):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            assert abs(table[p, 2 * i] - math.sin(angle)) < 1e-5 and abs(table[p, 2 * i + 1] - math.cos(angle)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("block", ["gpt2", "modern"])
@pytest.mark.parametrize("tied", [True, False])
def test_stock_transformers_gives_the_same_logits(block, tied, tmp_path):
    model = make_model(block, tied_head=tied)
    model.save_pretrained(tmp_path)
    kind = {"gpt2": transformers.GPT2LMHeadModel, "modern": transformers.Qwen3ForCausalLM}[block]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(theirs, kind)
    ids = torch.randint(0, 300, (2, 20))
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "back")
    torch.testing.assert_close(GPT.from_pretrained(tmp_path / "back")(ids), model(ids), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_random_gpt2_of_transformers_opens(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=120, n_positions=24, n_embd=48, n_layer=3, n_head=6, bos_token_id=0, eos_token_id=0
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 120, (1, 24))
    torch.testing.assert_close(GPT.from_pretrained(tmp_path)(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_what_the_class_cannot_express_is_refused_by_name(tmp_path):
    make_model("modern").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in [
        ("num_key_value_heads", 2),
        ("hidden_act", "gelu"),
        ("model_type", "llama"),
        ("use_sliding_window", True),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(ValueError, match=key if key != "model_type" else "llama"):
            GPT.from_pretrained(tmp_path)


def test_damaged_folders_get_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a model folder"):
        GPT.from_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(ValueError, match="damaged"):
        GPT.from_pretrained(tmp_path)
    make_model(d_model=16).save_pretrained(tmp_path / "other")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="do not fit"):
        GPT.from_pretrained(tmp_path)


def test_recording_changes_nothing_and_sees_everything(model):
    ids = torch.randint(0, 300, (1, 9))
    with record(model) as trace:
        logits = model(ids)
    assert torch.equal(logits, model(ids))
    assert [tuple(weights.shape) for weights in trace.attention] == [(1, 4, 9, 9)] * 2
    assert [tuple(stream.shape) for stream in trace.stream] == [(1, 9, 32)] * 3
    torch.testing.assert_close(model.head(model.norm(trace.stream[-1])), logits)


def test_gpt2_has_gpt2s_parameter_count():
    with torch.device("meta"):
        assert GPT(GPTConfig.gpt2("124M")).n_parameters == 124_439_808


@pytest.mark.parametrize(
    "changes",
    [{"d_model": 30}, {"n_heads": 0}, {"block": "old"}, {"dropout": 1.0}, {"vocab_size": 0}, {"n_layers": 1.5}],
)
def test_impossible_configurations(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        GPTConfig(**(dict(vocab_size=300, context_length=32, d_model=32, n_layers=2, n_heads=4) | changes))


def test_too_many_tokens(model):
    with pytest.raises(ValueError, match="33 tokens do not fit"):
        model(torch.zeros(1, 33, dtype=torch.int64))
