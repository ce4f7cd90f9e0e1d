"""The tokenizer: exact round trips, the same ids as others, deterministic training, special tokens only when allowed."""

import random
from collections import Counter

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tokenizer import END_OF_TEXT, GPT2_PATTERN, ROLE_TOKENS, BPETokenizer, merge_pair

from .conftest import TEXT, need_shared

ODD = [
    "", " ", "  ", "\n", "a\n\n b", "don't I'LL they've", "  two  spaces  ", "ünïcödé — “quotes”", "日本語のテキスト", "🙂🙃👩‍👩‍👧",
    "שלום עולם", "tab\tand\x00nul", "1234567 3.14", "\u00a0\u3000\x1c\x85", "x" * 500, "<|user|>Hi<|end|>", "a'l", "'ll 'lll",
]  # fmt: skip
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def reference_merges(text: str, n_merges: int) -> list[tuple[bytes, bytes]]:
    """BPE training as it is defined: recount every pair before every merge."""
    chunks = [list(chunk.encode()) for chunk in regex.findall(GPT2_PATTERN, text)]
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for chunk in chunks for pair in zip(chunk, chunk[1:], strict=False))
        if not counts:
            break
        pair = max(counts, key=lambda pair: (counts[pair], tokens[pair[0]], tokens[pair[1]]))
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        chunks = [merge_pair(chunk, pair, len(tokens) - 1) for chunk in chunks]
    return merges


def test_the_worked_example():
    tok = BPETokenizer.train("low low low lower lowest", vocab_size=264)
    assert tok.decode(tok.encode("slow lowlands")) == "slow lowlands"
    assert tok.merges[0] == (b"o", b"w")  # (l, o) is as frequent; the greater pair wins


@pytest.mark.parametrize("text", [TEXT, "aaaa aaa aaaaa aa", "abababab cdcd abcd", "\n".join(ODD)])
def test_incremental_training_finds_the_reference_merges(text):
    n_specials = 1 + len(ROLE_TOKENS)
    assert BPETokenizer.train(text, 256 + n_specials + 40).merges == reference_merges(text, 40)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abc ", min_size=1, max_size=60))
def test_training_equals_the_reference_on_any_text(text):
    assert BPETokenizer.train(text, 256 + 5 + 12).merges == reference_merges(text, 12)


def test_training_on_an_iterable_is_training_on_its_texts():
    assert (
        BPETokenizer.train(["the cat", "the kettle"], 270).merges
        == BPETokenizer.train(iter(["the cat", "the kettle"]), 270).merges
    )


def test_ids_are_bytes_then_merges_then_special_tokens(tokenizer):
    assert [tokenizer.vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert tokenizer.vocab_size == 300
    assert list(tokenizer.special_tokens) == [END_OF_TEXT, *ROLE_TOKENS]
    assert sorted(tokenizer.special_tokens.values()) == list(range(295, 300))


@settings(max_examples=300, deadline=None)
@given(any_text)
def test_any_text_comes_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_same_ids_as_tiktoken_and_hugging_face(tokenizer, text):
    expected = tokenizer.encode(text)
    assert tokenizer.to_tiktoken().encode_ordinary(text) == expected
    if not any(name in text for name in tokenizer.special_tokens):
        assert hugging_face(tokenizer).encode(text).ids == expected


def hugging_face(tokenizer, cache={}):  # noqa: B006
    if not cache:
        import json

        cache[0] = tokenizers.Tokenizer.from_str(json.dumps(tokenizer._to_huggingface()))
    return cache[0]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.to_tiktoken().encode_ordinary(text) == ids
    assert max(ids, default=0) < 295


def test_gpt2_vocabulary_gives_tiktokens_ids():
    try:
        reference = tiktoken.get_encoding("gpt2")
    except Exception as error:  # tiktoken wants to download it, and there is no network
        pytest.skip(f"GPT-2's vocabulary is not here: {error}")
    tok = BPETokenizer.from_tiktoken("gpt2")
    assert tok.vocab_size == 50257
    for text in [*ODD, TEXT]:
        assert tok.encode(text) == reference.encode(text, disallowed_special=())
    assert tok.encode("a<|endoftext|>", allowed_special="all") == reference.encode(
        "a<|endoftext|>", allowed_special="all"
    )


def test_save_and_load(tokenizer, tmp_path):
    for target in (tmp_path / "folder", tmp_path / "file.json"):
        tokenizer.save(target)
        loaded = BPETokenizer.load(target)
        assert (loaded.vocab, loaded.merges, loaded.special_tokens) == (
            tokenizer.vocab,
            tokenizer.merges,
            tokenizer.special_tokens,
        )


def test_another_pattern_survives_saving(tokenizer, tmp_path):
    tok = BPETokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern=r"\w+|\W")
    tok.save(tmp_path)
    assert BPETokenizer.load(tmp_path).encode("the cat's") == tok.encode("the cat's")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the cat's").ids == tok.encode(
        "the cat's"
    )


