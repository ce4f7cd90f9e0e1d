"""Byte pair encoding: text to token ids and back. Taught in notebook 01.

Notable: training counts each distinct chunk once and updates pair counts only where a merge changed
something; encoding merges with a heap, so that a megabyte-long word still takes near-linear time;
special tokens are looked for only when the caller allows them, so that a user's text never becomes one.
"""

import codecs
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import regex

# GPT-2's pattern: contractions, words, numbers, other signs, white space (the last space joins the next word).
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END_OF_TEXT = "<|endoftext|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

Pair = tuple[bytes, bytes]
CACHED_CHUNKS = 1 << 16  # encode() remembers this many chunks; a limit, so that streaming takes constant memory
STREAM_CHARACTERS = 1 << 16  # encode_iterable() looks at the text in pieces of about this size


def byte_to_character() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, used inside tokenizer.json: 32 (a space) becomes 'Ġ'.

    Printable Latin-1 characters stand for themselves; the other 68 bytes take the characters from 256 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace every occurrence of `pair`, from left to right, by `new_id`.

    >>> merge_pair([1, 2, 3, 1, 2], (1, 2), 4)
    [4, 3, 4]
    >>> merge_pair([7, 7, 7], (7, 7), 8)  # occurrences do not overlap
    [8, 7]
    """
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


class _GreatestFirst(tuple):
    """A tuple that sorts from the greatest down: heapq always hands out the smallest."""

    __lt__ = tuple.__gt__


def learn_merges(chunk_counts: Counter, n_merges: int) -> list[Pair]:
    """The `n_merges` merges that BPE training finds: again and again, the most frequent pair becomes one token.

    chunk_counts: how often each chunk (bytes) occurs; a pair never crosses a chunk's edge. Equal counts go to
    the lexicographically greater pair of byte strings. Returns fewer merges if the text runs out of pairs.

    >>> learn_merges(Counter({b"low": 3, b"lot": 1}), n_merges=2)
    [(b'l', b'o'), (b'lo', b'w')]

    Sennrich et al. 2016, algorithm 1, made incremental: only chunks that hold the merged pair are touched.
    """
    tokens = [bytes([byte]) for byte in range(256)]
    chunks, weights = [list(chunk) for chunk in chunk_counts], list(chunk_counts.values())
    pair_counts, change, heap, merges = Counter(), Counter(), [], []
    holders = defaultdict(set)  # pair -> the chunks that (may) hold it

    def tally(index: int, sign: int) -> None:
        for pair in zip(chunks[index], chunks[index][1:], strict=False):
            change[pair] += sign * weights[index]
            holders[pair].add(index)

    for index in range(len(chunks)):
        tally(index, +1)
    while len(merges) < n_merges:
        for pair, difference in change.items():
            pair_counts[pair] += difference
            if difference and pair_counts[pair]:
                left, right = pair
                heapq.heappush(heap, _GreatestFirst((pair_counts[pair], tokens[left], tokens[right], pair)))
        change.clear()
        # Where a pair's count has changed, its old entry is still in the heap, beside the right one.
        while heap and heap[0][0] != pair_counts[heap[0][-1]]:
            heapq.heappop(heap)
        if not heap:
            break
        _, left, right, pair = heapq.heappop(heap)
        merges.append((left, right))
        tokens.append(left + right)
        for index in holders.pop(pair):
            tally(index, -1)
            chunks[index] = merge_pair(chunks[index], pair, len(tokens) - 1)
            tally(index, +1)
    return merges


class BPETokenizer:
    """A byte-level BPE tokenizer: any text in, ids out, and exactly the same text back.

    vocab: id -> bytes, without the special tokens. merges: pairs of byte strings, most important first.
    special_tokens: name -> id. Raises ValueError when ids clash or a merge's parts or result are not in the vocabulary.

    >>> tok = BPETokenizer.train("low low low lower lowest", vocab_size=264)
    >>> tok.merges
    [(b'o', b'w'), (b'l', b'ow'), (b' ', b'low')]
    >>> tok.encode("low lower")
    [257, 258, 101, 114]
    >>> tok.decode([257, 258, 101, 114])
    'low lower'
    """

    def __init__(
        self, vocab: dict[int, bytes], merges: list[Pair], special_tokens: dict[str, int], pattern: str = GPT2_PATTERN
    ):
        self.vocab = dict(vocab)
        self.merges = [tuple(pair) for pair in merges]
        self.special_tokens = dict(special_tokens)
        self.pattern = pattern
        self._ids = {token: id for id, token in self.vocab.items()}
        self._bytes = {id: name.encode() for name, id in self.special_tokens.items()}
        if len(self._ids) < len(self.vocab) or len(self._bytes) < len(self.special_tokens):
            raise ValueError("two ids stand for the same token; every token needs exactly one id")
        if clash := self._bytes.keys() & self.vocab.keys():
            raise ValueError(f"id {min(clash)} is that of an ordinary and of a special token; give the latter a new id")
        self._bytes |= self.vocab
        if missing := {bytes([byte]) for byte in range(256)} - self._ids.keys():
            raise ValueError(f"the vocabulary lacks {len(missing)} of the 256 single bytes, so some text has no ids")
        try:
            self._ranks = {
                (self._ids[left], self._ids[right]): (rank, self._ids[left + right])
                for rank, (left, right) in enumerate(self.merges)
            }
        except KeyError as error:
            raise ValueError(f"a merge uses the token {error.args[0]!r}, which is not in the vocabulary") from None
        self._byte_ids = [self._ids[bytes([byte])] for byte in range(256)]
        self._split = regex.compile(pattern)
        self._cache: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Highest id + 1: the number of rows an embedding table needs."""
        return max(self._bytes) + 1

    @classmethod
    def train(
        cls, texts: str | Iterable[str], vocab_size: int = 1024, special_tokens: Iterable[str] = (END_OF_TEXT,)
    ) -> "BPETokenizer":
        """Learn merges from `texts`. Ids: 256 bytes, then merges in order, then special tokens.

        vocab_size counts everything. The role tokens of the chat template are always reserved, so that any
        tokenizer can be taught to chat later. A text with too few pairs gives a smaller vocabulary than asked for.
        Raises ValueError when vocab_size has no room for the bytes and the special tokens.
        """
        specials = list(dict.fromkeys([*special_tokens, *ROLE_TOKENS]))
        n_merges = vocab_size - 256 - len(specials)
        if n_merges < 0:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {len(specials)} special tokens "
                f"need at least {256 + len(specials)}"
            )
        split = regex.compile(GPT2_PATTERN)
        chunk_counts: Counter = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            chunk_counts.update(split.findall(_checked(text)))
        merges = learn_merges(Counter({chunk.encode(): n for chunk, n in chunk_counts.items()}), n_merges)
        tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
        return cls(dict(enumerate(tokens)), merges, {name: len(tokens) + i for i, name in enumerate(specials)})

    def encode(self, text: str, allowed_special: Iterable[str] | str = frozenset()) -> list[int]:
        """Text to ids. Only special tokens named in `allowed_special` (or "all") are recognised.

        Elsewhere their spelling is ordinary text (tiktoken raises an error there; we would rather let people
        write about special tokens). Raises ValueError for a lone surrogate or an unknown special token.
        """
        special = self._special_pattern(allowed_special)
        ids = []
        for part in special.split(_checked(text)):
            ids.extend([self.special_tokens[part]] if special.fullmatch(part) else self.encode_ordinary(part))
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Text to ids, never a special one, whatever the text spells."""
        ids = []
        for chunk in self._split.findall(_checked(text)):
            ids.extend(self._encode_chunk(chunk))
        return ids

    def encode_iterable(
        self, chunks: Iterable[str], allowed_special: Iterable[str] | str = frozenset()
    ) -> Iterator[int]:
        """The ids of `encode("".join(chunks))`, one by one, in constant memory, wherever the text was cut."""
        special = self._special_pattern(allowed_special)
        pending, size, limit = [], 0, STREAM_CHARACTERS
        for chunk in chunks:
            pending.append(chunk)
            size += len(chunk)
            if size < limit:
                continue
            text = "".join(pending)
            cut = self._safe_cut(text, special)
            yield from self.encode(text[:cut], allowed_special)
            pending, size = [text[cut:]], len(text) - cut
            limit = max(STREAM_CHARACTERS, 2 * size)  # doubling: one endless word is not scanned over and over
        yield from self.encode("".join(pending), allowed_special)

    def _safe_cut(self, text: str, special: regex.Pattern) -> int:
        """A position in `text` where it may be cut: whatever follows, the ids before it stay the same."""
        start = max((match.end() for match in special.finditer(text)), default=0)
        longest = max(map(len, self.special_tokens), default=0)
        # What is still open: the last `longest` characters (half of a special token?), and before them
        # two matches, because "'" + "l" becomes one chunk "'ll" when another "l" follows.
        starts = [start]
        for match in self._split.finditer(text, start):
            if match.end() > len(text) - longest:
                break
            starts.append(match.start())
        return starts[-3] if len(starts) > 3 else start

    def _encode_chunk(self, chunk: str) -> list[int]:
        ids = self._cache.get(chunk)
        if ids is None:
            ids = self._merge([self._byte_ids[byte] for byte in chunk.encode()])
            if len(self._cache) < CACHED_CHUNKS and len(chunk) < 64:
                self._cache[chunk] = ids
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Apply the merges to one chunk, the earliest learned first, leftmost first.

        A heap of candidate merges over a linked list: n log n, where rescanning after each merge takes n².
        """
        ranks, n = self._ranks, len(ids)
        following = list(range(1, n + 1))
        previous = list(range(-1, n - 1))
        heap = []

        def offer(i, j):
            if i >= 0 and j < n and (found := ranks.get((ids[i], ids[j]))):
                heapq.heappush(heap, (found[0], i, ids[i], ids[j], found[1]))

        for i in range(n - 1):
            offer(i, i + 1)
        while heap:
            _, i, left, right, merged = heapq.heappop(heap)
            j = following[i]
            if ids[i] != left or j >= n or ids[j] != right:
                continue  # one of the two was merged with somebody else meanwhile
            ids[i], ids[j] = merged, -1
            following[i] = following[j]
            if following[i] < n:
                previous[following[i]] = i
            offer(previous[i], i)
            offer(i, following[i])
        return [id for id in ids if id >= 0]

    def _special_pattern(self, allowed_special: Iterable[str] | str) -> regex.Pattern:
        """A regex that finds the allowed special tokens; where none is allowed, it finds nothing."""
        names = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
        if unknown := names - self.special_tokens.keys():
            known = ", ".join(self.special_tokens) or "none"
            raise ValueError(f"{min(unknown)!r} is not a special token of this tokenizer; it has: {known}")
        # Longest first: where one name begins another, the longer one is meant. (?!) matches nowhere.
        names = sorted(names, key=len, reverse=True)
        return regex.compile("(" + ("|".join(map(regex.escape, names)) or "(?!)") + ")")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Ids to the exact bytes. Raises ValueError for an id that is not in the vocabulary."""
        try:
            return b"".join(self._bytes[int(id)] for id in ids)
        except KeyError as error:
            raise ValueError(f"id {error} is not in the vocabulary of {self.vocab_size} tokens") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; bytes that are not UTF-8 (half of a character, say) become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Ids to pieces of text as they come, together `decode(ids)`: half a character waits for its other half."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for id in ids:
            if piece := decoder.decode(self.decode_bytes([id])):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    @classmethod
    def from_tiktoken(cls, name: str = "gpt2") -> "BPETokenizer":
        """One of tiktoken's tokenizers, e.g. "gpt2". tiktoken downloads the vocabulary once, then keeps it.

        tiktoken stores no merges; each is found again by splitting a token with only the earlier ones allowed.
        """
        import tiktoken

        encoding = tiktoken.get_encoding(name)
        ranks = encoding._mergeable_ranks
        merges = [_last_merge(token, ranks) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
        vocab = {id: token for token, id in ranks.items()}
        return cls(vocab, merges, dict(encoding._special_tokens), pattern=encoding._pat_str)

    def to_tiktoken(self):
        """The same tokenizer as a `tiktoken.Encoding`: same ids, Rust speed."""
        import tiktoken

        # tiktoken merges in the order of the ids, which is the order of the merges in every BPE vocabulary.
        return tiktoken.Encoding(
            "sprout", pat_str=self.pattern, mergeable_ranks=dict(self._ids), special_tokens=self.special_tokens
        )

    def save(self, folder_or_file: str | Path, chat_template: str | None = None) -> None:
        """Write Hugging Face's tokenizer.json, and beside it tokenizer_config.json when given a folder."""
        path = _tokenizer_file(folder_or_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._to_huggingface(), ensure_ascii=False, indent=1), encoding="utf-8")
        if path != Path(folder_or_file):
            config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
            if END_OF_TEXT in self.special_tokens:
                config |= {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
            if chat_template:
                config |= {"chat_template": chat_template, "eos_token": ROLE_TOKENS[-1]}
            (path.parent / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder_or_file: str | Path) -> "BPETokenizer":
        """Read a tokenizer.json: ours, or another byte-level BPE's. Raises FileNotFoundError or ValueError."""
        path = _tokenizer_file(folder_or_file)
        if not path.is_file():
            raise FileNotFoundError(f"there is no tokenizer at {path}; train one, or name the folder that holds it")
        try:
            return cls(**_from_huggingface(json.loads(path.read_text(encoding="utf-8"))))
        except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a byte-level BPE tokenizer.json ({error!r})") from None

    def _to_huggingface(self) -> dict:
        character = byte_to_character()

        def spell(token: bytes) -> str:
            return "".join(character[byte] for byte in token)

        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        pre_tokenizer = byte_level  # GPT-2's pattern is built into ByteLevel
        if self.pattern != GPT2_PATTERN:
            split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
            pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        model = {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": {spell(token): id for id, token in sorted(self.vocab.items())},
            "merges": [[spell(left), spell(right)] for left, right in self.merges],
        }
        return {
            "version": "1.0",
            **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
            "added_tokens": [{"id": id, "content": name} | flags for name, id in self.special_tokens.items()],
            "pre_tokenizer": pre_tokenizer,
            "decoder": byte_level,
            "model": model,
        }


def _checked(text: str) -> str:
    """`text`, if it can be written as UTF-8; a clear ValueError otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at position {error.start}), "
            "which is half a character; repair the text first"
        ) from None
    return text


def _tokenizer_file(folder_or_file: str | Path) -> Path:
    path = Path(folder_or_file)
    return path if path.suffix == ".json" else path / "tokenizer.json"


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> Pair:
    """The two parts from which `token` was merged: apply all earlier merges to its bytes, and two parts are left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], float("inf")))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _from_huggingface(data: dict) -> dict:
    """The constructor's arguments from a tokenizer.json's content."""
    model = data["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or "ByteLevel" not in json.dumps(data["pre_tokenizer"]):
        raise ValueError("only byte-level BPE tokenizers can be loaded, and this file holds another kind")
    if data.get("normalizer") not in (None, {"type": "NFC"}):
        raise ValueError("this tokenizer normalises its text, which would break the exact round trip")
    byte = {character: byte for byte, character in byte_to_character().items()}
    special_tokens = {added["content"]: added["id"] for added in data.get("added_tokens", [])}
    vocab = {
        id: bytes(byte[character] for character in spelled)
        for spelled, id in model["vocab"].items()
        if special_tokens.get(spelled) != id
    }
    # Merges are written as ["a", "b"] since 2024 and as "a b" before.
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [tuple(bytes(byte[character] for character in part) for part in pair) for pair in pairs]
    pattern = GPT2_PATTERN
    for step in data["pre_tokenizer"].get("pretokenizers", []):
        if step["type"] == "Split":
            pattern = step["pattern"]["Regex"]
    return {"vocab": vocab, "merges": merges, "special_tokens": special_tokens, "pattern": pattern}
