"""The corpus: complete, deterministic, and its held-out part never seen in training."""

import random
import re
from itertools import islice

import pytest

from helpers.corpus import Corpus, Slots, misspell, read_source
from helpers.scores import NearestLine, RetrievalBaseline, held_out_items, is_well_formed, judge

FIXED = {
    "parameters": "about 1 million",
    "vocab_size": "1,024",
    "context_length": "256",
    "minutes": "a few minutes",
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


def normal(line: str) -> str:
    return re.sub(r"[^a-z0-9{} ]", "", line.lower()).strip()


def eight_grams(line: str) -> set[str]:
    words = normal(line).split()
    return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}


def test_every_topic_is_complete(corpus):
    assert len(corpus.topics) >= 150
    for name, topic in corpus.topics.items():
        assert len(topic["ask"]) >= 25 and len(topic["held_out"]) >= 6 and len(topic["answer"]) >= 6, name


def test_no_question_belongs_to_two_topics(corpus):
    owners = {}
    for name, topic in corpus.topics.items():
        for line in topic["ask"] + topic["held_out"]:
            assert owners.setdefault(normal(line), name) == name, line


def test_held_out_lines_and_values_never_stand_in_training(corpus):
    training = {normal(line) for topic in corpus.topics.values() for line in topic["ask"]}
    grams = {gram for topic in corpus.topics.values() for line in topic["ask"] for gram in eight_grams(line)}
    for name, topic in corpus.topics.items():
        for line in topic["held_out"]:
            assert normal(line) not in training and not eight_grams(line) & grams, (name, line)
    for name, values in corpus.lists.items():
        assert not set(values["train"]) & set(values["held_out"]), name


def test_expansion_is_deterministic_and_fills_every_slot(corpus):
    first, again = (list(islice(corpus.conversations(seed=1, fixed=FIXED), 300)) for _ in range(2))
    assert first == again != list(islice(corpus.conversations(seed=2, fixed=FIXED), 300))
    contents = [message["content"] for talk in first for message in talk]
    contents += list(corpus.texts(fixed=FIXED))
    assert not [text for text in contents if "{" in text]


def test_conversations_take_turns_and_repeat_back_what_was_told(corpus):
    for talk in islice(corpus.conversations(split="held_out", fixed=FIXED), 100):
        assert [message["role"] for message in talk] == ["user", "assistant"] * (len(talk) // 2)
        assert all(message["content"].strip() for message in talk)


def test_a_misspelling_changes_one_place():
    for seed in range(50):
        assert abs(len(misspell("wonderful", random.Random(seed))) - len("wonderful")) <= 1


def test_the_judge_accepts_authored_answers_and_rejects_others(corpus):
    items = [item for item in held_out_items(corpus, FIXED, n_memory=0) if "{" not in str(corpus.topics[item.kind])]
    nearest = NearestLine([(line, name) for name, topic in corpus.topics.items() for line in topic["answer"]])
    right = judge(items, [(corpus.topics[item.kind]["answer"][0], True) for item in items], nearest, corpus)
    wrong = judge(items, [("Bananas are yellow.", True)] * len(items), nearest, corpus)
    assert all(result.right for result in right)
    assert sum(result.right for result in wrong) <= 0.2 * len(wrong)


def test_the_baseline_finds_the_nearest_question():
    talk = [{"role": "user", "content": "What is a token?"}, {"role": "assistant", "content": "A piece of text."}]
    other = [{"role": "user", "content": "Tell me a joke"}, {"role": "assistant", "content": "No."}]
    baseline = RetrievalBaseline([talk, other])
    assert baseline.nearest(["what's a token"])[0][1] == "A piece of text."


@pytest.mark.parametrize(
    "reply, ended, well",
    [
        ("Fine.", True, True),
        ("Fine", True, False),
        ("Fine.", False, False),
        ("", True, False),
        ("a b c d " * 9 + ".", True, False),
    ],
)
def test_well_formed_replies(reply, ended, well):
    assert is_well_formed(reply, ended) == well


def test_files_of_others(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert read_source(tmp_path) == (["one", "two"], [])
    (tmp_path / "c.json").write_text('[{"instruction": "Add.", "input": "1 and 1", "output": "2"}]')
    texts, conversations = read_source(tmp_path / "c.json")
    assert conversations == [[{"role": "user", "content": "Add.\n\n1 and 1"}, {"role": "assistant", "content": "2"}]]


def test_what_is_said_about_a_fact_begins_with_its_value(corpus):
    for name, fact in corpus.facts.items():
        for key in ("told", "recall", "corrected"):
            assert all(line.startswith("{") for line in fact[key]), (name, key)
    slots = Slots(corpus, random.Random(0), "train", {})
    slots.values["colour"] = "dark green"
    assert slots.fill("{colour} it is. I like {colour}.") == "Dark green it is. I like dark green."


def test_sprout_thinks_before_every_reply_and_names_the_fact_both_times(corpus):
    thoughts, seen = set(corpus.thoughts), set()
    for talk in islice(corpus.conversations(fixed=FIXED), 300):
        for message in talk:
            assert (message["role"] == "assistant") == ("thoughts" in message)
            seen |= set(message.get("thoughts", []))
    assert seen <= thoughts and len(seen) > 200
    assert {"tell", "ask", "correct", *corpus.facts} <= seen
