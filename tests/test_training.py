"""Batches, loop and checkpoints: a batch can be learned by heart, a resumed run is the uninterrupted one."""

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from helpers.batches import IGNORED, Batches, pack, windows
from helpers.grow import add_practice
from helpers.training import (
    Optimizers,
    TrainingPlan,
    evaluate,
    latest_checkpoint,
    learning_rate_scale,
    load_checkpoint,
    save_checkpoint,
    train,
    write_whole_folder,
)

from .conftest import make_model


def random_batches(batch_size=4, n=16, length=16):
    ids = torch.randint(0, 300, (n * length + 1,), generator=torch.Generator().manual_seed(0))
    return Batches(*windows(ids, length), batch_size)


def test_windows_shift_by_one():
    x, y = windows(list(range(10)), context_length=3, stride=2)
    assert x.tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]
    assert torch.equal(y, x + 1)
    with pytest.raises(ValueError, match="4 tokens"):
        windows([1, 2, 3, 4], context_length=4)


def test_packing_keeps_documents_whole_and_learns_only_what_counts():
    documents = [([1, 2, 3], [0, 1, 1]), ([4, 5], [0, 1]), ([6] * 9, [1] * 9)]
    x, y = pack(documents, context_length=8, separator=99)
    assert x.tolist() == [[1, 2, 3, 99, 4, 5, 99, 99], [6] * 8]
    assert y.tolist() == [[2, 3, IGNORED, IGNORED, 5, IGNORED, IGNORED, IGNORED], [6] * 8]
    assert len(pack(documents, 8, 99, n_rows=1)[0]) == 1
    with pytest.raises(ValueError, match="nothing to learn"):
        pack([([1, 2], [0, 0])], 8, 99)


def test_batches_go_through_everything_once_per_epoch():
    batches = random_batches()
    rows = [tuple(row) for step in range(batches.steps_per_epoch) for row in batches[step][0].tolist()]
    assert len(set(rows)) == len(rows) == 16
    assert torch.equal(batches[7][0], batches[7][0])
    assert not torch.equal(batches[0][0], batches[batches.steps_per_epoch][0])


@pytest.mark.parametrize("block", ["modern", "gpt2"])
def test_a_small_model_learns_a_batch_by_heart(block):
    batches = random_batches(n=4)
    model = make_model(block)
    steps = list(train(model, batches, TrainingPlan(steps=150)))
    assert steps[0].loss > 4 and steps[-1].loss < 0.1
    assert not model.training


def test_the_loss_weighs_tokens_and_skips_what_does_not_count():
    batches = random_batches()
    x, y = batches[0]
    y[:, ::2] = IGNORED
    weights = torch.rand(300, generator=torch.Generator().manual_seed(1))
    model = make_model()
    logits, counts = model(x), y != IGNORED
    torch.testing.assert_close(model(x, only=counts), logits[counts])
    surprises = -logits.log_softmax(-1)[counts][range(counts.sum()), y[counts]]
    expected = (surprises * weights[y[counts]]).sum() / weights[y[counts]].sum()
    step = next(train(model, Batches(x, y, 4), TrainingPlan(steps=1), token_weights=weights))
    assert step.loss == pytest.approx(expected.item(), rel=1e-4)


def test_practice_is_a_share_of_the_rows_and_can_be_foretold():
    rows = windows(list(range(9 * 32 + 1)), 32)
    x, y = add_practice(rows, 0.25, vocab_size=300)
    assert len(x) == 12 and torch.equal(x[:9], rows[0]) and torch.equal(y[:9], rows[1])
    for ids, targets in zip(x[9:].tolist(), y[9:].tolist(), strict=True):
        period = next(t for t, target in enumerate(targets) if target != IGNORED)
        assert targets[period:] == ids[1 : len(ids) - period + 1]
    assert len(add_practice(rows, 0.0, 300)[0]) == 9


def test_every_parameter_has_exactly_one_optimizer():
    for block, tied in [("modern", False), ("modern", True), ("gpt2", True), ("gpt2", False)]:
        model = make_model(block, tied_head=tied)
        optimizers = Optimizers(model, TrainingPlan(steps=1))
        owned = [p for o in optimizers.all.values() for group in o.param_groups for p in group["params"]]
        assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))
        muon = {id(p) for group in optimizers.muon.param_groups for p in group["params"]}
        assert muon == {id(p) for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2}


def test_the_learning_rate_rises_holds_and_falls():
    scales = [learning_rate_scale(step, 100, warmup=0.1, decay=0.5) for step in range(100)]
    assert scales[:10] == sorted(scales[:10]) and scales[0] > 0
    assert scales[10:50] == [1.0] * 40
    assert scales[50:] == sorted(scales[50:], reverse=True) and 0 < scales[-1] < 0.05


def test_masked_targets_give_no_loss_and_no_gradient():
    model = make_model()
    x = torch.randint(0, 300, (1, 6))
    y = torch.tensor([[IGNORED, 5, IGNORED, IGNORED, 7, IGNORED]])
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    by_hand = -(model(x)[0].log_softmax(-1)[[1, 4], [5, 7]]).mean()
    torch.testing.assert_close(loss, by_hand)


def test_evaluation_is_the_mean_over_counted_tokens(tokenizer):
    model = make_model()
    x = torch.randint(0, 256, (5, 8))
    y = torch.randint(0, 256, (5, 8))
    y[0, :4] = IGNORED
    result = evaluate(model, x, y, tokenizer, batch_size=2)
    by_hand = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    assert abs(result.loss - by_hand) < 1e-5 and result.tokens == 36
    assert abs(result.perplexity - math.exp(by_hand)) < 1e-2
    assert abs(result.bits_per_byte - by_hand / math.log(2)) < 1e-4  # ids below 256 are one byte each


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_resuming_from_a_checkpoint_is_bit_identical(tmp_path):
    batches, plan = random_batches(), TrainingPlan(steps=12)
    whole = make_model()
    list(train(whole, batches, plan))

    part = make_model()
    optimizers = Optimizers(part, plan)
    list(islice(train(part, batches, plan, optimizers=optimizers), 5))
    save_checkpoint(tmp_path, part, optimizers, 5, {})
    model, optimizers, done = load_checkpoint(latest_checkpoint(tmp_path), plan)
    losses = list(train(model, batches, plan, optimizers=optimizers, done=done))
    assert done == 5 and losses[0].number == 6
    assert torch.equal(weights(model), weights(whole))


def test_a_checkpoint_is_whole_or_absent(tmp_path):
    model = make_model()
    optimizers = Optimizers(model, TrainingPlan(steps=1))
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, model, optimizers, step, {})
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000002", "step-000003"]

    def break_off(path):
        (path / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError):
        write_whole_folder(tmp_path / "checkpoints" / "step-000004", break_off)
    assert latest_checkpoint(tmp_path).name == "step-000003"


def test_a_loss_that_is_no_number_stops_the_run():
    model = make_model()
    steps = train(model, random_batches(), TrainingPlan(steps=5))
    next(steps)
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    before = model.token_embedding.weight.clone()
    with pytest.raises(FloatingPointError, match="step 2"):
        next(steps)
    assert torch.equal(model.token_embedding.weight, before)
