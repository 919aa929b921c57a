"""How near two models are, and what is too far."""

from dataclasses import replace

import numpy as np
import pytest
import small_run
import torch

from lib.model.prompts import Example
from lib.release import agreement
from lib.release.agreement import Agreement, AgreementError, Ratings

NEAR = Agreement(log_prob_difference=0.001, equal_greedy=0.999, prompts=32, tokens=100)


def test_the_ratings_are_the_model_s_own_loss(tiny_model):
    example = Example([1, 5, 9, 2, 7], [0, 0, 1, 1, 1], False, False)
    found = agreement.ratings(tiny_model, [example])
    ids = torch.tensor([example.input_ids])
    labels = torch.tensor([[-100, -100, 9, 2, 7]])
    loss = tiny_model(input_ids=ids, labels=labels).loss.item()
    assert -found.log_probs.mean() == pytest.approx(loss, rel=1e-5)
    assert found.greedy.tolist() == tiny_model(input_ids=ids).logits[0, 1:4].argmax(-1).tolist()


def test_what_is_compared_is_each_token_and_each_choice():
    one = Ratings(np.array([-1.0, -2.0, -3.0, -4.0]), np.array([1, 2, 3, 4]))
    other = Ratings(np.array([-1.5, -1.5, -3.0, -4.0]), np.array([1, 2, 3, 9]))
    found = agreement.between(one, other, 2)
    # Differences of two directions do not cancel.
    assert found == Agreement(log_prob_difference=0.25, equal_greedy=0.75, prompts=2, tokens=4)


def test_what_is_near_passes():
    agreement.require(NEAR, "it")


@pytest.mark.parametrize("far", [agreement.MOST_DIFFERENCE * 1.01, float("nan"), float("inf")])
def test_too_far_is_refused_with_the_value_and_the_bound(far):
    with pytest.raises(
        AgreementError, match=rf"^it rates .* by .*nats on average, above the bound of {agreement.MOST_DIFFERENCE}"
    ):
        agreement.require(replace(NEAR, log_prob_difference=far), "it")


def test_too_many_other_choices_are_refused_with_the_value_and_the_bound():
    with pytest.raises(AgreementError, match=r"at 94\.0% of 100 tokens .*, below the bound of 95%"):
        agreement.require(replace(NEAR, equal_greedy=0.94), "it")


def test_at_most_32_test_prompts_are_drawn_by_a_seed(tokenizer, monkeypatch):
    config = small_run.make()[-1]
    drawn = agreement.drawn(config, tokenizer)
    assert len(drawn) == 24, "all test rows there are"
    answers = [[i for i, m in zip(e.input_ids, e.loss_mask, strict=True) if m] for e in drawn]
    texts = [tokenizer.decode(ids).removesuffix("<|eot_id|>") for ids in answers]
    assert texts == [small_run.reference(row) for row in range(24)]
    monkeypatch.setattr(agreement, "PROMPTS", 5)
    few = agreement.drawn(config, tokenizer)
    assert len(few) == 5 and few == agreement.drawn(config, tokenizer)
    assert few != drawn[:5], "they are drawn, not the first"
