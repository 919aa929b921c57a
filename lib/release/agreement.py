"""Whether two files hold the same model: how both rate the reference answers to some test prompts.

What is measured is not how good a model is, but whether a way of storing it has changed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib.config import Config
from lib.corpus import splits
from lib.evaluation import completions
from lib.model import loading, references
from lib.model.prompts import Example, asked, earlier, encode_example, to_messages, to_sharegpt
from lib.model.references import MOST_DIFFERENCE

PROMPTS, SEED = 32, 0
#: How often a stored model has the adapter's likeliest token. Measured as `MOST_DIFFERENCE` was: weights rounded to
#: bfloat16 agree on 99.7 to 99.9 % of them, and computing in bfloat16 too on 99.0 to 99.3 %.
LEAST_EQUAL = 0.95


class AgreementError(ValueError):
    """A stored model is not the one that was trained; the message has the value and its bound."""


@dataclass(frozen=True)
class Agreement:
    """How close one model is to another."""

    log_prob_difference: float
    """The mean absolute difference of the log-probabilities (nats) that both give to the tokens of the answers."""
    equal_greedy: float
    """The share of these tokens where both have the same likeliest token."""
    prompts: int
    tokens: int


@dataclass(frozen=True)
class Ratings:
    """What one model says of the answers, token by token: `log_probs` (nats) and `greedy` (ids), each (tokens,)."""

    log_probs: np.ndarray
    greedy: np.ndarray


def drawn(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """At most 32 test prompts of the clean protocol with their reference answers, drawn by a seed, in row order."""
    rows = completions.test_rows(config, splits.read(config))["clean"]
    places = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:PROMPTS])
    encoded = [
        encode_example(
            tokenizer,
            to_messages(to_sharegpt(prompt, output)),
            config.prompt,
            config.prompt.max_evaluation_tokens,
            earlier(prompt),
        )
        for prompt, output in zip(asked(rows.iloc[places]), rows["output"].iloc[places], strict=True)
    ]
    return [example for example in encoded if example is not None]


def of_adapter(config: Config, examples: Sequence[Example]) -> Ratings:
    """The ratings of the final adapter, beside its base model and not merged: what all others must agree with."""
    model = PeftModel.from_pretrained(loading.load_base(config.model), config.paths.final_adapter)
    return ratings(model.eval(), examples)


def ratings(model: PreTrainedModel | PeftModel, examples: Sequence[Example]) -> Ratings:
    """How a model rates the answers of some examples, each read on its own."""
    log_probs, greedy = [], []
    for example in examples:
        found = references.distributions(model, example)
        said = [token for token, kept in zip(example.input_ids, example.loss_mask, strict=True) if kept]
        answer = torch.tensor(said, device=found.device)
        log_probs.append(found.gather(-1, answer.unsqueeze(-1)).squeeze(-1).cpu().numpy())
        greedy.append(found.argmax(-1).cpu().numpy())
    return Ratings(np.concatenate(log_probs), np.concatenate(greedy))


def between(one: Ratings, other: Ratings, prompts: int) -> Agreement:
    """How close two models are, from their ratings of the same examples."""
    return Agreement(
        log_prob_difference=float(np.abs(one.log_probs - other.log_probs).mean()),
        equal_greedy=float((one.greedy == other.greedy).mean()),
        prompts=prompts,
        tokens=len(one.greedy),
    )


def require(found: Agreement, what: str) -> None:
    """Require that a stored model is close enough to the adapter.

    Raises:
        AgreementError: if it is not.
    """
    # Written so that a NaN does not pass.
    if not found.log_prob_difference <= MOST_DIFFERENCE:
        raise AgreementError(
            f"{what} rates the tokens of {found.prompts} reference answers differently from the adapter: by "
            f"{found.log_prob_difference:.4f} nats on average, above the bound of {MOST_DIFFERENCE}. It was removed"
        )
    if found.equal_greedy < LEAST_EQUAL:
        raise AgreementError(
            f"{what} has the adapter's likeliest token at {found.equal_greedy:.1%} of {found.tokens} tokens of "
            f"reference answers, below the bound of {LEAST_EQUAL:.0%}. It was removed"
        )