def test_special_tokens_only_where_allowed(tokenizer):
    end = tokenizer.special_tokens[END_OF_TEXT]
    assert end not in tokenizer.encode(END_OF_TEXT)
    assert tokenizer.encode(f"a{END_OF_TEXT}b", allowed_special={END_OF_TEXT}) == [97, end, 98]
    assert tokenizer.encode("<|user|>", allowed_special="all") == [tokenizer.special_tokens["<|user|>"]]
    assert tokenizer.special_tokens["<|user|>"] not in tokenizer.encode("<|user|>", allowed_special={END_OF_TEXT})
    with pytest.raises(ValueError, match="not a special token"):
        tokenizer.encode("a", allowed_special={"<|nope|>"})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("a l' \n.t1<|endoftext|>é"), max_size=12), max_size=12), st.booleans())
def test_streaming_gives_the_ids_of_the_whole_text(tokenizer, chunks, special):
    import helpers.tokenizer as module

    allowed = {END_OF_TEXT} if special else frozenset()
    before, module.STREAM_CHARACTERS = module.STREAM_CHARACTERS, 8
    try:
        assert list(tokenizer.encode_iterable(chunks, allowed)) == tokenizer.encode("".join(chunks), allowed)
    finally:
        module.STREAM_CHARACTERS = before


def test_streaming_wherever_the_text_is_cut(tokenizer, monkeypatch):
    monkeypatch.setattr("helpers.tokenizer.STREAM_CHARACTERS", 10)
    text = "they'll say  'll\n\n 12 <|endoftext|>  <|endoftext|>don't " * 4
    for allowed in (frozenset(), "all"):
        expected = tokenizer.encode(text, allowed)
        for seed in range(60):
            rng = random.Random(seed)
            cuts = sorted(rng.randrange(len(text)) for _ in range(rng.randrange(30)))
            chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
            assert list(tokenizer.encode_iterable(chunks, allowed)) == expected


def test_broken_bytes_become_the_replacement_character(tokenizer):
    assert tokenizer.decode([0xE2, 0x82]) == "\ufffd"
    assert tokenizer.decode_bytes([0xE2, 0x82]) == b"\xe2\x82"


def test_bad_input_is_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(ValueError, match="id 999 is not in the vocabulary"):
        tokenizer.decode([999])
    with pytest.raises(ValueError, match="at least 261"):
        BPETokenizer.train("a", vocab_size=100)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        BPETokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(ValueError, match="byte-level BPE"):
        BPETokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="same token"):
        BPETokenizer({**{i: bytes([i]) for i in range(256)}, 256: b"a"}, [], {})


def test_shakespeare_as_others_read_it(tmp_path):
    text = need_shared("tinyshakespeare.txt").read_text()
    tok = BPETokenizer.train(text, 1024)
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert tok.to_tiktoken().encode_ordinary(text) == ids
    tok.save(tmp_path)
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == ids
