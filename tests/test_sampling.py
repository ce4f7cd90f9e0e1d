"""Sampling: the filters against plain definitions, generation against itself in batches, streams and seeds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sampling import generate, generate_batch, keep_min_p, keep_top_k, keep_top_p, next_token_probabilities

logit_lists = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20)


def kept(filtered):
    return {i for i, value in enumerate(filtered.tolist()) if value != float("-inf")}


@settings(max_examples=200, deadline=None)
@given(logit_lists, st.integers(1, 25))
def test_top_k_keeps_the_k_most_likely(values, k):
    logits = torch.tensor(values)
    keep = kept(keep_top_k(logits, k))
    assert len(keep) == min(k, len(values))
    assert all(values[i] >= values[j] for i in keep for j in set(range(len(values))) - keep)


@settings(max_examples=200, deadline=None)
@given(logit_lists, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_that_reach_p(values, p):
    logits = torch.tensor(values)
    probs = logits.softmax(-1).double()
    keep = kept(keep_top_p(logits, p))
    mass = sum(probs[i].item() for i in keep)
    least = min(probs[i].item() for i in keep)
    assert mass >= p - 1e-5
    assert mass - least < p + 1e-5  # without its least likely token it would not reach p


@settings(max_examples=200, deadline=None)
@given(logit_lists, st.floats(0, 1))
def test_min_p_keeps_what_is_likely_enough(values, p):
    logits = torch.tensor(values)
    probs = logits.softmax(-1)
    assert kept(keep_min_p(logits, p)) == {i for i in range(len(values)) if probs[i] >= p * probs.max()}


@settings(max_examples=200, deadline=None)
@given(
    logit_lists,
    st.floats(0, 3),
    st.none() | st.integers(1, 9),
    st.none() | st.floats(0.1, 1),
    st.none() | st.floats(0, 1),
)
def test_the_result_is_a_distribution_that_never_loses_the_best_token(values, temperature, top_k, top_p, min_p):
    probs = next_token_probabilities(
        torch.tensor(values), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    if 0 < temperature < 1e-30:
        return  # the division overflows; nobody asks for that
    assert abs(probs.sum().item() - 1) < 1e-4
    assert max(probs[i] for i, value in enumerate(values) if value == max(values)) > 0


def test_frequencies_follow_the_distribution(model):
    probs = next_token_probabilities(model(torch.tensor([[1, 2]]))[0, -1].detach(), temperature=0.5, top_k=5)
    g = torch.Generator().manual_seed(0)
    drawn = [next(generate(model, [1, 2], 1, temperature=0.5, top_k=5, generator=g)) for _ in range(600)]
    for id in range(300):
        assert abs(drawn.count(id) / 600 - probs[id].item()) < 0.08


def test_batches_equal_single_prompts(model):
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12]]
    for stop in [(), (list(generate(model, prompts[0], 5, temperature=0))[3],)]:
        together = generate_batch(model, prompts, 12, temperature=0, stop_ids=stop)
        assert together == [list(generate(model, ids, 12, temperature=0, stop_ids=stop)) for ids in prompts]
    assert generate_batch(model, prompts, 0) == [[]] * 4 and generate_batch(model, [], 5) == []


def test_seeds_repeat_and_differ(model):
    def draw(seed):
        return list(generate(model, [1], 20, generator=torch.Generator().manual_seed(seed)))

    assert draw(0) == draw(0) != draw(1)
    batches = [generate_batch(model, [[1], [2, 3]], 9, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert batches[0] == batches[1]


def test_it_streams(model):
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    stream = generate(model, torch.tensor([1, 2]), 10)
    assert steps == []
    next(stream)
    assert len(steps) == 1


def test_the_stop_token_ends_and_is_not_yielded(model):
    greedy = list(generate(model, [1, 2, 3], 10, temperature=0))
    first = greedy.index(greedy[4])
    assert list(generate(model, [1, 2, 3], 10, temperature=0, stop_ids={greedy[4]})) == greedy[:first]


def test_dropout_is_off_while_writing_and_back_on_after():
    from .conftest import make_model

    model = make_model(dropout=0.5).train()
    assert list(generate(model, [1], 8, temperature=0)) == list(generate(model, [1], 8, temperature=0))
    assert model.training


def test_a_prompt_longer_than_the_context_keeps_its_newest_tokens(model):
    long = [i % 300 for i in range(100)]
    assert next(generate(model, long, 1, temperature=0)) == next(generate(model, long[-32:], 1, temperature=0))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(ids=[]), "no tokens"), (dict(ids=[300]), "300"), (dict(ids=[-1]), "-1"), (dict(max_new_tokens=-1), "-1"),
        (dict(temperature=-1), "temperature"), (dict(temperature=float("nan")), "temperature"), (dict(top_k=0), "top_k"),
        (dict(top_p=0), "top_p"), (dict(top_p=1.5), "top_p"), (dict(min_p=2), "min_p"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_before_the_first_token(model, arguments, said):
    with pytest.raises(ValueError, match=said):
        generate(model, **(dict(ids=[1], max_new_tokens=3) | arguments))
